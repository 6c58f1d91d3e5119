"""What do tables of NIH's and CheXpert's size take to read? `python -m benchmarks.tables`

Made rows in the two layouts, each in a process of its own: parsed, matched to their images by the
longest common end, and split by patient. The figure is the CPU time of the process (user and
system), which other processes on the machine disturb less than the clock; medians of the rounds.
No image is read.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.lib.usage import peak_bytes
from config import ConfigManager
from engine.data.finder import Finder
from engine.data.listed import match_rows
from engine.data.problems import Problems
from engine.data.split import split_records
from engine.data.table import TableFile, read_tables

ROWS = {"nih": 112_120, "chexpert": 223_414}
BAR_SECONDS, BAR_MB = 6.0, 700
ROOT = Path(__file__).parents[1]
NIH = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)
CHEXPERT = (
    "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,"
    "Lung Opacity,Lung Lesion,Edema,Consolidation,Pneumonia,Atelectasis,Pneumothorax,"
    "Pleural Effusion,Pleural Other,Fracture,Support Devices"
)


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write the JSON; 0 whatever the figures are."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--share", type=float, default=1.0, help="of the rows")
    options.add_argument("--only", choices=list(ROWS), help=argparse.SUPPRESS)
    given = options.parse_args(arguments)
    if given.only is not None:
        print(json.dumps(measure(given.only, int(ROWS[given.only] * given.share))))
        return 0
    from benchmarks.lib.record import write_result  # with torch, which is not to be measured

    figures: dict[str, Any] = {"bar_seconds": BAR_SECONDS, "bar_mb": BAR_MB}
    for name in ROWS:
        command = [sys.executable, "-m", "benchmarks.tables", "--only", name]
        command += ["--share", str(given.share)]
        rounds = [
            json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout)
            for _ in range(given.rounds)
        ]
        figures[name] = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
        figures[name]["seconds_highest"] = max(one["seconds"] for one in rounds)
        print(
            f"{name}: {figures[name]['rows']:,} rows in {figures[name]['seconds']:.2f} s of CPU "
            f"(parse {figures[name]['parse']:.2f}, match {figures[name]['match']:.2f}, split "
            f"{figures[name]['split']:.2f}; highest {figures[name]['seconds_highest']:.2f}), peak "
            f"{figures[name]['peak_mb']:.0f} MB; the bar is {BAR_SECONDS:g} s and {BAR_MB} MB"
        )
    print("written to", write_result("tables", vars(given), figures))
    return 0


def measure(name: str, rows: int) -> dict[str, float]:
    """CPU seconds of each step and the process's peak memory."""
    names, content, keys = MADE[name](rows)
    data = ConfigManager.load(overrides=keys, environ={}).data
    problems = Problems()
    at = [time.process_time()]
    table = read_tables([TableFile("table.csv", content)], data, problems)
    at.append(time.process_time())
    records = match_rows(table, Finder(names), data, problems).records
    at.append(time.process_time())
    split_records(
        np.array([record.label for record in records]),
        [record.patient for record in records],
        names[: len(records)],  # no two images have the same pixels
        [record.split for record in records],
        validation_split=0.2,
        test_split=0.1,
        seed=42,
    )
    at.append(time.process_time())
    if problems.count:
        raise RuntimeError(f"{problems.count} problems in made rows: {problems.listed()[:3]}")
    parse, match, split = (later - earlier for earlier, later in itertools.pairwise(at))
    if sys.platform == "linux":  # whose ru_maxrss a child has from its parent
        peak = peak_bytes(os.getpid()) / 1e6
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    times = {"parse": parse, "match": match, "split": split, "seconds": at[-1] - at[0]}
    return {"rows": rows, "records": len(records), **times, "peak_mb": peak}


def nih(rows: int) -> tuple[list[str], bytes, dict[str, Any]]:
    """Names of images, the table and the keys; findings joined by |, about 4 images a patient."""
    rng = random.Random(0)
    kinds = ["No Finding", "Effusion|Pneumonia", "Mass", "Pneumonia", "Infiltration|Nodule|Mass"]
    names, lines = [], [NIH]
    for n in range(rows):
        file = f"{n // 4:08}_{n % 4:03}.png"
        names.append(f"images_{1 + n // 10_000:03}/images/{file}")
        age, spacing = rng.randrange(1, 95), f"{rng.choice((0.143, 0.168, 0.194))}"
        view = rng.choice("MF") + "," + rng.choice(("PA", "AP"))
        size = f"{rng.randrange(2000, 3000)},{rng.randrange(2000, 3000)}"
        kind = rng.choice(kinds)
        lines.append(f"{file},{kind},{n % 4},{n // 4},{age},{view},{size},{spacing},{spacing},")
    return names, "\n".join(lines).encode(), {"data.where": "View Position in PA,AP"}


def chexpert(rows: int) -> tuple[list[str], bytes, dict[str, Any]]:
    """Likewise; paths from above, patients in them, one image in seven lateral, as there."""
    rng = random.Random(0)
    cells = ("1.0", "0.0", "-1.0", *[""] * 11)
    names, lines = [], [CHEXPERT]
    for n in range(rows):
        kind = "lateral" if n % 7 == 6 else "frontal"
        name = f"train/patient{n // 4:05}/study{1 + n // 2 % 2}/view{1 + n % 2}_{kind}.jpg"
        names.append(name)
        found = ",".join(rng.choices(cells, k=14))
        who = f"{rng.choice(('Female', 'Male'))},{rng.randrange(18, 91)}"
        view = "Lateral," if kind == "lateral" else f"Frontal,{rng.choice(('AP', 'PA'))}"
        lines.append(f"CheXpert-v1.0-small/{name},{who},{view},{found}")
    keys = {
        "data.patient_pattern": r"patient\d+",
        "data.label_column": "Pneumonia",
        "data.uncertain": "drop",
        "data.unmentioned": "negative",
        "data.where": "Frontal/Lateral in Frontal,Lateral",
    }
    return names, "\n".join(lines).encode(), keys


MADE = {"nih": nih, "chexpert": chexpert}


if __name__ == "__main__":
    sys.exit(main())
