"""Processes that train one net together, as `torchrun` starts them: each takes its share of every batch.

Started alone (no WORLD_SIZE, or 1), nothing here is ever done. What a layer needs to know of the other processes it
asks here, and it is told of them only within `together()`: a test net may run on one of them alone.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from fusion.errors import TrainingError

if TYPE_CHECKING:
    from fusion.distributed.heartbeat import Heart

PATIENCE = timedelta(minutes=30)  # the longest that one process may let the others wait, if it is alive
_MEETING = timedelta(minutes=5)  # within which all have to come
BatchNorms = Literal["sync", "local"]
_joined: ProcessGroup | None = None
_together: ProcessGroup | None = None


@dataclass(frozen=True)
class Teamwork:
    """How several processes work together; without others it means nothing.

    batch_norm  "sync": statistics over the batches of all processes; "local": each over its own share
    auto_scale  each process takes whole batches of the solver's size, and the learning rate is multiplied by their
                number; otherwise they divide each batch among them, and train as one process would
    """

    batch_norm: BatchNorms = "sync"
    auto_scale: bool = False


@dataclass(frozen=True, eq=False)
class ProcessGroup:
    """This process among the others.

    rank, size  its number, and how many there are
    local_rank  its number on this machine
    heart       tells the others that this one lives, and watches over one of them
    """

    rank: int
    size: int
    local_rank: int
    heart: Heart

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and reports."""
        return self.rank == 0

    def share(self, count: int) -> tuple[int, int]:
        """This process's part of `count` things in a row: where it begins and ends."""
        return count * self.rank // self.size, count * (self.rank + 1) // self.size

    def add(self, tensor: Tensor) -> Tensor:
        """Add up a tensor of the same shape on all processes, in place. Raises: TrainingError when one is gone."""
        with self.speaking():
            torch.distributed.all_reduce(tensor)
        return tensor

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean of a tensor over all processes, in place. Raises: TrainingError when one is gone."""
        return self.add(tensor).div_(self.size)

    def copy_first(self, tensors: Sequence[Tensor]) -> None:
        """Give all processes the first one's values. Raises: TrainingError when one is gone."""
        with self.speaking():
            for tensor in tensors:
                torch.distributed.broadcast(tensor, 0)

    def gather(self, item: Any) -> list[Any]:
        """What each process gives, by rank; nothing where this is not the first one. Raises: TrainingError."""
        found: list[Any] = [None] * self.size
        with self.speaking():
            torch.distributed.gather_object(item, found if self.first else None)
        return found if self.first else []

    def told(self, item: Any) -> Any:
        """What the first process gives. Raises: TrainingError when one is gone."""
        found = [item]
        with self.speaking():
            torch.distributed.broadcast_object_list(found)
        return found[0]

    @contextmanager
    def speaking(self) -> Iterator[None]:
        """Say which process is gone where torch says that a connection broke. Raises: TrainingError."""
        try:
            yield
        except RuntimeError as error:
            raise TrainingError(
                f"process {self.rank} of {self.size}: {self.heart.missing() or 'the others do not answer any more'}",
                hint="see what it said last; start all of them again with --resume",
            ) from error


@contextmanager
def in_turn(what: str) -> Iterator[None]:
    """Let the first process of each machine do something before the others do it."""
    if _joined is None:
        yield
        return
    key = f"fusion/turn/{socket.gethostname()}/{what}"
    if _joined.local_rank:
        _joined.heart.wait(key)
    yield
    if not _joined.local_rank:
        _joined.heart.done(key)


def wanted() -> int:
    """How many processes the launcher has started; 1 without one."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def join(kind: str) -> ProcessGroup | None:
    """Meet the other processes, once; None where there are none.

    kind  "cpu" or "cuda": where tensors lie
    Raises: TrainingError when the launcher's variables are incomplete or the others do not come.
    """
    global _joined
    if wanted() == 1:
        return None
    if _joined is None:
        _joined = _meet(kind)
    return _joined


def leave() -> None:
    """Part from the other processes in peace."""
    global _joined
    if _joined is not None:
        _joined.heart.stop()
        torch.distributed.destroy_process_group()
        _joined = None


@contextmanager
def session() -> Iterator[None]:
    """Part from the other processes when the block ends: in peace, or telling them what went wrong."""
    try:
        yield
    except Exception as error:
        if _joined is not None:
            _joined.heart.give_up(str(error))
        raise
    except KeyboardInterrupt:
        leave()
        raise
    leave()


def _meet(kind: str) -> ProcessGroup:
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]

    from fusion.distributed.heartbeat import open_store, start, start_number

    rank, size, local = (int(os.environ.get(name, "-1")) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    if not 0 <= rank < size or "MASTER_ADDR" not in os.environ:
        hint = "start with torchrun, which sets RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT"
        raise TrainingError(f"WORLD_SIZE is {size}, and RANK or MASTER_ADDR is missing", hint=hint)
    if kind == "cuda":
        if local >= torch.cuda.device_count():
            message = f"process {local} of this machine has no GPU: there are {torch.cuda.device_count()}"
            raise TrainingError(message, hint="start fewer processes per machine, or train with --device cpu")
        torch.cuda.set_device(max(local, 0))
    backend = "cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo"
    try:
        kept_by_launcher = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        store = open_store(keeps=rank == 0 and not kept_by_launcher, timeout=_MEETING)
        own = PrefixStore(f"group/{start_number()}", store)
        torch.distributed.init_process_group(backend, store=own, rank=rank, world_size=size, timeout=PATIENCE)
        heart = start(rank, size, socket.gethostname())
    except (RuntimeError, ValueError) as error:
        address = f"{os.environ['MASTER_ADDR']}:{os.environ.get('MASTER_PORT')}"
        hint = "are all of them started, with the same address and port? Does a firewall stand between?"
        raise TrainingError(f"the {size} processes do not meet at {address}: {error}", hint=hint) from error
    return ProcessGroup(rank, size, max(local, 0), heart)


@contextmanager
def together(world: ProcessGroup | None) -> Iterator[None]:
    """Within the block all processes run the same layers on shares of one batch."""
    global _together
    _together, before = world, _together
    try:
        yield
    finally:
        _together = before


def now() -> ProcessGroup | None:
    """The other processes, if this one runs together with them at this moment."""
    return _together


def alone() -> bool:
    """Whether this process has joined others but runs by itself at this moment."""
    return _joined is not None and _together is None
