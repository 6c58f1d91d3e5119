"""Charts as SVG text: no script, no font, no request to any host. Colours follow the page's CSS."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 420, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 30, 44
# Okabe and Ito (2008): told apart with any colour vision; black is the text's own colour.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("", "7 4", "2 3", "9 3 2 3", "4 2", "1 2")


@dataclass(frozen=True)
class Series:
    """A line, or single points with `marks`; points that are not finite are gaps."""

    name: str
    points: Sequence[tuple[float, float]]
    marks: bool = False


@dataclass(frozen=True)
class Axis:
    """A linear scale; `low` and `high` are the ends, both drawn."""

    label: str
    low: float
    high: float
    whole: bool = False  # only whole numbers get a label


def axis_for(label: str, values: Sequence[float]) -> Axis:
    """An axis from 0 or the lowest to the highest finite value, with round ends."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return Axis(label, 0.0, 1.0)
    low, high = min(0.0, *finite), max(finite)
    if high <= low:
        high = low + 1.0
    step = _round_step((high - low) / 4)
    return Axis(label, math.floor(low / step) * step, math.ceil(high / step - 1e-9) * step)


def line_chart(
    title: str, series: Sequence[Series], x: Axis, y: Axis, diagonal: bool = False
) -> str:
    """Lines over two axes; `diagonal` draws the line of chance or of perfect calibration."""
    parts = [_frame(title, x, y)]
    if diagonal:
        parts.append(
            f'<line class="chance" x1="{_x(x, x.low)}" y1="{_y(y, y.low)}" '
            f'x2="{_x(x, x.high)}" y2="{_y(y, y.high)}"/>'
        )
    for number, one in enumerate(series):
        colour = PALETTE[number % len(PALETTE)]
        shown = [(a, b) for a, b in one.points if math.isfinite(a) and math.isfinite(b)]
        if one.marks:
            parts += [
                f'<circle cx="{_x(x, a)}" cy="{_y(y, b)}" r="4" fill="{colour}">'
                f"<title>{escape(one.name)}: {a:.4g}, {b:.4g}</title></circle>"
                for a, b in shown
            ]
        elif shown:
            places = " ".join(f"{_x(x, a)},{_y(y, b)}" for a, b in shown)
            dash = DASHES[number % len(DASHES)]
            parts.append(
                f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="2" '
                f'stroke-dasharray="{dash}"><title>{escape(one.name)}</title></polyline>'
            )
    return _svg(title, parts) + legend([one.name for one in series])


def legend(names: Sequence[str]) -> str:
    """Names beside a sample of their line; empty for a single series."""
    if len(names) < 2:
        return ""
    items = []
    for number, name in enumerate(names):
        colour, dash = PALETTE[number % len(PALETTE)], DASHES[number % len(DASHES)]
        sample = (
            f'<line x1="0" y1="6" x2="26" y2="6" stroke="{colour}" stroke-width="2" '
            f'stroke-dasharray="{dash}"/>'
        )
        items.append(
            f'<li><svg aria-hidden="true" width="28" height="12">{sample}</svg> {escape(name)}</li>'
        )
    return f'<ul class="legend">{"".join(items)}</ul>'


def _svg(title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg role="img" aria-label="{escape(title)}" viewBox="0 0 {WIDTH} {HEIGHT}">'
        + "".join(parts)
        + "</svg>"
    )


def _frame(title: str, x: Axis, y: Axis) -> str:
    """Title, axes, five ticks on each and their labels."""
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts = [f'<text class="strong" x="{LEFT}" y="16">{escape(title)}</text>']
    for step in range(5):
        a = x.low + (x.high - x.low) * step / 4
        b = y.low + (y.high - y.low) * step / 4
        parts.append(
            f'<line class="tick" x1="{LEFT}" y1="{_y(y, b)}" x2="{WIDTH - RIGHT}" y2="{_y(y, b)}"/>'
            f'<text class="soft" x="{LEFT - 6}" y="{float(_y(y, b)) + 4:.1f}" '
            f'text-anchor="end">{_tick(y, b)}</text>'
            f'<text class="soft" x="{_x(x, a)}" y="{HEIGHT - BOTTOM + 16}" '
            f'text-anchor="middle">{_tick(x, a)}</text>'
        )
    parts.append(
        f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x.label)}</text>'
        f'<text x="13" y="{(TOP + HEIGHT - BOTTOM) / 2}" text-anchor="middle" '
        f'transform="rotate(-90 13 {(TOP + HEIGHT - BOTTOM) / 2})">{escape(y.label)}</text>'
    )
    return "".join(parts)


def _tick(axis: Axis, value: float) -> str:
    return "" if axis.whole and value != round(value) else f"{value:.4g}"


def _place(x: Axis, value: float) -> float:
    share = (min(max(value, x.low), x.high) - x.low) / (x.high - x.low)
    return LEFT + share * (WIDTH - LEFT - RIGHT)


def _x(x: Axis, value: float) -> str:
    return f"{_place(x, value):.1f}"


def _y(y: Axis, value: float) -> str:
    share = (min(max(value, y.low), y.high) - y.low) / (y.high - y.low)
    return f"{HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM):.1f}"


def _round_step(rough: float) -> float:
    """The next of 1, 2, 2.5 and 5 times a power of ten."""
    power = 10 ** math.floor(math.log10(rough))
    return next(power * k for k in (1, 2, 2.5, 5, 10) if power * k >= rough * (1 - 1e-9))
