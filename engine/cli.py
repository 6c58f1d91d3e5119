"""What the commands share: configuration options, a stored run, limits, signals, the end."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import io
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TextIO

from config import Config, UserError
from engine.limits import limit_reached, memory_note, require_files

DONE, FAULT, MISTAKE, INTERRUPTED = 0, 1, 2, 130  # exit codes
DEMO_OVERRIDES = {
    "experiment.epochs": 8,
    "experiment.learning_rate": 0.001,
    "model.backbone": "resnet18",
    "model.weights": "none",
    "data.image_size": 64,
}


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that answers an unknown option with the nearest one."""

    program: str | None = None  # the name it was called by, where that is the installed command

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """As in argparse, with --version."""
        super().__init__(*arguments, **options)
        self.prog = self.program or self.prog
        self.add_argument("--version", action=_Version, nargs=0, help="print the version and end")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As in argparse, but an unknown option comes before one that is missing."""
        words = sys.argv[1:] if args is None else list(args)
        options = list(self._option_string_actions)
        for word in words:
            if word == "--":
                break
            name = word.partition("=")[0]
            if not name.startswith("--") or any(known.startswith(name) for known in options):
                continue
            near = difflib.get_close_matches(name[:60], options, n=1, cutoff=0.0)
            self.error(f"unknown option {name[:60]}; did you mean {near[0]}?")
        return super().parse_known_args(words, namespace)


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        print(f"pneumoscope {installed_version()}")
        parser.exit()


def installed_version() -> str:
    """The version of the package; "unknown" where it runs from a folder that is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("pneumoscope")
    except PackageNotFoundError:
        return "unknown"


def add_config_options(command: argparse.ArgumentParser) -> None:
    """--config and --set."""
    command.add_argument("--config", type=Path, help="a YAML file of configuration keys")
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override one configuration key; may be given again",
    )


def set_values(items: list[str]) -> dict[str, str]:
    """KEY=VALUE pairs as dotted overrides. Raises UserError for one without a value."""
    chosen = {}
    for item in items:
        key, separator, value = item.partition("=")
        if not separator:
            raise UserError(f"--set {item}: write it as KEY=VALUE, as in experiment.epochs=10")
        chosen[key.strip()] = value.strip()
    return chosen


def stored_config(row: dict[str, Any], base: Config, keys: Iterable[str] = ()) -> Config:
    """A stored run's configuration, with the database and `keys` as the command line has them.

    Raises UserError for a stored configuration that does not fit this version.
    """
    given = base.to_dict()
    values = Config.from_dict(row["config"]).to_dict() if row["config"] else given
    for key in ("output.database", *keys):
        section, name = key.split(".")
        values[section][name] = given[section][name]
    return Config.from_dict(values)


def model_path(given: Path, config: Config) -> Path:
    """The bundle that a command line names: a file, or the model of a run by the run's number.

    Raises UserError for a number that the database does not have.
    """
    text = str(given)
    if given.exists() or not (text.isascii() and text.isdigit() and len(text) <= 18):
        return given
    from engine.records.claim import stored_run
    from engine.records.identity import run_folder

    row = stored_run(Path(config.output.database), int(text))
    output = stored_config(row, config).to_dict()["output"]
    return run_folder(output, int(text)) / "best_model.pt"


def run_command(main: Callable[[], int]) -> NoReturn:
    """Run a command with safe streams and limits, and end the process with its exit code.

    A fault that was not caught is a traceback and exit code 1; for lack of memory, threads or
    file descriptors it is one message with a way out.
    """
    protect_streams()
    try:
        require_files()
        if note := memory_note():
            print(note, file=sys.stderr)
        code = main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = MISTAKE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = INTERRUPTED
    except (MemoryError, OSError, ImportError, RuntimeError) as error:
        reason = limit_reached(error)
        if reason is None:
            raise
        print(f"error: {type(error).__name__}: {error}\ntry: {reason}", file=sys.stderr)
        code = FAULT
    leave(code)


def leave(code: int) -> NoReturn:
    """End the process; after a fault at once, for torch's threads may abort a slow end with -6."""
    sys.stdout.flush()
    sys.stderr.flush()
    if code == FAULT:
        os._exit(code)
    sys.exit(code)


def protect_streams() -> None:
    """Make stdout and stderr safe to print to: any text, also where nobody reads it any more.

    A closed stream becomes the null device: the next file opened, the database perhaps, would
    otherwise get its number. What a terminal cannot show is written as an escape. A closed pipe
    or a full disk below the output does not end a run.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    sys.stdout = _protected(1, sys.stdout)
    sys.stderr = _protected(2, sys.stderr)


class _Output(io.FileIO):
    """A file descriptor whose write errors are ignored."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)


def _protected(number: int, stream: TextIO | None) -> TextIO:
    encoding = stream.encoding if stream is not None else "utf-8"
    output = _Output(number, "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(output),
        encoding=encoding,
        errors="backslashreplace",
        line_buffering=True,
    )


@contextlib.contextmanager
def stop_on_signals(stop: Callable[[str], None], speaks: bool = True) -> Iterator[None]:
    """Within, SIGINT, SIGTERM, SIGQUIT and SIGHUP call `stop`; a second one ends at once.

    Not a second SIGHUP: a closing terminal may send two. Where SIGHUP is ignored (nohup), it
    stays ignored.
    """
    owner = os.getpid()

    def on_signal(number: int, _frame: FrameType | None) -> None:
        if os.getpid() != owner:
            return  # a data-loader process: its parent still needs it
        name = signal.Signals(number).name
        if name != "SIGHUP":
            signal.signal(number, signal.SIG_DFL)
        stop(f"stopped by {name}")
        if not speaks:
            return
        # Not print: the signal may have come in the middle of one.
        message = f"\n{name}: finishing this step and saving; again to end at once\n"
        with contextlib.suppress(OSError):  # stderr may be closed
            os.write(2, message.encode())

    before = {}
    for name in ("SIGINT", "SIGTERM", "SIGQUIT", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            before[number] = signal.signal(number, on_signal)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
