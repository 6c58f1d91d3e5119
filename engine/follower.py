"""The processes of a training beside process 0: they compute, and own no file, event or console."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config import Config
from engine.data.prepare import Prepared, prepare
from engine.distributed import Processes
from engine.model.start import seeded_network
from engine.records.manifest import code_version
from engine.run import Run
from engine.stop import StopRequest


@dataclass(frozen=True)
class Orders:
    """What process 0 has claimed, for the others."""

    run_id: int
    run_uid: str
    run_name: str
    config: dict[str, Any]
    dataset: str
    resumes: bool
    is_stored: bool  # its configuration comes from the database, not from the command line


def follow(given: Config, processes: Processes, stop: StopRequest) -> None:
    """Train with process 0, until it has ended the run.

    `given` is the configuration of this process's own command line. Raises UserError, Refused
    where process 0 does not train, and PeerLost.
    """
    orders: Orders | None = processes.from_main(lambda: None)
    if orders is None:
        return  # nothing is left to do
    config = Config.from_dict(orders.config)
    data = processes.once_a_node(lambda: prepare(Path(orders.dataset), config))
    require_agreement(processes, config if orders.is_stored else given.absolute(), data)
    # Process 0 has the weights, and shares them.
    model = dataclasses.replace(config.model, weights="none")
    network = seeded_network(dataclasses.replace(config, model=model))
    run = Run(
        orders.run_id,
        orders.run_uid,
        orders.run_name,
        config,
        data,
        network,
        lambda _event: None,
        stop,
        processes,
    )
    with run.threads:
        run.train(orders.resumes)
    processes.share()  # process 0 may still score the test part


def require_agreement(processes: Processes, config: Config, data: Prepared) -> None:
    """Together. Raises UserError where data, code or configuration differ between processes."""
    values = {
        f"{section}.{key}": value
        for section, keys in config.to_dict().items()
        for key, value in keys.items()
        if section != "output"
    }
    code = code_version()["source"]
    processes.require_equal({"data set": data.fingerprint, "source code": code, **values})
