"""The flow of images, from those found to the parts of the split, as a diagram."""

from __future__ import annotations

from html import escape
from typing import Any

WIDTH, BOX, GAP = 640, 44, 26
SIDE_WIDTH = 250  # of a box of images left out


WORDS = {  # reason in the report on the data -> what the diagram says
    "missing": "named in the table and missing",
    "unreadable": "cannot be read",
    "unlisted": "without a row in the table",
    "outside": "outside the class folders",
    "dropped": "of a class that data.label_map drops",
    "uncertain": "with an uncertain label",
    "unmentioned": "without a mention of the disease",
    "filtered": "filtered by data.where",
}


def steps(validation: dict[str, Any]) -> list[tuple[str, int]]:
    """(why, images) of what was left out; only what there is. Missing ones come first."""
    flow = validation.get("flow") or {"unreadable": validation.get("unreadable_images", 0)}
    reasons = {"missing": validation.get("missing_images", 0), **flow}
    return [
        (WORDS.get(why, why.replace("_", " ")), count)
        for why, count in reasons.items()
        if why not in ("found", "used") and count
    ]


def flow_diagram(validation: dict[str, Any]) -> str:
    """SVG; empty where the report on the data is missing."""
    if "counts" not in validation:
        return ""
    left_out = steps(validation)
    used = int(validation["images"])
    remaining = used + sum(count for _, count in left_out)
    parts, y = [_box(0, 0, WIDTH - SIDE_WIDTH - 20, [f"{remaining:,} images in the data set"])], 0
    for why, count in left_out:
        parts.append(_arrow_out(y + BOX / 2 + (BOX + GAP) / 2, f"{count:,} {why}"))
        remaining -= count
        parts.append(_arrow_down(y + BOX))
        y += BOX + GAP
        last = (why, count) == left_out[-1]
        text = f"{remaining:,} images used" if last else f"{remaining:,} images"
        parts.append(_box(0, y, WIDTH - SIDE_WIDTH - 20, [text]))
    return _parts_of_split(validation, parts, y)


def _parts_of_split(validation: dict[str, Any], parts: list[str], y: float) -> str:
    negative, positive = validation["label_names"]
    counts = {n: c for n, c in validation["counts"].items() if sum(c.values())}
    named = validation.get("patient_ids", False)
    width = (WIDTH - 20 * (len(counts) - 1)) / len(counts)
    top = y + BOX + GAP
    for number, (name, of) in enumerate(counts.items()):
        x = number * (width + 20)
        lines = [f"{name}: {sum(of.values()):,} images", f"{of[positive]:,} {positive}"]
        lines.append(f"{of[negative]:,} {negative}")
        if named:
            lines.append(f"{validation['patients'][name]:,} patients")
        start = (WIDTH - SIDE_WIDTH - 20) / 2
        parts.append(
            f'<path class="arrow" d="M{start},{y + BOX} V{y + BOX + GAP / 2} '
            f'H{x + width / 2} V{top - 1}"/>'
        )
        parts.append(_box(x, top, width, lines))
    height = top + 18 * (4 if named else 3) + 14
    return (
        f'<svg role="img" aria-label="flow of images" class="flow" viewBox="-1 -1 {WIDTH + 2} '
        f'{height + 2:g}">' + "".join(parts) + "</svg>"
    )


def _box(x: float, y: float, width: float, lines: list[str]) -> str:
    height = BOX if len(lines) == 1 else 18 * len(lines) + 14
    first = y + (BOX / 2 + 5 if len(lines) == 1 else 22)
    texts = "".join(
        f'<text{" class=strong" if number == 0 else ""} x="{x + width / 2:g}" '
        f'y="{first + 18 * number:g}" text-anchor="middle">{escape(line)}</text>'
        for number, line in enumerate(lines)
    )
    return f'<rect class="box" x="{x:g}" y="{y:g}" width="{width:g}" height="{height}"/>{texts}'


def _arrow_down(y: float) -> str:
    x = (WIDTH - SIDE_WIDTH - 20) / 2
    return f'<path class="arrow" d="M{x:g},{y:g} V{y + GAP - 1:g}"/>'


def _arrow_out(y: float, text: str) -> str:
    x, left = (WIDTH - SIDE_WIDTH - 20) / 2, WIDTH - SIDE_WIDTH
    return (
        f'<path class="arrow" d="M{x:g},{y:g} H{left}"/>'
        f'<text class="soft" x="{left + 6}" y="{y + 4:g}">{escape(text)}</text>'
    )
