"""`data.where`: which rows of a table are used, as in `View Position in PA,AP`."""

from __future__ import annotations

import math
import operator
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from engine.data.names import shown
from engine.data.problems import DatasetError

MOST_VALUES = 1000  # of a column that are counted, and combinations of them that are kept

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


class RowFilter:
    """Whether `data.where` chooses a row; counts the values of its columns.

    Raises DatasetError where the filter does not fit the table `name` with this header.
    """

    def __init__(self, where: str, header: list[str], name: str) -> None:
        try:
            self._clauses = [] if where == "none" else parse_where(where, header)
        except FilterError as error:
            raise DatasetError(f"{name}: {error}") from None
        self._places = {clause.column: header.index(clause.column) for clause in self._clauses}
        self._counts: dict[str, Counter[str]] = {column: Counter() for column in self._places}
        self._known: dict[tuple[str, ...], bool] = {}  # for the cells that many rows have
        self.needed = 1 + max(self._places.values(), default=-1)  # cells of a row

    def matches(self, row: list[str]) -> bool:
        """Whether all conditions hold."""
        if not self._clauses:
            return True
        cells = tuple([row[place] for place in self._places.values()])
        for counts, cell in zip(self._counts.values(), cells, strict=True):
            if cell in counts or len(counts) < MOST_VALUES:
                counts[cell] += 1
        if (known := self._known.get(cells)) is None:
            named = dict(zip(self._places, cells, strict=True))
            known = all(clause.matches(named) for clause in self._clauses)
            if len(self._known) < MOST_VALUES:
                self._known[cells] = known
        return known

    def values(self) -> list[str]:
        """A line for each column: its most frequent values with their counts."""
        return [
            f"{column} is {', '.join(f'{shown(v)} ({n:,})' for v, n in counts.most_common(20))}"
            for column, counts in self._counts.items()
        ]


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
