"""The page in a real browser: upload, start, watch, cancel, compare; by keyboard and on a phone."""

from __future__ import annotations

import csv
import json
import signal
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from .conftest import SMALL, Server, shot, wait_until

LINES = "svg[role=img] path.series"


def start(page: Page, server: Server, name: str, epochs: int) -> None:
    """Through the form, with the tests' small settings."""
    page.goto(f"{server.url}/#/new")
    page.get_by_label("Name").nth(1).fill(name)
    page.get_by_text("All settings").click()
    for key, value in {**SMALL, "experiment.epochs": epochs}.items():
        field = page.locator(f"[id='{key}']")
        if field.evaluate("field => field.tagName") == "SELECT":
            field.select_option(str(value))
        else:
            field.fill(str(value))
    page.get_by_role("button", name="Start").click()
    expect(page.get_by_role("heading", name=name)).to_be_visible()


def points(page: Page, chart: str) -> int:
    """How many points the first line of a chart has."""
    path = page.locator("figure", has_text=chart).locator(LINES).first
    return str(path.get_attribute("d")).count("L") + 1


def test_from_upload_to_download(page: Page, server: Server, images: Path) -> None:
    page.goto(server.url)
    expect(page.get_by_text("No run yet.")).to_be_visible()
    expect(page.locator("#live")).to_have_attribute("data-state", "live")
    page.get_by_role("link", name="Upload a data set").click()
    page.get_by_label("ZIP file").set_input_files(images)
    page.get_by_role("button", name="Upload").click()
    expect(page.get_by_role("cell", name="64")).to_be_visible()
    expect(page.locator("#dataset option").first).to_have_text("images")
    shot(page, "upload")

    start(page, server, "watched", epochs=400)
    expect(page.locator(".status")).to_have_text("in progress")
    expect(page.locator("figure", has_text="Loss").locator(LINES).first).to_be_attached()
    seen = points(page, "Loss")
    wait_until(lambda: points(page, "Loss") > seen + 2)  # it grows, without a reload
    expect(page.get_by_label("progress of this phase")).to_be_visible()
    shot(page, "live")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator(".status")).to_have_text("stopped")
    for name in ("Confusion matrix", "ROC curve", "Precision over recall", "Learning rate"):
        expect(page.get_by_text(name, exact=True)).to_be_visible()
    expect(page.get_by_label("log")).to_contain_text("stopped by SIGTERM")
    with page.expect_download() as download:
        page.get_by_role("link", name="best_model.pt").click()
    assert download.value.suggested_filename == "run_1_best_model.pt"
    assert Path(download.value.path()).stat().st_size > 1e6
    page.get_by_role("button", name="Resume").click()
    expect(page.locator(".status")).to_have_text("in progress")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator(".status")).to_have_text("stopped")

    start(page, server, "other", epochs=2)
    expect(page.locator(".status")).to_have_text("completed")
    page.get_by_role("link", name="Runs", exact=True).click()
    for number in (1, 2):
        page.get_by_label(f"choose run {number} to compare").check()
    page.get_by_role("link", name="Compare 2").click()
    expect(page.locator(LINES).nth(1)).to_be_attached()
    differing = page.locator("section", has_text="What differs")
    expect(differing.get_by_role("row", name="experiment.epochs")).to_have_text(
        "experiment.epochs4002"
    )
    assert differing.get_by_role("row").count() == 2
    shot(page, "compare")
    page.once("dialog", lambda dialog: dialog.accept())
    page.goto(f"{server.url}/#/runs/1")
    page.get_by_role("button", name="Delete").click()
    expect(page.get_by_role("heading", name="Runs")).to_be_visible()
    expect(page.get_by_role("link", name="watched")).to_have_count(0)


def test_mistakes_are_shown_where_they_are(page: Page, shared: Server, tmp_path: Path) -> None:
    broken = tmp_path / "broken.zip"
    broken.write_text("no ZIP")
    page.goto(f"{shared.url}/#/new")
    page.get_by_label("ZIP file").set_input_files(broken)
    page.get_by_role("button", name="Upload").click()
    expect(page.locator("#upload [role=alert]")).to_contain_text("broken.zip")
    page.get_by_label("Name").nth(1).fill("a")
    page.get_by_label("Path on the server").fill("/etc/passwd")
    page.get_by_role("button", name="Start").click()
    expect(page.locator("#start [role=alert]")).to_contain_text("--data")
    expect(page.get_by_label("Path on the server")).to_have_attribute("aria-invalid", "true")
    page.locator("[id='experiment.epochs']").fill("0")  # the browser itself refuses it
    page.get_by_role("button", name="Start").click()
    assert page.locator("[id='experiment.epochs']").evaluate("field => !field.checkValidity()")


def test_the_stream_shows_that_it_is_not_live_and_comes_back(page: Page, server: Server) -> None:
    run_id = server.write_run(run_name="here")
    page.goto(f"{server.url}/#/runs/{run_id}")
    expect(page.locator("#live")).to_have_text("live")
    server.stop(signal.SIGKILL)
    expect(page.locator("#live")).to_contain_text("not live")
    missed = dict.fromkeys(("train_loss", "val_loss", "val_recall", "learning_rate"), 0.5)
    for epoch in (1, 2):
        server.write_event(run_id, "training_metrics_update", epoch=epoch, **missed)
    server.start()
    expect(page.locator("#live")).to_have_text("live")
    expect(page.locator("figure", has_text="Loss").locator(LINES)).to_have_count(2)
    assert points(page, "Loss") == 2  # what it missed has come


def test_a_name_with_a_line_break_is_one_image(page: Page, shared: Server) -> None:
    run_id = shared.write_run("completed", run_name="odd names", best_epoch=1)
    results = shared.folder / "output" / "results"
    results.mkdir(parents=True, exist_ok=True)
    names = ["plain.png", 'a "quoted",1,0.9\nb,1,0.9\n.png', "=1+1,0,0.1\r\nc,0,0.1", ""]
    with (results / f"scores_{run_id}.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["filename", "label", "score"])
        writer.writerows(zip(names, [0, 1, 1, 0], [0.2, 0.9, 0.3, 0.8], strict=True))
    report = {"label_names": ["NORMAL", "PNEUMONIA"]}
    (results / f"validation_{run_id}.json").write_text(json.dumps(report))
    page.goto(f"{shared.url}/#/runs/{run_id}")
    expect(page.locator("table.confusion tbody")).to_have_text("NORMAL11PNEUMONIA11")


def test_text_of_a_run_is_never_markup(page: Page, shared: Server) -> None:
    evil = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    run_id = shared.write_run("failed", run_name=evil, run_description=evil, error=evil)
    page.on("dialog", lambda dialog: pytest.fail("a script ran"))
    for place in ("#/", f"#/runs/{run_id}", f"#/compare/{run_id},{run_id}"):
        page.goto(f"{shared.url}/{place}")
        expect(page.get_by_text(evil).first).to_be_visible()
        assert page.locator("main img").count() == 0


def test_it_works_by_keyboard_and_on_a_phone(browser: Browser, shared: Server) -> None:
    run_id = shared.write_run(run_name="by keyboard")
    figures = dict.fromkeys(("train_loss", "val_loss", "val_recall", "learning_rate"), 0.5)
    for epoch in (1, 2, 3):
        shared.write_event(run_id, "training_metrics_update", epoch=epoch, **figures)
    page = browser.new_page(viewport={"width": 390, "height": 800}, color_scheme="dark")
    page.goto(shared.url)
    expect(page.get_by_role("link", name="by keyboard")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.get_by_role("link", name="by keyboard").evaluate(
            "a => a === document.activeElement"
        ):
            break
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="by keyboard")).to_be_visible()
    wider = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert wider <= 0, "the page scrolls sideways on a phone"
    page.goto(f"{shared.url}/#/new")
    expect(page.get_by_role("heading", name="Start a run")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    shot(page, "phone")
    page.close()


def test_a_person_with_the_token_sees_the_page(browser: Browser, folder: Path) -> None:
    server = Server(folder, PNEUMOSCOPE_TOKEN="correct-horse-battery")
    page = browser.new_page()
    try:
        page.goto(server.url)
        page.get_by_label("Token").fill("correct-horse-battery")
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("heading", name="Runs")).to_be_visible()
        expect(page.locator("#live")).to_have_text("live")
    finally:
        page.close()
        server.end()
