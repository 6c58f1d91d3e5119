"""Events for the person at the terminal: a bar while an epoch runs, a line when it is done."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import queue
import shlex
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from config import UserError
from engine.files import visible
from engine.stream.events import (
    CheckpointSaved,
    EarlyStoppingTriggered,
    EpochMetrics,
    LearningRateChanged,
    RunWarning,
    Stamped,
    TrainingComplete,
    TrainingFailed,
    TrainingProgress,
    TrainingResumed,
    TrainingStarted,
    TrainingStopped,
)

WAITING = 10_000  # lines and progress events that may wait for a terminal that is held up
WIDE = 110  # columns from which the bar names its steps, too
DEFAULT_DATABASE = "output/pneumoscope.db"
CLOSE_SECONDS = 5.0  # that the last lines have
HEADER = "epoch   train loss  val loss   recall  specif.   AUROC       lr   seconds"


class ConsoleSink:
    """Lines on stdout; the bar on stderr, and only where that is a terminal.

    Printed by a thread of its own: a terminal that is held up (Ctrl-S, a pager) must not hold up
    the other sinks. Where nobody reads any more, the sink raises that once and is silent then.
    """

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None
        self._of: tuple[int, str] = (0, "")
        self._config: dict[str, Any] = {}  # as the run keeps it
        self._watched = is_watched()
        self._headed = False
        self._waiting: queue.Queue[list[str] | TrainingProgress | None] = queue.Queue(WAITING)
        self._error: Exception | None = None  # of the thread, still to be raised
        self._gone = False
        self._thread = threading.Thread(target=self._print_all, name="console", daemon=True)

    async def open(self, run_id: int) -> None:
        """Begin to print."""
        self._thread.start()

    async def handle(self, stamped: Stamped) -> None:
        """Show one event. Raises UserError, once, where nothing can be printed any more."""
        event = stamped.event
        if isinstance(event, TrainingProgress):
            if self._watched:
                self._put(event)
        elif not isinstance(event, CheckpointSaved | TrainingFailed):
            # Those are for the log: a failure is raised, and printed where it is caught.
            lines = describe(stamped)
            if isinstance(event, TrainingStarted):
                self._config = event.config
            if isinstance(event, TrainingStopped):
                lines.append(f"to continue: {resume_command(stamped.run_id, self._config)}")
            if isinstance(event, EpochMetrics) and not self._headed:
                self._headed = True
                lines = [HEADER, *lines]
            if lines:
                self._put(lines)
        self._raise_once()

    async def close(self) -> None:
        """Leave the terminal's last line clean; wait for it, but not long."""
        self._put(None)
        if self._thread.ident is not None:
            await asyncio.to_thread(self._thread.join, CLOSE_SECONDS)
        self._raise_once()

    def _put(self, what: list[str] | TrainingProgress | None) -> None:
        with contextlib.suppress(queue.Full):  # held up for long: the log has it all
            self._waiting.put_nowait(what)

    def _raise_once(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise UserError(f"nothing more can be printed ({error}); the run continues") from error

    def _print_all(self) -> None:
        while (what := self._waiting.get()) is not None:
            if not self._gone:
                self._guarded(what)
        if not self._gone:
            self._guarded([])

    def _guarded(self, what: list[str] | TrainingProgress) -> None:
        try:
            if isinstance(what, TrainingProgress):
                self._show(what)
                return
            self._clear()
            if what:
                write_lines(what)
        except Exception as error:  # a closed pipe, a closed descriptor, a terminal that is gone
            self._gone, self._error = True, error
            discard_stdout()

    def _show(self, event: TrainingProgress) -> None:
        wide = columns() >= WIDE
        speed = f"{event.images_per_second:.0f}{' images' if wide else ''}/s"
        text = f"loss {event.loss:.4f}, {speed}, {_clock(event.eta_seconds)} left"
        if event.run_eta_seconds is not None:
            text += f", run {_clock(event.run_eta_seconds)}"
        steps = "{n_fmt}/{total_fmt} " if wide else ""
        form = "{desc} {percentage:3.0f}%|{bar}| " + steps + text
        if self._bar is None or self._of != (event.epoch, event.phase):
            self._clear()
            self._of = (event.epoch, event.phase)
            epochs = self._config.get("experiment", {}).get("epochs")
            self._bar = tqdm(
                total=event.steps,
                initial=event.step,
                desc=f"epoch {event.epoch}{f' of {epochs}' if epochs else ''} {event.phase}",
                leave=False,
                dynamic_ncols=True,
                bar_format=form,
            )
        self._bar.bar_format = form
        self._bar.n = event.step
        self._bar.refresh()

    def _clear(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def resume_command(run_id: int, config: dict[str, Any]) -> str:
    """What continues a stopped run, from the folder it was started in."""
    command = f"python -m engine.train --resume {run_id}"
    database = config.get("output", {}).get("database", DEFAULT_DATABASE)
    if Path(database).absolute() != Path(DEFAULT_DATABASE).absolute():
        command += f" --set {shlex.quote(f'output.database={database}')}"
    return command


def columns() -> int:
    """Of the terminal that shows the bar; 80 where it does not say."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (OSError, ValueError, AttributeError):
        return 80


def is_watched() -> bool:
    """Whether somebody sees a bar: in a notebook, or where stderr is a terminal.

    It may be a file, closed, or not there at all.
    """
    try:
        if sys.stderr is None:
            return False
        return sys.stderr.isatty() or "ipykernel" in sys.modules
    except ValueError:  # closed
        return False


def write_lines(lines: list[str]) -> None:
    """On stdout, where there is one, with escapes for what its encoding lacks."""
    if sys.stdout is None:
        return
    encoding = sys.stdout.encoding or "utf-8"
    text = "\n".join(lines).encode(encoding, "backslashreplace").decode(encoding)
    print(text, flush=True)


def discard_stdout() -> None:
    """Nobody reads stdout: without this the interpreter's last flush fails and changes its exit."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        stdout = sys.stdout.fileno()
        descriptor = os.open(os.devnull, os.O_WRONLY)
        os.dup2(descriptor, stdout)
        os.close(descriptor)


@contextlib.contextmanager
def preparation_bar() -> Iterator[Callable[[int, int], None] | None]:
    """A progress callback (images done, images in all) that draws a bar, where somebody watches."""
    if not is_watched():
        yield None
        return
    with tqdm(desc="preparing", unit=" images", leave=False) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show


def describe(stamped: Stamped) -> list[str]:
    """The lines for a lasting event, free of control characters; further ones are indented."""
    return [
        visible(line) if part == 0 else f"    {visible(line)}"
        for text in _texts(stamped)
        for part, line in enumerate(text.split("\n"))
    ]


def _texts(stamped: Stamped) -> list[str]:
    event = stamped.event
    if isinstance(event, TrainingStarted):
        counts = ", ".join(
            f"{name}: " + " + ".join(f"{n} {label}" for label, n in classes.items())
            for name, classes in event.dataset.items()
            if sum(classes.values())
        )
        return [f"run {stamped.run_id} {event.run_name!r} on {event.device}", counts]
    if isinstance(event, TrainingResumed):
        return [f"resumed after epoch {event.epoch}"]
    if isinstance(event, EpochMetrics):
        return [
            f"{event.epoch:5d}   {event.train_loss:10.4f}  {event.val_loss:8.4f}  "
            f"{_share(event.val_recall)}  {_share(event.val_specificity)}  "
            f"{_share(event.val_auroc)}  {event.learning_rate:7.1e}  {event.epoch_seconds:8.1f}"
            + ("  *" if event.is_best else "")
        ]
    if isinstance(event, LearningRateChanged):
        return [f"        learning rate {event.previous:.2g} -> {event.current:.2g}"]
    if isinstance(event, EarlyStoppingTriggered):
        return [f"        early stop: no improvement for {event.patience} epochs"]
    if isinstance(event, RunWarning):
        return [f"warning: {event.message}"]
    if isinstance(event, TrainingFailed):
        return [f"failed: {event.error}"] + ([f"try: {event.hint}"] if event.hint else [])
    if isinstance(event, TrainingComplete):
        return _ending(event)
    if isinstance(event, CheckpointSaved):
        return [f"saved {event.path} ({event.reason}, epoch {event.epoch})"]
    return []


def _ending(event: TrainingComplete) -> list[str]:
    word = f"stopped ({event.reason})" if isinstance(event, TrainingStopped) else "completed"
    lines = [f"{word} after {event.total_epochs_run} epochs, {event.training_time:.1f} s"]
    if event.best_epoch is not None:
        figures = ", ".join(
            f"{name.removeprefix('best_')} {_share(value).strip()}"
            for name, value in event.metrics.items()
        )
        point = event.operating_point
        rule = f" ({point['rule']})" if point else ""
        at = f"validation part, threshold {point['threshold'] if point else 0.5:.4g}{rule}"
        lines.append(f"kept epoch {event.best_epoch}: {figures} ({at})")
        if event.test is not None:
            lines.append(f"on the test part: {_with_intervals(event.test)}")
        lines.append(f"model: {event.best_model_path}")
    if event.conclusion is not None:
        lines.append(event.conclusion)
    return lines


def _with_intervals(figures: dict[str, Any]) -> str:
    """`recall 0.9000 (0.8000 to 0.9500)` and so on, with 95 % intervals where there are any."""
    texts = []
    for name, value in figures.items():
        if name == "intervals":
            continue
        low, high = figures["intervals"].get(name, (None, None))
        interval = f" ({_share(low).strip()} to {_share(high).strip()})" if low is not None else ""
        texts.append(f"{name} {_share(value).strip()}{interval}")
    return ", ".join(texts)


def _clock(seconds: float) -> str:
    """`1:05`, from an hour on `2:01:05`."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d}"
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _share(value: float | None) -> str:
    return "      -" if value is None or math.isnan(value) else f"{value:7.4f}"
