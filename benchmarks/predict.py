"""How fast is a kept model? `python -m benchmarks.predict`

From prepared images, beside a plain batched forward of the same network in the same precision; from
JPEG files, beside the usual recipe (Pillow, torchvision's transforms, DataLoader with 2 workers,
fp32); and through the server, from 16 clients that send single JPEGs, beside the same files
offline. In turns, the first one thrown away.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from benchmarks.lib.images import make_images
from benchmarks.lib.record import write_result
from benchmarks.lib.usage import peak_bytes, resident_bytes
from benchmarks.server import Server
from config import Config
from config.schema import Model
from engine.data.inputs import MEAN, STD, normalise, to_float
from engine.inference import bundle
from engine.inference.predictor import Predictor, load_model
from engine.metrics import summary
from engine.metrics.calibrated import DEFAULT_POINT
from engine.model.resnet import build_model
from engine.records import checkpoint
from engine.records.database import create_run_sync

BATCH = 32
CLIENTS = 16
BARS = {"prepared_ratio": 1.1, "files_ratio": 2.0, "server_share": 0.8, "server_megabytes": 64}


class Usual(Dataset[torch.Tensor]):
    """What a tutorial would write."""

    def __init__(self, files: list[Path], size: int) -> None:
        self._files = files
        self._transform = v2.Compose(
            [
                v2.Resize((size, size)),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, place: int) -> torch.Tensor:
        with Image.open(self._files[place]) as image:
            return self._transform(image.convert("RGB"))  # type: ignore[no-any-return]


def main() -> int:
    """Measure, print, write the JSON; 0 whatever the figures are."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--images", type=int, default=128)
    options.add_argument("--image-size", type=int, default=224)
    options.add_argument("--backbone", default="resnet50")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--no-server", action="store_true")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = sorted((make_images(folder / "images", given.images) / "images").iterdir())
        path = folder / "output" / "checkpoints" / "run_1" / "best_model.pt"
        network = write_bundle(path, given.backbone, given.image_size)
        figures = prepared(path, network, files, given.rounds)
        figures |= from_files(path, network, files, given.rounds)
        if not given.no_server:
            figures |= through_server(folder, files, given.rounds)
    for key, value in figures.items():
        print(f"{key:28s} {value:10.4g}" + (f"   bar {BARS[key]}" if key in BARS else ""))
    print("written to", write_result("predict", vars(given), figures))
    return 0


def write_bundle(path: Path, backbone: str, size: int) -> nn.Module:
    """A bundle with random weights, and its network as a plain module."""
    torch.manual_seed(0)
    values = {"model": {"backbone": backbone, "weights": "none"}, "data": {"image_size": size}}
    config = Config.from_dict(values).to_dict()
    shape = bundle.architecture(config)
    channels = shape["input_channels"]
    settings = Model(backbone, "none", stem=shape["stem"], grey_input=channels == 1)
    network = build_model(settings, 0.0).eval()
    scores, labels = np.linspace(0.1, 0.9, 20), np.arange(20) % 2
    common = {
        "run_uid": "benchmark",
        "architecture": shape,
        "preprocessing": bundle.preprocessing(size, channels=channels),
        "label_names": ["NORMAL", "PNEUMONIA"],
        "temperature": None,
        "training_population": None,
        "data_fingerprint": None,
        "config": config,
        "versions": None,
    }
    content = {
        **common,
        "weights": network.state_dict(),
        "epoch": 1,
        "metrics": {"val": summary(scores, labels)},
        "operating_points": {
            DEFAULT_POINT: {"threshold": 0.5, "rule": "default_0.5", "part": "val",
                                   "figures": {}}
        },
        "default_operating_point": DEFAULT_POINT,
    }  # fmt: skip
    checkpoint.save(content, path)
    return network


def alternating(rounds: int, **contenders: Callable[[], Any]) -> dict[str, list[float]]:
    """Seconds of each contender in turns, without the first turn."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        for name, work in contenders.items():
            began = time.perf_counter()
            work()
            if turn:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def ratio(slow: list[float], fast: list[float]) -> float:
    """Median of the ratios within a turn."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def prepared(path: Path, network: nn.Module, files: list[Path], rounds: int) -> dict[str, float]:
    """Both in fp32, from images that are decoded and resized."""
    model = load_model(path)
    images = images_of(model, files)

    @torch.inference_mode()
    def plain() -> None:
        for at in range(0, len(images), BATCH):
            batch = torch.from_numpy(images[at : at + BATCH])[:, None]
            inputs = normalise(to_float(batch), model.channels).contiguous()
            network(inputs).softmax(dim=1)

    def ours() -> None:
        for at in range(0, len(images), BATCH):
            model.scores(images[at : at + BATCH])

    seconds = alternating(rounds, plain=plain, ours=ours)
    return {
        "prepared_images_per_second": len(images) / statistics.median(seconds["ours"]),
        "prepared_ratio": ratio(seconds["plain"], seconds["ours"]),
    }


def from_files(path: Path, network: nn.Module, files: list[Path], rounds: int) -> dict[str, float]:
    """Ours in fp32 and in the precision that `auto` chooses, and the usual recipe in fp32."""
    exact, quick = load_model(path), load_model(path, precision="auto")
    three = network if exact.channels == 3 else build_model(
        Model(exact.bundle["architecture"]["backbone"], "none", grey_input=False), 0.0
    ).eval()  # fmt: skip
    loader = DataLoader(Usual(files, exact.image_size), batch_size=BATCH, num_workers=2)

    @torch.inference_mode()
    def usual() -> None:
        for batch in loader:
            three(batch).softmax(dim=1)

    seconds = alternating(
        rounds,
        usual=usual,
        exact=lambda: list(exact.predict(files, BATCH)),
        quick=lambda: list(quick.predict(files, BATCH)),
    )
    images = images_of(exact, files)
    return {
        "files_images_per_second": len(files) / statistics.median(seconds["quick"]),
        "files_ratio": ratio(seconds["usual"], seconds["quick"]),
        "files_ratio_fp32": ratio(seconds["usual"], seconds["exact"]),
        "largest_score_difference": float(
            np.abs(exact.scores(images[:BATCH]) - quick.scores(images[:BATCH])).max()
        ),
    }


def through_server(folder: Path, files: list[Path], rounds: int) -> dict[str, float]:
    """Clients that send one image after the other; offline throughput is measured in turns."""
    (folder / "data").mkdir()
    server = Server(folder)
    try:
        output = {
            key: str(folder / "output" / name)
            for key, name in (("checkpoint_dir", "checkpoints"), ("results_dir", "results"),
                              ("log_dir", "logs"))
        }  # fmt: skip
        create_run_sync(
            server.database, run_id=1, run_name="predict", status="completed",
            config={"output": output},
        )  # fmt: skip
        model = load_model(folder / "output" / "checkpoints" / "run_1" / "best_model.pt")
        contents = [path.read_bytes() for path in files]
        latencies: list[float] = []
        seconds = alternating(
            rounds,
            offline=lambda: list(model.predict(files, BATCH)),
            server=lambda: send(f"http://{server.address}/runs/1/predict", contents, latencies),
        )
        latencies = latencies[len(files) :]  # without the first turn
        child = child_of(server.process.pid)
        return {
            "server_images_per_second": len(files) / statistics.median(seconds["server"]),
            "server_share": ratio(seconds["offline"], seconds["server"]),
            "server_p50_seconds": float(np.quantile(latencies, 0.5)),
            "server_p99_seconds": float(np.quantile(latencies, 0.99)),
            "server_megabytes": resident_bytes(server.process.pid) / 2**20,
            "child_peak_megabytes": peak_bytes(child) / 2**20,
        }
    finally:
        server.stop()


def send(url: str, contents: list[bytes], latencies: list[float]) -> None:
    """Every image once, by CLIENTS threads, each with a connection of its own."""
    waiting, lock = iter(contents), threading.Lock()

    def client() -> None:
        with httpx.Client(timeout=300) as session:
            while True:
                with lock:
                    content = next(waiting, None)
                if content is None:
                    return
                began = time.perf_counter()
                answer = session.post(url, content=content)
                answer.raise_for_status()
                latencies.append(time.perf_counter() - began)

    clients = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for one in clients:
        one.start()
    for one in clients:
        one.join()


def child_of(pid: int) -> int:
    """The process that holds the models."""
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        if b"engine.inference.serve" in Path(f"/proc/{child}/cmdline").read_bytes():
            return int(child)
    raise RuntimeError(f"no process of {pid} holds models ({os.getpid()} measures)")


def images_of(model: Predictor, files: list[Path]) -> np.ndarray:
    """uint8 [N, S, S]. Raises RuntimeError for a file that cannot be read."""
    images = [model.read(path) for path in files]
    if bad := [image for image in images if isinstance(image, str)]:
        raise RuntimeError(bad[0])
    return np.stack([image for image in images if not isinstance(image, str)])


if __name__ == "__main__":
    raise SystemExit(main())
