"""Heartbeats: each process adds to a counter in a store, and watches the counter of its neighbour.

A collective operation waits for a process that is gone as long as for a slow one. Therefore a thread watches the next
process, whatever the main thread does, and ends this one with a message when that process falls silent. torchrun alone
ends all processes of its machine half a second after one dies, but it notices neither a process that hangs nor, outside
of collectives, another machine that is gone (both measured: all others still waited after 90 seconds).
"""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from torch.distributed import TCPStore  # type: ignore[attr-defined]

if TYPE_CHECKING:
    from collections.abc import Callable

BEAT = 1.0  # seconds
SILENCE = 25.0  # seconds after which a process counts as gone
_ANSWER = timedelta(seconds=20)  # within which the store must answer


@dataclass
class Heartbeat:
    """The heartbeat of one process.

    names  of every process: host and number of the process there
    """

    store: TCPStore
    rank: int
    names: list[str]
    silence: float = SILENCE
    _stopped: threading.Event = field(default_factory=threading.Event)

    def beat(self, end: Callable[[str], None]) -> None:
        """Beat and watch the next process until stopped; call `end` with a message when a process is gone."""
        neighbour, last, since = (self.rank + 1) % len(self.names), -1, time.monotonic()
        try:
            while not self._stopped.wait(BEAT):
                self.store.add(_beat_key(self.rank), 1)
                count = self.store.add(_beat_key(neighbour), 0)  # adding 0 reads a counter that may not exist yet
                if count != last:
                    last, since = count, time.monotonic()
                elif time.monotonic() - since > self.silence and not self._has_left(neighbour):
                    # Others watch other neighbours: they learn of it through the store.
                    text = f"{self._name(neighbour)} has been silent for {self.silence:.0f} seconds"
                    self.store.set(_key("gone"), text)
                if self.store.check([_key("gone")]):
                    end(self.store.get(_key("gone")).decode())
        except RuntimeError:  # the store is gone, and so is the process that kept it
            if not self._stopped.wait(BEAT):
                end(f"{self._name(0)}, or the launcher beside it, is gone")

    def missing(self, patience: float = 4 * BEAT) -> str:
        """Return which processes have stopped beating; "" where all beat."""
        others = [rank for rank in range(len(self.names)) if rank != self.rank]
        try:
            before = [self.store.add(_beat_key(rank), 0) for rank in others]
            time.sleep(patience)
            after = [self.store.add(_beat_key(rank), 0) for rank in others]
        except RuntimeError:
            return f"{self._name(0)}, or the launcher beside it, is gone"
        gone = [self._name(rank) for rank, a, b in zip(others, before, after, strict=True) if a == b]
        return f"{', '.join(gone)} {'is' if len(gone) == 1 else 'are'} gone" if gone else ""

    def done(self, name: str) -> None:
        """Release those who wait for this name."""
        self.store.set(_key(name), "1")

    def wait(self, name: str) -> None:
        """Wait until another process calls `done`, for as long as it takes."""
        while not self.store.check([_key(name)]):
            time.sleep(BEAT / 4)

    def give_up(self, reason: str) -> None:
        """Send the others the reason why this process ends."""
        self._stopped.set()
        with suppress(RuntimeError):
            if not self.store.check([_key("gone")]):
                self.store.set(_key("gone"), f"{self._name(self.rank)} gave up: {reason}")

    def stop(self) -> None:
        """Stop beating, and let the others know that they need not wait for this process."""
        self._stopped.set()
        with suppress(RuntimeError):  # the process that kept the store has left before
            self.store.set(f"{_beat_key(self.rank)}/left", "1")

    def _has_left(self, rank: int) -> bool:
        return self.store.check([f"{_beat_key(rank)}/left"])

    def _name(self, rank: int) -> str:
        return f"process {rank} ({self.names[rank]})"


def start(rank: int, size: int, host: str) -> Heartbeat:
    """Connect to the open store, exchange names, and begin to beat."""
    store = open_store(is_master=False, timeout=_ANSWER)
    store.set(_key(f"name/{rank}"), f"{host}, pid {os.getpid()}")
    names = [store.get(_key(f"name/{other}")).decode() for other in range(size)]
    heartbeat = Heartbeat(store, rank, names)
    threading.Thread(target=heartbeat.beat, args=(_end,), daemon=True, name="heartbeat").start()
    return heartbeat


def open_store(*, is_master: bool, timeout: timedelta) -> TCPStore:
    """Connect to the store of the launcher, or of process 0.

    is_master  whether this process keeps the store
    Raises: RuntimeError when nobody answers
    """
    return TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=is_master,
        timeout=timeout,
        wait_for_workers=False,
    )


def restart_count() -> str:
    """Return how often the launcher has restarted the processes; its store still holds the keys of earlier starts."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")


def _key(name: str) -> str:
    return f"fusion/{restart_count()}/{name}"


def _beat_key(rank: int) -> str:
    return _key(f"beat/{rank}")


def _end(reason: str) -> None:
    """End this process, whose main thread may wait forever in a collective operation."""
    print(f"error: {reason}\n  hint: see its last messages; start all of them again with --resume", file=sys.stderr)
    sys.stderr.flush()
    os._exit(1)
