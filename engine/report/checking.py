"""Check a data set: prepare it as a run would, and describe what was found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config import Config
from engine.data.cache import Progress
from engine.data.prepare import Prepared, prepare
from engine.report.check_page import check_page, headline
from engine.report.contact import alike, contact_sheet
from engine.report.overview import overview

Rehearse = Callable[[Prepared, Config], tuple[dict[str, Any], list[str]]]


@dataclass(frozen=True)
class Checked:
    """What was found: as data, as words and as a page."""

    document: dict[str, Any]  # JSON-able but for non-finite numbers
    page: str  # HTML

    def lines(self) -> list[str]:
        """The document in words, for a terminal."""
        document, report = self.document, self.document["report"]
        flow = {why: count for why, count in report["flow"].items() if why not in ("found", "used")}
        left_out = ", ".join(f"{count:,} {why}" for why, count in flow.items() if count)
        lines = [
            headline(document),
            f"flow: {report['flow']['found']:,} found, {report['flow']['used']:,} used"
            + (f"; {left_out}" if left_out else ""),
        ]
        (w1, w2, w3), (h1, h2, h3) = report["sizes"]["width"], report["sizes"]["height"]
        modes = ", ".join(f"{mode} ({count:,})" for mode, count in report["modes"].items())
        lines.append(f"sizes: {w1} to {w3} x {h1} to {h3}, median {w2} x {h2}; stored as {modes}")
        if report["bits_in_use"]:
            lines.append(f"bits of 16-bit images: {report['bits_in_use']}")
        for name, of in document["intensity"].items():
            lines.append(
                f"grey levels of {name}: mean {of['mean']:.1f}, deviation {of['deviation']:.1f}, "
                f"{100 * of['black']:.1f} % black, {100 * of['white']:.1f} % white"
            )
        for one in document["columns"]:
            values = ", ".join(f"{g['value']} ({g['images']:,})" for g in one["groups"])
            alone = "" if one["alone"] is None else f"; AUROC alone {one['alone']:.3f}"
            lines.append(f"{one['column']}: {values}{alone}")
        duplicates, split = report["exact_duplicates"], report["split"]
        lines.append(
            f"identical images: {duplicates['surplus_images']:,} surplus copies in "
            f"{duplicates['groups']:,} groups, {duplicates['with_two_labels']:,} with two labels"
        )
        lines.append(
            f"between the parts: {split['shared_patients']} patients shared, "
            f"{split['shared_pixels']} images shared, {split['near_duplicates']} pairs of nearly "
            "identical images"
        )
        lines += document["rehearsal_words"]
        return lines + [f"warning: {text}" for text in report["warnings"]]


def check_dataset(
    path: Path,
    name: str,
    config: Config,
    progress: Progress | None = None,
    rehearse: Rehearse | None = None,
) -> Checked:
    """Prepare the data set at `path`, which people know as `name`, and describe it.

    Raises UserError with everything that is wrong.
    """
    data = prepare(path, config, progress)
    figures, words = rehearse(data, config) if rehearse is not None else (None, [])
    document = {
        "dataset": name,
        "image_size": config.data.image_size,
        "fit": config.data.fit,
        "report": data.report,
        **overview(data),
        "rehearsal": figures,
        "rehearsal_words": words,
    }
    shown = config.report.images
    sheet = contact_sheet(data, config) if shown else []
    identical, nearly = alike(data) if shown else ([], [])
    return Checked(document, check_page(document, sheet, identical, nearly))
