"""POST /runs/{run_id}/predict: a real model in a real child process."""

from __future__ import annotations

import base64
import io
import os
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, expect, sync_playwright

from config import Config
from engine import load_model
from engine.data.phantoms import draw, new_build
from engine.inference import bundle, drift
from engine.metrics import summary
from engine.metrics.calibrated import calibrate
from engine.records import checkpoint

from .conftest import Server, prepare_folder, wait_until
from .test_routes import assert_error

SIZE = 32
SHOTS = Path(os.environ.get("PNEUMOSCOPE_SCREENSHOTS", "screenshots"))  # not in the repository
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
MILLISECONDS = 120_000  # that a state may take on a loaded machine


def png(seed: int, ill: bool = True) -> bytes:
    rng = np.random.default_rng(seed)
    file = io.BytesIO()
    Image.fromarray(draw(new_build(rng), ill, 64, rng)).save(file, "PNG")
    return file.getvalue()


def write_bundle(path: Path) -> None:
    """A bundle with random weights, as training would leave it."""
    import torch

    from config.schema import Model
    from engine.model.resnet import build_model

    torch.manual_seed(5)
    config = Config.from_dict(
        {"model": {"backbone": "resnet18", "weights": "none"}, "data": {"image_size": SIZE}}
    )
    labels = np.arange(40) % 2
    scores = np.clip(labels * 0.4 + np.random.default_rng(0).uniform(0, 0.6, 40), 0, 1)
    images = [np.asarray(Image.open(io.BytesIO(png(seed)))) for seed in range(8)]
    common = {
        "run_uid": "u",
        "architecture": bundle.architecture(config.to_dict()),
        "preprocessing": bundle.preprocessing(
            SIZE, channels=3 if not config.model.grey_input else 1
        ),
        "label_names": ["NORMAL", "PNEUMONIA"],
        "training_population": {
            "image_figures": drift.statistics([drift.figures_of(image) for image in images])
        },
        "data_fingerprint": "f",
        "config": config.to_dict(),
        "versions": {},
    }
    network = build_model(
        Model("resnet18", "none", grey_input=config.model.grey_input), dropout_rate=0.0
    )
    found = calibrate(scores, labels, "specificity>=0.90")
    figures = summary(scores, labels, found.threshold)
    content = bundle.of_epoch(common, network.state_dict(), 1, figures, found)
    checkpoint.save(content, path)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Iterator[Server]:
    """A server with run 1, which has a model, and run 2, which has none."""
    folder = prepare_folder(tmp_path_factory.mktemp("predict"), images)
    (folder / "tmp").mkdir()
    write_bundle(folder / "best_model.pt")  # first: what fails here leaves no server behind
    server = Server(folder, TMPDIR=str(folder / "tmp"))
    for _ in range(2):
        server.write_run()
    (folder / "best_model.pt").rename(folder / "output/checkpoints/run_1/best_model.pt")
    yield server
    server.end()
    assert not list((folder / "tmp").iterdir())  # no image is left behind
    assert "Traceback" not in server.log.read_text(), server.log.read_text()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Headless Chromium; the test is skipped where there is none."""
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium on this machine")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


def ask(server: Server, content: bytes, query: str = "", run_id: int = 1) -> httpx.Response:
    url = f"{server.url}/runs/{run_id}/predict{query}"
    return httpx.post(url, content=content, timeout=120)


def child_of(server: Server) -> int | None:
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text()
    for pid in map(int, children.split()):
        if b"engine.inference.serve" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return pid
    return None


def test_scores_are_those_of_the_bundle(server: Server) -> None:
    model = load_model(server.folder / "output/checkpoints/run_1/best_model.pt", device="cpu")
    image = model.decode(png(3), "a.png")
    assert isinstance(image, np.ndarray)
    found = ask(server, png(3)).json()
    assert found["score"] == pytest.approx(float(model.scores(np.stack([image]))[0]), abs=1e-6)
    assert found["threshold"] == model.threshold
    assert found["warnings"] == []
    assert "heatmap" not in found
    other = ask(server, png(3), "?operating_point=youden").json()
    assert other["threshold"] == found["operating_points"]["youden"]


def test_many_at_once_get_their_own_answers(server: Server) -> None:
    alone = [ask(server, png(seed)).json()["score"] for seed in range(8)]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda n: ask(server, png(n % 8)).json()["score"], range(48)))
    assert together == pytest.approx([alone[n % 8] for n in range(48)], abs=1e-5)
    assert server.memory() < 64 << 20


def test_a_form_and_a_heat_map(server: Server) -> None:
    answer = httpx.post(
        f"{server.url}/runs/1/predict?heatmap=true",
        files={"image": ("a.png", png(3), "image/png")},
        timeout=120,
    ).json()
    assert answer["score"] == pytest.approx(ask(server, png(3)).json()["score"], abs=1e-6)
    for name, mode in (("image", "L"), ("heatmap", "RGBA")):
        content = base64.b64decode(answer[name].removeprefix("data:image/png;base64,"))
        with Image.open(io.BytesIO(content)) as picture:
            assert (picture.mode, picture.size) == (mode, (SIZE, SIZE))


def test_an_unusual_image_is_warned_of(server: Server) -> None:
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(240, 256, (64, 64), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    assert any("brightness" in text for text in ask(server, file.getvalue()).json()["warnings"])


def test_what_cannot_be_scored_is_refused_in_words(server: Server) -> None:
    assert_error(ask(server, b"no image"), 422, "image")
    assert_error(ask(server, b""), 422, "image")
    assert_error(ask(server, png(3), "?operating_point=best"), 422, "operating_point")
    assert_error(ask(server, png(3), "?heatmap=yes"), 422, "heatmap")
    assert_error(ask(server, png(3), run_id=2), 409, "run_id")
    assert_error(ask(server, png(3), run_id=99), 404, "run_id")
    damaged = server.folder / "output/checkpoints/run_2/best_model.pt"
    damaged.parent.mkdir(parents=True, exist_ok=True)
    damaged.write_bytes(b"no bundle")
    assert_error(ask(server, png(3), run_id=2), 409, "run_id")
    damaged.unlink()


def test_a_child_that_dies_costs_its_requests_only(server: Server) -> None:
    before = ask(server, png(3)).json()["score"]
    child = child_of(server)
    assert child is not None
    os.kill(child, signal.SIGSTOP)  # so that the next request is surely on its way
    with ThreadPoolExecutor(1) as pool:
        lost = pool.submit(ask, server, png(3))
        wait_until(lambda: is_received(server))
        os.kill(child, signal.SIGKILL)
        assert_error(lost.result(), 503, None)
    assert ask(server, png(3)).json()["score"] == pytest.approx(before, abs=1e-6)
    assert child_of(server) not in (None, child)


def is_received(server: Server) -> bool:
    """Whether an image has been received and waits for its answer."""
    return any(file.stat().st_size for file in (server.folder / "tmp").glob("*/*"))


def test_the_page_scores_what_is_dropped(server: Server, browser: Browser, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("ill.png", "well.png", "broken.png")]
    for path, content in zip(files, (png(3), png(4, ill=False), b"no image"), strict=True):
        path.write_bytes(content)
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"{server.url}/#/runs/1")
    page.get_by_role("link", name="Predict").click()
    page.get_by_label("Drop images here").set_input_files(files)
    expect(page.get_by_text("2 scored")).to_be_visible(timeout=MILLISECONDS)
    expect(page.get_by_text("1 could not be scored")).to_be_visible(timeout=MILLISECONDS)
    expect(page.locator(".predictions .pictures")).to_have_count(2)
    page.get_by_label("Heat map").fill("10")
    heat = page.locator(".heat").first
    assert heat.evaluate("image => image.style.opacity + image.naturalWidth") == f"0.1{SIZE}"
    page.get_by_label("Operating point").select_option("sensitivity>=0.95")
    expect(page.get_by_text("2 scored")).to_be_visible()
    SHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SHOTS / "predict.png", full_page=True)
    page.close()
    assert errors == []
