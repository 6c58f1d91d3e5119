"""The page while runs are live, with many of them, with mistakes, and for everybody."""

from __future__ import annotations

import json
import random
import signal
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Route, expect
from sklearn.metrics import confusion_matrix

from engine.process import started_at

from .conftest import Server, prepare_folder, shot, wait_until

FIGURES = ("train_loss", "val_loss", "val_recall", "val_specificity", "val_auroc", "learning_rate")
TOKEN = "correct-horse-battery"


def epoch(server: Server, run_id: int, number: int, value: float = 0.5) -> None:
    fields = dict.fromkeys(FIGURES, value)
    server.write_event(run_id, "training_metrics_update", epoch=number, epoch_seconds=60, **fields)


def rows(server: Server, run_id: int, epochs: int) -> None:
    """Epochs in the table alone, as after the fact."""
    with sqlite3.connect(server.database) as database:
        names = ", ".join(FIGURES)
        values = [(run_id, n, *(1 / (n + k) for k in range(6))) for n in range(1, epochs + 1)]
        text = f"INSERT INTO run_metrics (run_id, epoch, {names}) VALUES ({', '.join('?' * 8)})"
        database.executemany(text, values)
    database.close()


def result_file(server: Server, name: str, text: str) -> None:
    folder = server.folder / "output" / "results"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)


def judged(server: Server, images: int = 200) -> tuple[int, list[int], list[float]]:
    """A completed run with scores; its labels and scores."""
    draw = random.Random(1)
    labels = [int(draw.random() < 0.6) for _ in range(images)]
    scores = [round(min(1, max(0, draw.gauss(0.3 + 0.4 * y, 0.2))), 4) for y in labels]
    run_id = server.write_run("completed", run_name="judged", best_epoch=2)
    rows(server, run_id, 3)
    lines = [f"{n}.png,{y},{s}" for n, (y, s) in enumerate(zip(labels, scores, strict=True))]
    result_file(server, f"scores_{run_id}.csv", "\n".join(["filename,label,score", *lines, ""]))
    names = {"label_names": ["NORMAL", "PNEUMONIA"], "patients": {"val": 150}}
    result_file(server, f"validation_{run_id}.json", json.dumps(names))
    figures = {"recall": 0.9, "specificity": 0.8, "threshold": 0.5, "count": images}
    figures["intervals"] = {"recall": [0.85, 0.94], "specificity": [0.7, 0.87]}  # type: ignore[assignment]
    result_file(server, f"result_{run_id}.json", json.dumps({"validation": figures}))
    return run_id, labels, scores


@pytest.fixture
def live_run(shared: Server) -> Iterator[int]:
    """A run that trains, as the server sees it: a process is there."""
    process = subprocess.Popen(["sleep", "600"])
    try:
        fields = {"pid": process.pid, "pid_started_at": started_at(process.pid)}
        yield shared.write_run("in_progress", run_name="live", best_epoch=1, **fields)
    finally:
        process.kill()
        process.wait()


def test_a_press_on_cancel_arrives_while_progress_comes(
    page: Page, shared: Server, live_run: int
) -> None:
    presses: list[str] = []

    def count(route: Route) -> None:
        presses.append(route.request.url)
        route.fulfill(status=202, json={"run_id": live_run, "message": "noted"})

    page.route("**/cancel", count)
    page.goto(f"{shared.url}/#/runs/{live_run}")
    expect(page.locator("#live")).to_have_text("live")
    ended = threading.Event()

    def write_progress() -> None:
        step = 0
        while not ended.wait(0.25):
            step += 1
            phase = {"phase": "train", "epoch": 1, "step": step, "steps": 1000}
            more = {"loss": 0.5, "images_per_second": 9, "eta_seconds": 9, "run_eta_seconds": 99}
            shared.write_event(live_run, "training_progress", **phase, **more)

    writer = threading.Thread(target=write_progress)
    writer.start()
    try:
        expect(page.get_by_text("Epoch 1 of 3")).to_be_visible()
        button = page.get_by_role("button", name="Cancel")
        for n in range(12):
            wait_until(lambda n=n: len(presses) == n)  # type: ignore[misc]
            expect(button).to_be_enabled()
            button.click(delay=60)
        wait_until(lambda: len(presses) == 12)
        button.focus()
        said = page.get_by_text("training: step")
        before = said.text_content()
        wait_until(lambda: said.text_content() != before)
        expect(button).to_be_focused()
    finally:
        ended.set()
        writer.join()


def test_hover_keeps_its_place_over_an_epoch(page: Page, shared: Server, live_run: int) -> None:
    rows(shared, live_run, 5)
    page.goto(f"{shared.url}/#/runs/{live_run}")
    chart = page.locator("figure", has_text="Loss").first
    expect(chart.locator("path.series").nth(1)).to_be_attached()
    height = chart.evaluate("figure => figure.offsetHeight")
    chart.locator("svg[role=img]").hover(position={"x": 150, "y": 100})
    expect(chart.locator("output.place")).to_contain_text("epoch")
    place = chart.locator("output.place").text_content()
    assert chart.evaluate("figure => figure.offsetHeight") == height
    expect(page.locator("#live")).to_have_text("live")
    epoch(shared, live_run, 6)
    expect(page.get_by_text("Every epoch (6)")).to_be_visible()
    assert chart.locator("output.place").text_content() == place
    tree = page.locator("main").aria_snapshot()
    assert "null" not in tree


def test_the_threshold_gives_what_an_oracle_counts(page: Page, shared: Server) -> None:
    run_id, labels, scores = judged(shared)
    page.goto(f"{shared.url}/#/runs/{run_id}")
    expect(page.get_by_text("Found 90.0 % of the images with PNEUMONIA")).to_be_visible()
    expect(page.get_by_text("of 150 patients")).to_be_visible()
    slider = page.get_by_label("a score at or above it is called positive")
    for key in (None, "ArrowLeft", "Home", "End", "PageDown"):
        if key is not None:
            slider.press(key)
        threshold = float(slider.input_value())
        called = [int(score >= threshold) for score in scores]
        tn, fp, fn, tp = confusion_matrix(labels, called, labels=[0, 1]).ravel()
        matrix = page.locator("table.confusion tbody")
        expect(matrix).to_have_text(f"NORMAL{tn}{fp}PNEUMONIA{fn}{tp}")
        sensitivity = page.locator(".threshold .tile", has_text="sensitivity").locator("b")
        expect(sensitivity).to_have_text(f"{100 * tp / (tp + fn):.1f} %")
    page.get_by_role("button", name="specificity>=0.90").click()
    called = [int(score >= float(slider.input_value())) for score in scores]
    tn, fp, *_ = confusion_matrix(labels, called).ravel()
    assert tn / (tn + fp) >= 0.9
    shot(page, "threshold")


def test_a_half_written_file_takes_only_its_own_place(page: Page, shared: Server) -> None:
    run_id, *_ = judged(shared)
    result_file(shared, f"validation_{run_id}.json", '{"label_names": ["NOR')
    result_file(shared, f"result_{run_id}.json", '{"validation": ')
    result_file(shared, f"scores_{run_id}.csv", "filena")
    page.goto(f"{shared.url}/#/runs/{run_id}")
    expect(page.get_by_text("They may still be being written")).to_be_visible()
    expect(page.locator("figure", has_text="Loss").locator("path.series").first).to_be_attached()


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Iterator[Server]:
    """A server with 10,000 runs."""
    server = Server(prepare_folder(tmp_path_factory.mktemp("crowded"), images))
    draw = random.Random(1)
    with sqlite3.connect(server.database) as database:
        database.executemany(
            "INSERT INTO run (run_name, status, created_at, best_epoch, config, run_uid) "
            "VALUES (?, 'completed', '2026-01-01T00:00:00+00:00', 1, ?, ?)",
            [(f"run {n}", json.dumps({"model": {"backbone": "a"}}), n) for n in range(10_000)],
        )
        database.executemany(
            "INSERT INTO run_metrics (run_id, epoch, val_auroc) VALUES (?, 1, ?)",
            [(n, draw.random()) for n in range(1, 10_001)],
        )
    database.close()
    yield server
    server.end()


def test_ten_thousand_runs_are_sorted_and_scrolled(page: Page, crowded: Server) -> None:
    page.goto(crowded.url)
    body = page.locator("table.runs tbody")
    expect(body.get_by_role("link", name="run 9999", exact=True)).to_be_visible()
    page.get_by_role("button", name="AUROC").click()
    best = crowded.query("SELECT run_id FROM run_metrics ORDER BY val_auroc DESC")
    first = body.locator("tr[data-run]").first
    expect(first).to_have_attribute("data-run", str(best[0][0]))
    assert "sort=val_auroc" in page.url
    assert body.locator("tr").count() < 100
    page.locator(".list").evaluate("list => list.scrollTo(0, list.scrollHeight)")
    expect(body.locator("tr[data-run]").last).to_have_attribute("data-run", str(best[-1][0]))
    assert body.locator("tr").count() < 100
    page.reload()  # the order is in the address
    expect(first).to_have_attribute("data-run", str(best[0][0]))
    page.get_by_label("Name").fill("run 999")
    expect(page.get_by_text("11 runs")).to_be_visible()
    expect(body.locator("tr[data-run]")).to_have_count(11)


def test_a_view_that_found_no_server_comes_by_itself(page: Page, server: Server) -> None:
    run_id = server.write_run(run_name="there again")
    page.goto(server.url)
    expect(page.get_by_role("link", name="there again")).to_be_visible()
    server.stop(signal.SIGKILL)
    page.evaluate(f"location.hash = '#/runs/{run_id}'")
    expect(page.get_by_text("The server does not answer")).to_be_visible()
    server.start()
    expect(page.get_by_role("heading", name="there again")).to_be_visible()


def test_every_wrong_field_is_named_at_once(page: Page, shared: Server) -> None:
    page.goto(f"{shared.url}/#/new")
    page.locator("[id='system.seed']").evaluate("field => { field.value = -1; }")  # not on view
    page.locator("[id='experiment.epochs']").fill("0")
    page.get_by_role("button", name="Start").click()
    expect(page.locator("#start [role=alert]")).to_contain_text("4 fields need a change")
    for key in ("run_name", "experiment.epochs", "system.seed", "dataset_path"):
        field = page.locator(f"[id='{key}']")
        expect(field).to_have_attribute("aria-invalid", "true")
        described = field.get_attribute("aria-describedby") or ""
        assert f"{key}-error" in described.split()
        expect(page.locator(f"[id='{key}-error']")).not_to_be_empty()
    expect(page.locator("[id='system.seed']")).to_be_visible()
    expect(page.locator("#run_name")).to_be_focused()
    page.get_by_role("button", name="Quick look").click()
    expect(page.locator("[id='model.backbone']")).to_have_value("resnet18")


def test_login_leads_to_where_one_was_going_and_out_again(browser: Browser, folder: Path) -> None:
    server = Server(folder, PNEUMOSCOPE_TOKEN=TOKEN)
    page = browser.new_page(viewport={"width": 390, "height": 700})
    try:
        run_id = server.write_run(run_name="wanted")
        page.goto(f"{server.url}/#/runs/{run_id}")
        page.get_by_label("Token").fill(TOKEN)
        shot(page, "login")
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("heading", name="wanted")).to_be_visible()
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_label("Token")).to_be_visible()
    finally:
        page.close()
        server.end()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_on_any_view(browser: Browser, shared: Server, scheme: str) -> None:
    run_id, *_ = judged(shared)
    other, *_ = judged(shared)
    page = browser.new_page(viewport={"width": 1400, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
    try:
        for place in ("", f"runs/{run_id}", f"compare/{run_id},{other}", "new", "?group=seeds"):
            page.goto("about:blank")
            page.goto(f"{shared.url}/#/{place}")
            expect(page.locator("main h1")).to_be_visible()
            if place.startswith("compare"):
                expect(page.get_by_text("DeLong's test")).to_be_visible()
            found = Axe().run(page)
            assert found.violations_count == 0, f"{place}: {found.generate_report()[:3000]}"
    finally:
        page.close()
