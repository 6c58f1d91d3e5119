"""`python -m server --demo`: something to look at within two minutes."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

from config import UserError
from engine.cli import DEMO_OVERRIDES
from engine.records.database import LIVE
from engine.records.store import Store
from server.check_dataset import check
from server.settings import Settings

FINISHED, SHORT = "demo: soon finished", 6  # epochs
WATCHED, LONG = "demo: to watch", 60


async def queue_demo(settings: Settings) -> None:
    """Queue a short run and a long one on synthetic images, the short one only once.

    Raises UserError where the images cannot be made.
    """
    dataset = demo_dataset(settings)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "engine.data.phantoms", str(dataset)
    )
    if await process.wait() != 0:
        raise UserError(f"the demo's images could not be made in {dataset.parent}")
    found = await check(dataset, dataset.name, settings.config)
    if "problems" in found:
        raise UserError(f"the demo's data set is not accepted: {found['detail']}")
    async with await Store.open(settings.database) as store:
        await store.put_dataset(dataset.stem, str(dataset), None, found["report"])
        for name, epochs, enough in ((FINISHED, SHORT, "completed"), (WATCHED, LONG, "queued")):
            if not await store.list_runs((enough, "queued", *LIVE), name):
                async with store.transaction():
                    await store.create_run(
                        run_name=name,
                        run_description="synthetic images, made by python -m server --demo",
                        config=demo_config(settings, epochs),
                        dataset_path=str(dataset),
                        status="queued",
                    )


def demo_dataset(settings: Settings) -> Path:
    """Where `python -m engine.train --demo` has it too."""
    return Path(settings.config.output.cache_dir).resolve() / "chest_phantoms.zip"


def demo_config(settings: Settings, epochs: int) -> dict[str, dict[str, Any]]:
    """The server's configuration, small enough for two CPU cores."""
    values = settings.config.absolute().to_dict()
    overrides = {**DEMO_OVERRIDES, "experiment.epochs": epochs}
    overrides["experiment.early_stopping_patience"] = epochs
    if epochs == LONG:
        overrides["experiment.learning_rate"] = 5e-5  # slow enough to see it learn
    for key, value in overrides.items():
        section, name = key.split(".")
        values[section][name] = value
    return values
