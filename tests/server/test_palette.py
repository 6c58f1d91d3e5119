"""The colours of the charts' series: told apart by everybody, in light and dark."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from .colour import DEFICIENCIES, ciede2000, contrast, lab

STYLE = Path(__file__).parents[2] / "server" / "static" / "style.css"


def colours(mode: str) -> dict[str, str]:
    """The colour variables of one mode."""
    light, _, dark = STYLE.read_text().partition("prefers-color-scheme: dark")
    text = light if mode == "light" else dark
    return dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6})", text))


@pytest.mark.parametrize(
    ("one", "other", "difference"),
    [
        ((50.0, 2.6772, -79.7751), (50.0, 0.0, -82.7485), 2.0425),
        ((50.0, 2.5, 0.0), (73.0, 25.0, -18.0), 27.1492),
        ((6.7747, -0.2908, -2.4247), (5.8714, -0.0985, -2.2286), 0.6377),
        ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
    ],
)
def test_ciede2000_as_its_authors_tabulate_it(
    one: tuple[float, float, float], other: tuple[float, float, float], difference: float
) -> None:
    assert ciede2000(one, other) == pytest.approx(difference, abs=1e-4)


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_any_two_series_differ_for_everybody(mode: str) -> None:
    found = colours(mode)
    series = [found[f"s{n}"] for n in range(8)]
    for deficiency in DEFICIENCIES:
        seen = [lab(colour, deficiency) for colour in series]
        for one, other in itertools.combinations(range(8), 2):
            difference = ciede2000(seen[one], seen[other])
            assert difference >= 12, f"{series[one]} and {series[other]}, {deficiency}"
    for colour in series:
        assert contrast(colour, found["card"]) >= 3, colour


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_text_and_edges_have_contrast(mode: str) -> None:
    found = colours(mode)
    for ground in ("ground", "card"):
        for name in ("text", "soft", "accent", "good", "bad", "warn"):
            assert contrast(found[name], found[ground]) >= 4.5, (name, ground)
        assert contrast(found["edge"], found[ground]) >= 3, "borders of inputs"
    assert contrast(found["accent"], found["accent-text"]) >= 4.5


def test_the_page_loads_its_modules_at_once() -> None:
    modules = {path.name for path in STYLE.parent.glob("*.js")} - {"app.js"}
    page = (STYLE.parent / "index.html").read_text()
    assert set(re.findall(r'modulepreload" href="/static/([a-z]+\.js)"', page)) == modules
    assert sum(path.stat().st_size for path in STYLE.parent.glob("*.js")) < 120_000
