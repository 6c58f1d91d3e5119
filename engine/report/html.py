"""The frame of every report: one file that opens offline, prints well, and asks no host."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from html import escape
from typing import Any

UNDEFINED = "\N{EN DASH}"  # of a figure without a value

STYLE = """
:root { color-scheme: light dark; --text: #1a1a1a; --soft: #5a5a5a; --line: #d5d5d5;
  --back: #ffffff; --card: #f6f7f9; }
@media (prefers-color-scheme: dark) { :root { --text: #ececec; --soft: #a8a8a8; --line: #444;
  --back: #17181a; --card: #212327; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 62rem; background: var(--back);
  color: var(--text); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; }
p, li { max-width: 46rem; } .soft { color: var(--soft); } .lead { font-size: 1.15rem; }
table { border-collapse: collapse; margin: .5rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem .3rem 0; text-align: left; border-bottom: 1px solid var(--line);
  vertical-align: top; } td.number, th.number { text-align: right; }
td.number { white-space: nowrap; } table.pairs td:last-child { overflow-wrap: anywhere; }
@media (min-width: 40rem) { table.pairs td:first-child { white-space: nowrap; } }
tr.small td { color: var(--soft); }
.scroll { overflow-x: auto; } .warning { border-left: 4px solid #D55E00; padding: .2rem .8rem;
  margin: .6rem 0; background: var(--card); }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr));
  gap: 1rem; margin: 1rem 0; }
.charts > figure { margin: 0; padding: .5rem; background: var(--card); border-radius: 6px; }
svg { width: 100%; height: auto; } svg text { fill: var(--text); font-size: 12px; }
svg text.soft { fill: var(--soft); font-size: 12px; } svg text.strong { font-weight: 600; }
svg .tick { stroke: var(--line); } svg .chance { stroke: var(--soft); stroke-dasharray: 3 4; }
svg .box { fill: none; stroke: var(--soft); } svg .arrow { fill: none; stroke: var(--soft); }
ul.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1rem; margin: 0;
  padding: 0 .4rem .3rem; font-size: .85rem; } ul.legend svg { width: 28px; height: 12px; }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; } a { color: inherit; }
.contents { list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; padding: 0;
  font-size: .9rem; max-width: none; } figure.wide { margin: .5rem 0; max-width: 42rem; }
.flow .box { rx: 4px; } svg.flow { min-width: 34rem; } td { overflow-wrap: break-word; }
summary { cursor: pointer; margin: 1rem 0; }
.mistakes { display: grid; gap: 1rem; margin: .5rem 0;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 24rem), 1fr)); }
.mistakes figure { margin: 0; padding: .5rem; background: var(--card); border-radius: 6px; }
.mistakes img { width: 49%; height: auto; margin-right: 1%; }
.mistakes figcaption { font-size: .85rem; overflow-wrap: anywhere; }
.thumbnails { display: grid; gap: .4rem; margin: .3rem 0 .8rem;
  grid-template-columns: repeat(4, 1fr); }
@media (min-width: 40rem), print { .thumbnails { grid-template-columns: repeat(8, 1fr); } }
.thumbnails figure { margin: 0; } .thumbnails img { width: 100%; height: auto; display: block;
  border-radius: 3px; background: #000; }
.thumbnails figcaption { font-size: .8rem; line-height: 1.3; overflow-wrap: anywhere; }
.alike { display: grid; gap: 1rem; margin: .5rem 0; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 17rem), 1fr)); }
.alike section { padding: .5rem; background: var(--card); border-radius: 6px; }
.alike p { margin: .4rem 0 0; } .alike .thumbnails { margin: 0;
  grid-template-columns: repeat(2, 1fr); }
@page { margin: 15mm; }
@media print { :root { color-scheme: light; --text: #000; --soft: #444; --line: #bbb;
  --back: #fff; --card: #f6f7f9; } body { max-width: none; font-size: 10pt; padding: 0; }
  nav, details:not([open]) { display: none; } .scroll { overflow: visible; }
  .charts, .mistakes { grid-template-columns: 1fr 1fr; gap: .6rem; }
  tr, .mistakes figure, .thumbnails, .alike section, figure.wide,
  .charts > figure { break-inside: avoid; }
  h2, h3 { break-after: avoid; } }
"""


def page(title: str, parts: Iterable[str]) -> str:
    """A whole HTML document. `parts` are markup, already escaped."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'; img-src data:\">"
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>"
        + "\n".join(parts)
        + "</body></html>\n"
    )


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[Any]],
    numbers: bool = True,
    soft: Collection[int] = (),
) -> str:
    """A table; every column but the first is of numbers, unless `numbers` is false.

    The rows whose places are in `soft` are grey.
    """
    kinds = ["", *([' class="number"'] if numbers else [""]) * (len(head) - 1)]
    top = "".join(
        f'<th scope="col"{kind}>{escape(name)}</th>' for kind, name in zip(kinds, head, strict=True)
    )
    body = "".join(
        f"<tr{' class=small' if place in soft else ''}>"
        + "".join(
            f"<td{kind}>{escape(str(cell))}</td>" for kind, cell in zip(kinds, row, strict=True)
        )
        + "</tr>"
        for place, row in enumerate(rows)
    )
    inner = f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody>"
    kind = "" if numbers else ' class="pairs"'
    return f'<div class="scroll"><table{kind}>{inner}</table></div>'


def figure(markup: str) -> str:
    """A chart in its frame."""
    return f"<figure>{markup}</figure>"


def percent(value: float | None) -> str:
    """A share as a percentage; a dash where it is undefined."""
    return UNDEFINED if value is None or value != value else f"{100 * value:.1f} %"


def interval(bounds: Sequence[float | None] | None) -> str:
    """An interval of shares as percentages; a dash where it is undefined."""
    if bounds is None or any(bound is None or bound != bound for bound in bounds):
        return UNDEFINED
    return f"{100 * bounds[0]:.1f} to {100 * bounds[1]:.1f} %"  # type: ignore[operator]


def decimal_interval(bounds: Sequence[float | None] | None) -> str:
    """An interval as decimals; a dash where it is undefined."""
    if bounds is None or any(bound is None or bound != bound for bound in bounds):
        return UNDEFINED
    return f"{bounds[0]:.3f} to {bounds[1]:.3f}"


def decimal(value: float | None, digits: int = 3) -> str:
    """A number; a dash where it is undefined."""
    return UNDEFINED if value is None or value != value else f"{value:.{digits}f}"
