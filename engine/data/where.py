"""`data.where`: which rows of a table are used, as in `View Position in PA,AP`."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

_CLAUSE = re.compile(
    r"\s*(?P<column>.+?)\s*(?P<sign>!=|>=|<=|=|>|<|\bnot in\b|\bin\b)\s*(?P<value>.+?)\s*"
)
_ORDER: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}


class FilterError(ValueError):
    """The filter cannot be read, or names a column that is not there."""


@dataclass(frozen=True)
class Clause:
    """One condition on one column; values are compared without case."""

    column: str
    sign: str  # =, !=, in, not in, >, >=, <, <=
    values: tuple[str, ...]

    def matches(self, row: Mapping[str, str]) -> bool:
        """Whether the row satisfies it. An empty cell is no number, and smaller than nothing."""
        cell = row[self.column].strip()
        if self.sign in _ORDER:
            number = _number(cell)
            return not math.isnan(number) and _ORDER[self.sign](number, float(self.values[0]))
        inside = any(_same(cell, value) for value in self.values)
        return inside if self.sign in ("=", "in") else not inside


def parse_where(text: str, columns: list[str]) -> list[Clause]:
    """Clauses joined by `and`; all must hold. Raises FilterError, naming the known columns.

    Columns are found without case, spaces and underscores.
    """
    known = {_plain(column): column for column in columns}
    clauses = []
    for part in re.split(r"\band\b", text):
        found = _CLAUSE.fullmatch(part)
        if found is None:
            raise FilterError(
                f"data.where: {part.strip()!r} is no condition; write COLUMN in A,B or COLUMN = A, "
                "!=, <, <=, >, >=, joined by and"
            )
        column = known.get(_plain(found["column"]))
        if column is None:
            raise FilterError(
                f"data.where: there is no column {found['column']!r}; there are "
                f"{', '.join(columns)}"
            )
        values = tuple(value.strip() for value in found["value"].split(","))
        if found["sign"] in _ORDER:
            values = (found["value"].replace(",", "."),)  # a decimal comma
        if found["sign"] in _ORDER and math.isnan(_number(values[0])):
            raise FilterError(
                f"data.where: {found['sign']} needs one number, not {found['value']!r}"
            )
        clauses.append(Clause(column, found["sign"], values))
    return clauses


def _same(cell: str, value: str) -> bool:
    if cell.casefold() == value.casefold():
        return True
    number = _number(value)
    return not math.isnan(number) and _number(cell) == number


def _number(text: str) -> float:
    try:
        return float(text.replace(",", "."))  # a decimal comma
    except ValueError:
        return math.nan


def _plain(name: str) -> str:
    return re.sub(r"[\s_]", "", name.casefold())
