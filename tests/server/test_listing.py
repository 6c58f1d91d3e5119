"""The list of runs: any order, any filter, names and tags that can be changed, groups of seeds."""

from __future__ import annotations

import csv
import io
import random
import sqlite3
import statistics
from typing import Any

import httpx
import pytest

from .conftest import Server, outputs


def write(server: Server, auroc: float | None, status: str = "completed", **fields: Any) -> int:
    """A run with one epoch."""
    settings = {"experiment.epochs": 3, "system.seed": 1, **fields.pop("settings", {})}
    config: dict[str, dict[str, Any]] = {"output": outputs()}
    for key, value in settings.items():
        section, name = key.split(".")
        config.setdefault(section, {})[name] = value
    run_id = server.write_run(status, config=config, best_epoch=1, **fields)
    if auroc is not None:
        with sqlite3.connect(server.database) as database:
            database.execute(
                "INSERT INTO run_metrics (run_id, epoch, val_auroc) VALUES (?, 1, ?)",
                (run_id, auroc),
            )
        database.close()
    return run_id


def listed(server: Server, **query: Any) -> list[int]:
    answer = server.get("/runs", params=query)
    assert answer.status_code == 200, answer.text
    return [run["run_id"] for run in answer.json()["runs"]]


def test_runs_are_sorted_by_figures_and_settings_over_all_pages(server: Server) -> None:
    draw = random.Random(1)
    aurocs: dict[int, float | None] = {}
    epochs: dict[int, int] = {}
    for n in range(30):
        auroc = None if n % 7 == 0 else draw.random()
        number = draw.choice([2, 10, 100])
        run_id = write(server, auroc, settings={"experiment.epochs": number})
        aurocs[run_id], epochs[run_id] = auroc, number

    def by(value: Any, sign: int) -> list[int]:
        return sorted(aurocs, key=lambda i: (value(i) is None, sign * (value(i) or 0), -i))

    for order, sign in (("desc", -1), ("asc", 1)):
        pages = [
            listed(server, sort="val_auroc", order=order, limit=7, offset=offset)
            for offset in range(0, 35, 7)
        ]
        assert [run_id for page in pages for run_id in page] == by(aurocs.get, sign)
        assert listed(server, sort="experiment.epochs", order=order) == by(epochs.get, sign)
    shown = server.get("/runs?settings=experiment.epochs,model.backbone").json()["runs"]
    assert {run["run_id"]: run["settings"]["experiment.epochs"] for run in shown} == epochs
    assert {run["settings"]["model.backbone"] for run in shown} == {None}


def test_filters_by_tag_data_set_and_settings(server: Server) -> None:
    small = {"model.backbone": "resnet18", "system.deterministic": True}
    first = write(server, 0.5, dataset_path="/data/Chest.zip", tags=["paper"], settings=small)
    other = {"model.backbone": "resnet50", "experiment.learning_rate": 0.001}
    second = write(server, 0.6, dataset_path="/data/other.zip", settings=other)
    assert listed(server, tag="paper") == [first]
    assert listed(server, dataset="chest") == [first]
    assert listed(server, where="model.backbone=resnet18") == [first]
    assert listed(server, where="system.deterministic=true") == [first]
    assert listed(server, where="experiment.learning_rate=1e-3") == [second]
    assert listed(server, where="experiment.learning_rate>=0.0005") == [second]
    assert listed(server, where=["experiment.epochs<=3", "model.backbone=resnet50"]) == [second]
    assert listed(server, where="experiment.epochs>=4") == []
    assert server.get("/runs?tag=paper&limit=1").json()["total"] == 1


@pytest.mark.parametrize(
    "query",
    [
        *("sort=run.config", "sort=val_auroc;--", "order=up", "offset=-1", "where=epochs=3"),
        *("where=model.backbone", "where=output.database') --=1", "settings=a,b"),
    ],
)
def test_what_cannot_be_listed_is_refused(shared: Server, query: str) -> None:
    answer = shared.get(f"/runs?{query}")
    assert answer.status_code == 422
    assert answer.json()["field"] == query.partition("=")[0]


def test_name_note_and_tags_can_be_changed(shared: Server) -> None:
    run_id = shared.write_run(tags=["old"])
    url = f"{shared.url}/runs/{run_id}"
    changed = httpx.patch(url, json={"run_name": "new name", "add_tags": ["a", " b "]})
    assert changed.json()["tags"] == ["old", "a", "b"]
    httpx.patch(url, json={"remove_tags": ["old"]})
    run = shared.run(run_id)
    assert (run["run_name"], run["tags"]) == ("new name", ["a", "b"])
    for wrong in ({"tags": ["a,b"]}, {"tags": [str(n) for n in range(21)]}, {"status": "failed"}):
        assert httpx.patch(url, json=wrong).status_code == 422
    too_many = [str(n) for n in range(19)]
    assert httpx.patch(url, json={"add_tags": too_many}).status_code == 422
    assert shared.run(run_id)["tags"] == ["a", "b"]


def test_runs_of_several_seeds_are_one_group(server: Server) -> None:
    aurocs = [0.9, 0.92, 0.95]
    ids = [write(server, auroc, settings={"system.seed": n}) for n, auroc in enumerate(aurocs)]
    write(server, 0.5, settings={"experiment.epochs": 9})
    write(server, 0.1, "failed")
    (group,) = server.get("/groups").json()["groups"]
    assert group["run_ids"] == ids
    assert group["val_auroc"] == pytest.approx(statistics.mean(aurocs))
    assert group["val_auroc_sd"] == pytest.approx(statistics.stdev(aurocs))


def test_metrics_as_a_table(shared: Server) -> None:
    run_id = write(shared, 0.75)
    answer = shared.get(f"/runs/{run_id}/metrics.csv")
    assert answer.headers["content-type"].startswith("text/csv")
    (row,) = csv.DictReader(io.StringIO(answer.text))
    assert (row["epoch"], row["val_auroc"], row["train_loss"]) == ("1", "0.75", "")
