"""`data.join`: tables whose columns are added to another's, row by row."""

from __future__ import annotations

from collections.abc import Iterator

from engine.data.columns import SHOWN, plain_name
from engine.data.csv_rows import read_rows
from engine.data.names import shown
from engine.data.problems import DatasetError, Problems

Rows = Iterator[tuple[int, list[str]]]


def join(
    rows: Rows,
    header: list[str],
    name: str,
    other: str,
    content: bytes,
    alone: set[int],
    problems: Problems,
) -> tuple[Rows, list[str]]:
    """The rows and the header of table `name` with the columns of table `other` after them.

    Rows belong together that agree in all columns of the same name. A row without a partner gets
    empty cells, and its line is added to `alone`. Raises DatasetError where no column is common.
    """
    theirs = read_rows(content, other)
    added = next(theirs, (0, []))[1]
    places = {plain_name(column): at for at, column in enumerate(header)}
    common = [(places[p], at) for at, c in enumerate(added) if (p := plain_name(c)) in places and p]
    if not common:
        raise DatasetError(
            f"{other} cannot be joined to {name}: they have no column of the same name; there are "
            f"{shown(', '.join(header[:SHOWN]))} and {shown(', '.join(added[:SHOWN]))}"
        )
    ours, key = [at for at, _ in common], [at for _, at in common]
    rest = [at for at in range(len(added)) if at not in key]
    partners: dict[tuple[str, ...], list[str]] = {}
    equal: dict[str, str] = {}  # cells that many rows have are kept once
    for line, row in theirs:
        row.extend([""] * (len(added) - len(row)))
        cells = [equal.setdefault(row[at], row[at]) for at in rest]
        if partners.setdefault(tuple([row[at] for at in key]), cells) != cells:
            which = ", ".join(f"{added[at]}={shown(row[at])}" for at in key)
            message = f"{other} line {line}: another row with {which} says something else"
            problems.add("join", message)
    return (
        _joined(rows, len(header), ours, partners, len(rest), alone),
        [*header, *(added[at] for at in rest)],
    )


def _joined(
    rows: Rows,
    width: int,
    key: list[int],
    partners: dict[tuple[str, ...], list[str]],
    added: int,
    alone: set[int],
) -> Rows:
    nothing = [""] * added
    for line, row in rows:
        row.extend([""] * (width - len(row)))
        partner = partners.get(tuple([row[at] for at in key]))
        if partner is None:
            alone.add(line)
        yield line, [*row[:width], *(nothing if partner is None else partner)]
