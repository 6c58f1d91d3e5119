"""Bar charts as SVG text, for counts of a few groups in several series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from engine.report.svg import PALETTE

WIDTH, HEIGHT = 420, 282
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 30, 26
LONGEST = 12  # characters of a group's name below its bars


def bar_chart(
    title: str, groups: Sequence[str], series: Mapping[str, Sequence[int]], unit: str = "images"
) -> str:
    """One group of bars for each of `groups`, a bar for each series; a legend where there are two.

    `series` maps a name to its counts of `unit`, one for each group.
    """
    highest = max((count for counts in series.values() for count in counts), default=0)
    step = _whole_step(highest)
    high = step * max(1, -(-highest // step))
    span, bottom = HEIGHT - TOP - BOTTOM, HEIGHT - BOTTOM
    parts = [f'<text class="strong" x="{LEFT}" y="16">{escape(title)}</text>']
    for value in range(0, high + 1, step):
        at = bottom - span * value / high
        parts.append(
            f'<line class="tick" x1="{LEFT}" y1="{at:.1f}" x2="{WIDTH - RIGHT}" y2="{at:.1f}"/>'
            f'<text class="soft" x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{value:,}</text>'
        )
    wide = (WIDTH - LEFT - RIGHT) / max(1, len(groups))
    bar = wide * 0.8 / max(1, len(series))
    every = -(-len(groups) * 9 * max(4, *map(len, groups), 4) // (WIDTH - LEFT)) or 1
    for number, group in enumerate(groups):
        start = LEFT + wide * (number + 0.1)
        for place, (name, counts) in enumerate(series.items()):
            tall = span * counts[number] / high
            parts.append(
                f'<rect x="{start + bar * place:.1f}" y="{bottom - tall:.1f}" width="{bar:.1f}" '
                f'height="{tall:.1f}" fill="{PALETTE[place % len(PALETTE)]}">'
                f"<title>{escape(group)}, {escape(name)}: {counts[number]:,}</title></rect>"
            )
        if number % every == 0:
            text = (
                group if len(group) <= LONGEST else f"{group[: LONGEST - 1]}\N{HORIZONTAL ELLIPSIS}"
            )
            parts.append(
                f'<text class="soft" x="{LEFT + wide * (number + 0.5):.1f}" y="{bottom + 16}" '
                f'text-anchor="middle">{escape(text)}</text>'
            )
    parts.append(
        f'<text x="13" y="{(TOP + bottom) / 2}" text-anchor="middle" '
        f'transform="rotate(-90 13 {(TOP + bottom) / 2})">{escape(unit)}</text>'
    )
    chart = (
        f'<svg role="img" aria-label="{escape(title)}" viewBox="0 0 {WIDTH} {HEIGHT}">'
        + "".join(parts)
        + "</svg>"
    )
    return chart + _legend(list(series))


def _legend(names: Sequence[str]) -> str:
    if len(names) < 2:
        return ""
    items = "".join(
        f'<li><svg aria-hidden="true" width="28" height="12"><rect y="1" width="24" height="10" '
        f'fill="{PALETTE[number % len(PALETTE)]}"/></svg> {escape(name)}</li>'
        for number, name in enumerate(names)
    )
    return f'<ul class="legend">{items}</ul>'


def _whole_step(highest: int) -> int:
    """Between ticks: 1, 2 or 5 times a power of ten, for at most six of them."""
    power = 1
    while True:
        for factor in (1, 2, 5):
            if highest <= 5 * factor * power:
                return factor * power
        power *= 10
