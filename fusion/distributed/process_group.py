"""The processes that train one net together, as `torchrun` starts them: each takes its share of every batch.

Without torchrun (no WORLD_SIZE, or 1) nothing here has any effect. Layers find the other processes by `current_group`,
which returns them only within `in_step()`: a test net may run in one process alone.
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
    from fusion.distributed.heartbeat import Heartbeat

PATIENCE = timedelta(minutes=30)  # the longest that a living process may keep the others waiting
_MEETING = timedelta(minutes=5)  # the longest that a process waits for the others at the start
BatchNorms = Literal["sync", "local"]
_joined: ProcessGroup | None = None
_in_step: ProcessGroup | None = None


@dataclass(frozen=True)
class DataParallelOptions:
    """How several processes train together; without others it has no effect.

    batch_norm  "sync": statistics over the batches of all processes; "local": each over its own share
    auto_scale  each process takes whole batches of the solver's size, and the learning rate is multiplied by their
                number; otherwise they divide each batch among them, and train as one process does
    """

    batch_norm: BatchNorms = "sync"
    auto_scale: bool = False


@dataclass(frozen=True, eq=False)
class ProcessGroup:
    """The processes, seen from this one.

    rank, size  its number, and the number of processes
    local_rank  its number on this machine
    heartbeat   shows the others that this process is alive, and watches one of them
    """

    rank: int
    size: int
    local_rank: int
    heartbeat: Heartbeat

    @property
    def first(self) -> bool:
        """Return whether this is the process that writes files and reports."""
        return self.rank == 0

    def share(self, count: int) -> tuple[int, int]:
        """Return the range [start, end) of this process's part of `count` items."""
        return count * self.rank // self.size, count * (self.rank + 1) // self.size

    def add(self, tensor: Tensor) -> Tensor:
        """Sum a tensor of the same shape over all processes, in place. Raises: TrainingError when one is gone."""
        with self._named_errors():
            torch.distributed.all_reduce(tensor)
        return tensor

    def mean(self, tensor: Tensor) -> Tensor:
        """Average a tensor over all processes, in place. Raises: TrainingError when one is gone."""
        return self.add(tensor).div_(self.size)

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Give all processes the first one's values. Raises: TrainingError when one is gone."""
        with self._named_errors():
            for tensor in tensors:
                torch.distributed.broadcast(tensor, 0)

    def gather(self, item: Any) -> list[Any]:
        """Return the item of each process by rank, in the first process; [] in the others. Raises: TrainingError."""
        items: list[Any] = [None] * self.size
        with self._named_errors():
            torch.distributed.gather_object(item, items if self.first else None)
        return items if self.first else []

    def broadcast_object(self, item: Any) -> Any:
        """Return the item of the first process. Raises: TrainingError when one is gone."""
        items = [item]
        with self._named_errors():
            torch.distributed.broadcast_object_list(items)
        return items[0]

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        """Raise a TrainingError that names the process that is gone where torch reports a broken connection."""
        try:
            yield
        except RuntimeError as error:
            raise TrainingError(
                f"process {self.rank} of {self.size}: {self.heartbeat.missing() or 'the others no longer answer'}",
                hint="see its last messages; start all of them again with --resume",
            ) from error


@contextmanager
def in_turn(name: str) -> Iterator[None]:
    """Run the block in the first process of each machine before the others run it."""
    if _joined is None:
        yield
        return
    key = f"fusion/turn/{socket.gethostname()}/{name}"
    if _joined.local_rank:
        _joined.heartbeat.wait(key)
    yield
    if not _joined.local_rank:
        _joined.heartbeat.done(key)


def world_size() -> int:
    """Return the number of processes that the launcher has started; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def join(kind: str) -> ProcessGroup | None:
    """Connect to the other processes, once; returns None where there are none.

    kind  "cpu" or "cuda": the device of the tensors
    Raises: TrainingError when the launcher's variables are incomplete or the others do not connect.
    """
    global _joined
    if world_size() == 1:
        return None
    if _joined is None:
        _joined = _connect(kind)
    return _joined


def leave() -> None:
    """Disconnect from the other processes, which do not wait for this one any more."""
    global _joined
    if _joined is not None:
        _joined.heartbeat.stop()
        torch.distributed.destroy_process_group()
        _joined = None


@contextmanager
def session() -> Iterator[None]:
    """Disconnect from the other processes when the block ends, and send them the error where it failed."""
    try:
        yield
    except Exception as error:
        if _joined is not None:
            _joined.heartbeat.give_up(str(error))
        raise
    except KeyboardInterrupt:
        leave()
        raise
    leave()


def _connect(kind: str) -> ProcessGroup:
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]

    from fusion.distributed.heartbeat import open_store, restart_count, start

    rank, size, local = (int(os.environ.get(name, "-1")) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    if not 0 <= rank < size or "MASTER_ADDR" not in os.environ:
        hint = "start with torchrun, which sets RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT"
        raise TrainingError(f"WORLD_SIZE is {size}, and RANK or MASTER_ADDR is missing", hint=hint)
    if kind == "cuda":
        if local >= torch.cuda.device_count():
            message = f"process {local} of this machine has no GPU: there are {torch.cuda.device_count()}"
            raise TrainingError(message, hint="start fewer processes per machine, or train with --device cpu")
        torch.cuda.set_device(max(local, 0))  # NCCL uses the current device
    backend = "cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo"  # objects are exchanged on the CPU
    try:
        # torchrun keeps the store itself by default
        launcher_store = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        store = open_store(is_master=rank == 0 and not launcher_store, timeout=_MEETING)
        own = PrefixStore(f"group/{restart_count()}", store)  # a restart must not find the keys of the start before
        torch.distributed.init_process_group(backend, store=own, rank=rank, world_size=size, timeout=PATIENCE)
        heartbeat = start(rank, size, socket.gethostname())
    except (RuntimeError, ValueError) as error:
        address = f"{os.environ['MASTER_ADDR']}:{os.environ.get('MASTER_PORT')}"
        hint = "start all of them, with the same address and port, and look for a firewall between them"
        raise TrainingError(f"the {size} processes cannot connect at {address}: {error}", hint=hint) from error
    return ProcessGroup(rank, size, max(local, 0), heartbeat)


@contextmanager
def in_step(group: ProcessGroup | None) -> Iterator[None]:
    """Declare that in this block all processes run the same layers on their shares of one batch."""
    global _in_step
    _in_step, before = group, _in_step
    try:
        yield
    finally:
        _in_step = before


def current_group() -> ProcessGroup | None:
    """Return the processes, if they run in step at this moment."""
    return _in_step


def alone() -> bool:
    """Return whether this process is connected to others but not in step with them at this moment."""
    return _joined is not None and _in_step is None
