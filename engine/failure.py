"""What a person reads about a run that fails: the error in a line, and what to try."""

from __future__ import annotations

import contextlib
import shlex
import signal
import threading
from pathlib import Path

import torch

from config import Config, ConfigManager, UserError
from engine.limits import OUT_OF_MEMORY, limit_reached
from engine.run import TrainingDiverged


def describe_error(error: BaseException) -> str:
    """One line for a person."""
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


def hint_for(error: BaseException, config: Config, run_id: int | None) -> str | None:
    """What to try, where something is known to help."""
    text = str(error)
    if isinstance(error, TrainingDiverged):
        return "start a new run with a lower experiment.learning_rate or system.precision=fp32"
    if limit := limit_reached(error):
        return limit
    out_of_memory = isinstance(error, torch.OutOfMemoryError | MemoryError)
    if out_of_memory or any(words in text for words in OUT_OF_MEMORY):
        return memory_hint(config)
    if "CUBLAS_WORKSPACE_CONFIG" in text:
        return "restart Python: system.deterministic came after the first use of the GPU"
    if "DataLoader worker" in text and run_id is not None:
        command = resume_command(run_id, config, "system.num_workers=0")
        return f"{command} continues the run without loader processes, which need memory, too"
    return None


def memory_hint(config: Config) -> str:
    """Half the batch, and the same optimizer step from twice as many of them."""
    batch, accumulate = config.system.batch_size, config.experiment.accumulate
    if batch == 1:
        return "start a new run with a lower data.image_size or a smaller model.backbone"
    return (
        f"start a new run with system.batch_size={batch // 2} and "
        f"experiment.accumulate={accumulate * 2}: less memory for nearly the same optimizer step"
    )


def resume_command(run_id: int, config: Config, *settings: str) -> str:
    """The command that continues a run from this folder, with `settings` (KEY=VALUE)."""
    words = ["python", "-m", "engine.train", "--resume", str(run_id)]
    with contextlib.suppress(UserError):
        found = Path(ConfigManager.load().output.database).absolute()
        if str(found) != config.absolute().output.database:
            settings = (f"output.database={config.output.database}", *settings)
    for setting in settings:
        words += ["--set", setting]
    return shlex.join(words)


def ignore_dead_loaders() -> None:
    """Remove torch's SIGCHLD handler, which raises wherever the main thread happens to be."""
    main = threading.current_thread() is threading.main_thread()
    if main and hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
