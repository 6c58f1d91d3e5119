"""The child process that holds models for the server: requests and answers are lines of JSON.

It is started by the server, reads requests from its standard input and ends with it. A request is
{id, bundle, file, name, content_type, operating_point, heatmap}; `file` is read and left in place.
An answer is {id, status, ...}: 200 with the result, else `detail` and `field`.
"""

from __future__ import annotations

import argparse
import base64
import email
import email.policy
import io
import json
import os
import queue
import signal
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from config import UserError
from engine.data.archive import read_file
from engine.inference.drift import image_warnings
from engine.inference.explain import overlay_layer
from engine.inference.predictor import Predictor, load_model

MODELS = 3  # that are kept loaded
BATCH = 32  # images at most that are scored together
WAIT = 0.003  # seconds that the first image of a batch waits for others
WAITING = 256  # requests that are read ahead

Request = dict[str, Any]


@dataclass
class Job:
    """A request whose image is being read."""

    request: Request
    read: Future[tuple[Predictor, np.ndarray]]


class Refused(Exception):
    """An answer that is no result: the status that the server gives, and why."""

    def __init__(self, status: int, detail: str, field: str | None = None) -> None:
        super().__init__(detail)
        self.status, self.field = status, field


class Models:
    """The models used last, loaded once; a file that has been replaced is loaded again."""

    def __init__(self, device: str, most: int = MODELS) -> None:
        self._device, self._most = device, most
        self._kept: OrderedDict[tuple[str, int, int], Predictor] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, path: str) -> Predictor:
        """Raises Refused where the file is no model."""
        try:
            found = Path(path).stat()
            key = (path, found.st_mtime_ns, found.st_size)
            with self._lock:
                if key not in self._kept:
                    while len(self._kept) >= self._most:
                        self._kept.popitem(last=False)
                    self._kept[key] = load_model(path, device=self._device)
                self._kept.move_to_end(key)
                return self._kept[key]
        except (OSError, UserError) as error:
            raise Refused(409, str(error), "run_id") from error

    def __len__(self) -> int:
        return len(self._kept)


def main(arguments: list[str] | None = None) -> int:
    """Serve until the standard input ends."""
    command = argparse.ArgumentParser(prog="python -m engine.inference.serve")
    command.add_argument("--device", default="cpu")
    options = command.parse_args(arguments)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints must not get among the answers
    lines = (json.loads(line) for line in sys.stdin)

    def answer(content: dict[str, Any]) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    serve(lines, answer, Models(options.device))
    return 0


def serve(requests: Iterator[Request], answer: Any, models: Models) -> None:
    """Answer every request, in batches, until there are no more."""
    waiting: queue.Queue[Job | None] = queue.Queue(WAITING)
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:

        def take() -> None:
            for request in requests:
                waiting.put(Job(request, pool.submit(read_image, request, models)))
            waiting.put(None)

        reader = threading.Thread(target=take, daemon=True)
        reader.start()
        while batch := next_batch(waiting):
            for job, result in answers_to(batch):
                answer({"id": job.request["id"], **result})
        reader.join()


def next_batch(waiting: queue.Queue[Job | None]) -> list[Job]:
    """The first request and those that come within WAIT; empty at the end."""
    first = waiting.get()
    if first is None:
        return []
    batch, deadline = [first], time.monotonic() + WAIT
    while len(batch) < BATCH:
        try:
            job = waiting.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            break
        if job is None:
            waiting.put(None)  # the end, for the next call
            break
        batch.append(job)
    return batch


def answers_to(batch: list[Job]) -> Iterator[tuple[Job, dict[str, Any]]]:
    """Each job with its answer; the images of one model are scored together."""
    ready: dict[int, list[tuple[Job, Predictor, np.ndarray]]] = {}
    for job in batch:
        try:
            model, image = job.read.result()
            ready.setdefault(id(model), []).append((job, model, image))
        except Refused as refused:
            yield job, refusal(refused)
        except Exception as error:  # of one request: the others go on
            yield job, {"status": 500, "detail": f"{type(error).__name__}: {error}", "field": None}
    for group in ready.values():
        model = group[0][1]
        scores = model.scores(np.stack([image for _, _, image in group])).tolist()
        for (job, _, image), score in zip(group, scores, strict=True):
            try:
                yield job, {"status": 200, **result_of(job.request, model, image, score)}
            except Refused as refused:
                yield job, refusal(refused)


def refusal(refused: Refused) -> dict[str, Any]:
    """The answer to a request that cannot be served."""
    return {"status": refused.status, "detail": str(refused), "field": refused.field}


def read_image(request: Request, models: Models) -> tuple[Predictor, np.ndarray]:
    """The model and the image as it takes it, uint8 [S, S]. Raises Refused."""
    model = models.get(request["bundle"])
    try:
        content = read_file(Path(request["file"]))
    except OSError as error:
        raise Refused(422, error.strerror or str(error), "image") from error
    name = request.get("name") or "image"
    if str(request.get("content_type", "")).startswith("multipart/"):
        content, name = first_file(content, request["content_type"])
    if not content:
        raise Refused(422, "the request holds no image", "image")
    image = model.decode(content, name)
    if isinstance(image, str):
        raise Refused(422, image, "image")
    return model, image


def first_file(body: bytes, content_type: str) -> tuple[bytes, str]:
    """Content and name of the first file of a multipart body. Raises Refused."""
    head = f"Content-Type: {content_type}\r\n\r\n".encode("latin-1", "replace")
    message = email.message_from_bytes(head + body, policy=email.policy.HTTP)
    for part in message.walk():
        if part.get_filename() is not None:
            content = part.get_payload(decode=True)
            if isinstance(content, bytes):
                return content, str(part.get_filename())
    raise Refused(422, "the form has no file", "image")


def result_of(request: Request, model: Predictor, image: np.ndarray, score: float) -> Request:
    """Score, label, threshold, warnings, and the pictures where they are asked for."""
    chosen = request.get("operating_point") or model.bundle["default_operating_point"]
    try:
        threshold = model.threshold_of(chosen)
    except UserError as error:
        raise Refused(422, str(error), "operating_point") from error
    points = model.bundle["operating_points"]
    found: dict[str, Any] = {
        "score": score,
        "label": model.label_names[score >= threshold],
        "threshold": threshold,
        "operating_point": chosen,
        "operating_points": {name: float(point["threshold"]) for name, point in points.items()},
        "label_names": list(model.label_names),
        "warnings": image_warnings(image, model.bundle["training_population"]),
    }
    if request.get("heatmap"):
        found["image"] = png_url(Image.fromarray(image))
        found["heatmap"] = png_url(overlay_layer(model.heat_map(image)))
    return found


def png_url(picture: Image.Image) -> str:
    """A picture as a data: URL."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


if __name__ == "__main__":
    raise SystemExit(main())
