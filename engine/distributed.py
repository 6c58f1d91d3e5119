"""Several processes that train one model, started by torchrun: who is who, and what they share.

Every call that all processes must make together says so. With one process each is free.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist

from config import UserError

T = TypeVar("T")
DEADLINE = timedelta(hours=2)  # that processes wait for one another: preparing may take long
MEETING = timedelta(minutes=5)  # for all of them to start
NEEDED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # by torchrun


class PeerLost(RuntimeError):
    """Another process of the training is gone, or did not answer in time."""


class Refused(UserError):
    """Process 0 has refused to train, and says why."""


@dataclass(frozen=True)
class _Failure:
    """What process 0 sends instead of an answer."""

    message: str


@dataclass(frozen=True)
class Processes:
    """This process among those of the training."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether it owns database, files, events and console."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        """Whether it is the only one."""
        return self.count == 1

    def share(self, value: Any = None) -> Any:
        """Process 0's `value`, in all of them. Together. Raises PeerLost."""
        if self.is_alone:
            return value
        box = [value]
        with peers():
            dist.broadcast_object_list(box, src=0)
        return box[0]

    def from_main(self, compute: Callable[[], T]) -> T:
        """What `compute` gives in process 0, in all of them; it is called there alone. Together.

        What it raises there is Refused in the others. Raises PeerLost.
        """
        if self.is_alone:
            return compute()
        if not self.is_main:
            answer = self.share()
            if isinstance(answer, _Failure):
                raise Refused(answer.message)
            return cast("T", answer)
        try:
            value = compute()
        except BaseException as error:
            with contextlib.suppress(PeerLost):
                self.share(_Failure(f"{type(error).__name__}: {error}"))
            raise
        return cast("T", self.share(value))

    def once_a_node(self, work: Callable[[], T]) -> T:
        """`work()` in all processes: first in process 0, then in one a machine, then in the rest.

        So what the first leaves on the disk the others find. Together. Raises what `work` raises.
        """
        found: list[T] = []
        self.from_main(lambda: found.append(work()))
        if not self.is_main and self.local_rank == 0:
            found.append(work())
        self.gather(None)
        return found[0] if found else work()

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes by rank, in all of them. Together. Raises PeerLost."""
        if self.is_alone:
            return [value]
        values: list[Any] = [None] * self.count
        with peers():
            dist.all_gather_object(values, value)
        return values

    def any(self, flags: Sequence[bool]) -> list[bool]:
        """Which of the flags are set in at least one process. Together. Raises PeerLost."""
        if self.is_alone:
            return list(flags)
        joined = torch.tensor(flags, dtype=torch.uint8)
        with peers():
            dist.all_reduce(joined, dist.ReduceOp.MAX)
        return [bool(flag) for flag in joined.tolist()]

    def share_tensors(self, tensors: Sequence[torch.Tensor]) -> None:
        """Overwrite the tensors with those of process 0. Together. Raises PeerLost."""
        if self.is_alone:
            return
        with peers():
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def require_equal(self, values: dict[str, Any]) -> None:
        """Together. Raises UserError in all processes where they do not have the same values."""
        found = self.gather(values)
        for rank, other in enumerate(found):
            for key, value in found[0].items():
                if other.get(key) != value:
                    raise UserError(
                        f"the processes of this training do not have the same {key}: {value} in "
                        f"process 0, {other.get(key)} in process {rank}; start all of them with "
                        "the same code, configuration and data set"
                    )


ALONE = Processes()


def join() -> Processes:
    """Meet the other processes that torchrun has started; ALONE where it has not.

    Raises UserError where the environment is incomplete or the others are not found.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ and os.environ.get("WORLD_SIZE", "1") == "1":
        return ALONE
    if missing := [name for name in NEEDED if name not in os.environ]:
        raise UserError(
            f"{', '.join(missing)}: not in the environment, although others of its kind are; "
            "start with torchrun, which sets them"
        )
    rank, count, local_rank = (int(os.environ[name]) for name in NEEDED[:3])
    if count == 1:
        return ALONE
    backend = "gloo"
    if torch.cuda.is_available():
        if local_rank >= torch.cuda.device_count():
            raise UserError(
                f"torchrun started more processes on this machine than it has GPUs "
                f"({torch.cuda.device_count()}); lower --nproc-per-node"
            )
        torch.cuda.set_device(local_rank)  # `auto` is the current device
        backend = "cpu:gloo,cuda:nccl"
    try:
        store = dist.PrefixStore(_attempt(), _store(rank, count))  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=DEADLINE)
    except (dist.DistError, RuntimeError, ValueError) as error:
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise UserError(f"the other processes were not found through {address}: {error}") from error
    return Processes(rank, count, local_rank)


def _store(rank: int, count: int) -> Any:
    """Where the processes find one another; torchrun's agent may hold it already."""
    return dist.TCPStore(  # type: ignore[attr-defined]
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        count,
        is_master=rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True",
        timeout=MEETING,
    )


def _attempt() -> str:
    """The addresses of processes that were there before a restart are still in the store."""
    return f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"


def leave() -> None:
    """Part from the others, at the end of the process."""
    if dist.is_available() and dist.is_initialized():
        with contextlib.suppress(RuntimeError):
            dist.destroy_process_group()


def stream_seed(seed: int, *place: int) -> int:
    """A seed for one step of one process: the same whenever the step is done again."""
    return int(np.random.SeedSequence([seed, *place]).generate_state(1, np.uint64)[0] >> 1)


def launch_name() -> str | None:
    """The name that torchrun gives to all starts of one launch, also after a restart."""
    name = os.environ.get("TORCHELASTIC_RUN_ID")
    if name is None or name != "none":
        return name
    return f"agent-{os.getppid()}"  # without a name the agent, which restarts its workers, is one


@contextlib.contextmanager
def peers() -> Iterator[None]:
    """Turns the errors of an exchange into PeerLost."""
    try:
        yield
    except RuntimeError as error:
        if is_peer_error(error):
            raise PeerLost(str(error)) from error
        raise


def is_peer_error(error: BaseException) -> bool:
    """Whether an exchange failed: gloo raises plain RuntimeErrors, also from `backward`."""
    if isinstance(error, PeerLost | dist.DistError):
        return True
    words = ("gloo", "Connection closed by peer", "Connection reset by peer", "NCCL")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)
