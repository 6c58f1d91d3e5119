"""A run as one file: into another database and back, or refused with nothing left behind."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from config import Config, ConfigManager, UserError
from engine.records.database import connect, create_run_sync, get_run_sync, metrics_sync
from engine.records.log import METRIC_COLUMNS
from engine.records.packing import CONTENTS, FILES, pack, unpack

PICTURE = '<img alt="heat map" src="data:image/jpeg;base64,AAAA">'


def config_in(folder: Path) -> Config:
    keys = ("checkpoint_dir", "log_dir", "results_dir", "cache_dir")
    overrides = {f"output.{key}": str(folder / key) for key in keys}
    overrides["output.database"] = str(folder / "pneumoscope.db")
    return ConfigManager.load(overrides=overrides, environ={})


@pytest.fixture
def made(tmp_path: Path) -> tuple[Config, int]:
    """A completed run with every kind of file, two epochs and four events."""
    config = config_in(tmp_path / "hospital")
    database = Path(config.output.database)
    database.parent.mkdir()
    run_id = create_run_sync(
        database, run_name="é", tags=["a"], status="completed", config=config.to_dict(),
        best_epoch=2, dataset_path="/data/x.zip", manifest={"seeds": {}},
    )  # fmt: skip
    output = config.to_dict()["output"]
    for name, (key, file) in FILES.items():
        path = Path(output[key]) / file.format(run_id)
        text = json.dumps({"run_id": run_id, "best_recall": 0.9})
        path.write_text(f"<p>{PICTURE}</p>" if name == "report.html" else text)
    with connect(database) as connection:
        marks = ", ".join("?" * (len(METRIC_COLUMNS) + 1))
        for epoch in (1, 2):
            connection.execute(
                f"INSERT INTO run_metrics (run_id, {', '.join(METRIC_COLUMNS)}) VALUES ({marks})",
                (run_id, epoch, *(0.1 * epoch for _ in METRIC_COLUMNS[1:])),
            )
        for event in ("training_started", "training_metrics_update", "system_metrics", "warning"):
            connection.execute(
                "INSERT INTO event (run_id, at, event, payload) VALUES (?, 'now', ?, ?)",
                (run_id, event, json.dumps({"epoch": 2, "message": "ü"})),
            )
    return config, run_id


def events_of(config: Config, run_id: int) -> list[tuple[Any, ...]]:
    query = "SELECT at, event, payload FROM event WHERE run_id = ? ORDER BY event_id"
    with connect(Path(config.output.database)) as connection:
        return [tuple(row) for row in connection.execute(query, (run_id,))]


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_run_appears_whole_in_another_database(made: tuple[Config, int], tmp_path: Path) -> None:
    config, run_id = made
    packed = tmp_path / "run.zip"
    pack(Path(config.output.database), run_id, packed)
    team = config_in(tmp_path / "team")
    database = Path(team.output.database)
    database.parent.mkdir()
    create_run_sync(database, run_name="another", config=team.to_dict(), status="completed")
    number = unpack(packed, team)
    assert number == 2
    before = get_run_sync(Path(config.output.database), run_id)
    after = get_run_sync(database, number)
    assert before is not None
    assert after is not None
    for name in ("run_uid", "run_name", "tags", "status", "best_epoch", "manifest", "created_at"):
        assert after[name] == before[name]
    assert after["config"]["output"] == team.to_dict()["output"]
    assert after["pid"] is None
    ours, theirs = (
        [{n: row[n] for n in METRIC_COLUMNS} for row in metrics_sync(Path(c.output.database), i)]
        for c, i in ((config, run_id), (team, number))
    )
    assert ours == theirs
    kept = [event for event in events_of(config, run_id) if event[1] != "system_metrics"]
    assert events_of(team, number) == kept
    output = team.to_dict()["output"]
    for key, file in FILES.values():
        assert (Path(output[key]) / file.format(number)).is_file()
    result = json.loads((Path(output["results_dir"]) / "result_2.json").read_text())
    assert result == {"run_id": 2, "best_recall": 0.9}
    with pytest.raises(UserError, match="already, as run 2"):
        unpack(packed, team)


@pytest.mark.parametrize("images", [False, True])
def test_images_come_only_where_they_are_asked_for(
    made: tuple[Config, int], tmp_path: Path, images: bool
) -> None:
    config, run_id = made
    pack(Path(config.output.database), run_id, tmp_path / "run.zip", images)
    with zipfile.ZipFile(tmp_path / "run.zip") as archive:
        everything = b"".join(archive.read(name) for name in archive.namelist())
    assert (b"data:image" in everything) == images


def change(packed: Path, edit: Callable[[dict[str, bytes]], None]) -> None:
    with zipfile.ZipFile(packed) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    edit(contents)
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)


def edited(**changes: Any) -> Callable[[dict[str, bytes]], None]:
    def edit(contents: dict[str, bytes]) -> None:
        contents[CONTENTS] = json.dumps({**json.loads(contents[CONTENTS]), **changes}).encode()

    return edit


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (
            lambda contents: contents.update({"best_model.pt": b"other"}),
            "checksum of best_model.pt",
        ),
        (lambda contents: contents.pop("scores.csv"), "scores.csv"),
        (lambda contents: contents.pop(CONTENTS), "no packed run"),
        (edited(format=99), "format 99"),
        (edited(files={"../../evil": "x"}), "unknown content"),
        (edited(metrics=[{"epoch": 1}]), "no packed run, or is damaged"),
        (edited(config={"system": {"sped": 1}}), "sped"),
    ],
)
def test_what_is_no_sound_pack_leaves_nothing(
    made: tuple[Config, int], tmp_path: Path, edit: Callable[[dict[str, bytes]], None], said: str
) -> None:
    config, run_id = made
    packed = tmp_path / "run.zip"
    pack(Path(config.output.database), run_id, packed)
    change(packed, edit)
    team = config_in(tmp_path / "team")
    database = Path(team.output.database)
    database.parent.mkdir()
    create_run_sync(database, run_name="another", config=team.to_dict(), status="completed")
    before = files_below(database.parent)
    with pytest.raises(UserError, match=said):
        unpack(packed, team)
    assert {name for name in files_below(database.parent) - before if "db-" not in name} == set()
    assert get_run_sync(database, 2) is None


def test_a_run_that_goes_on_or_a_file_that_is_no_zip_is_said(
    made: tuple[Config, int], tmp_path: Path
) -> None:
    config, _ = made
    database = Path(config.output.database)
    going = create_run_sync(database, run_name="q", status="queued", config=config.to_dict())
    with pytest.raises(UserError, match="is queued: only a run that has ended"):
        pack(database, going, tmp_path / "run.zip")
    (tmp_path / "text.zip").write_text("no zip")
    with pytest.raises(UserError, match="no packed run"):
        unpack(tmp_path / "text.zip", config)
    with pytest.raises(UserError, match=r"gone\.zip"):
        unpack(tmp_path / "gone.zip", config)
