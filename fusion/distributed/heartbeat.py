"""Who of several processes is still there: each one's heart beats in a store, and each watches its neighbour.

A collective operation waits for a process that is gone as long as for a slow one. Hence a thread looks after the next
process, whatever the main thread does, and ends this one with a message when that falls silent.
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
class Heart:
    """The beats of one process.

    names  of every process: host and number of the process there
    """

    store: TCPStore
    rank: int
    names: list[str]
    silence: float = SILENCE
    _stopped: threading.Event = field(default_factory=threading.Event)

    def beat(self, end: Callable[[str], None]) -> None:
        """Beat and watch the next process until stopped; `end` is told who is gone."""
        neighbour, last, since = (self.rank + 1) % len(self.names), -1, time.monotonic()
        try:
            while not self._stopped.wait(BEAT):
                self.store.add(_beat(self.rank), 1)
                found = self.store.add(_beat(neighbour), 0)
                if found != last:
                    last, since = found, time.monotonic()
                elif time.monotonic() - since > self.silence and not self._left(neighbour):
                    self.store.set(
                        _key("gone"), f"{self._name(neighbour)} has been silent for {self.silence:.0f} seconds"
                    )
                if self.store.check([_key("gone")]):
                    end(self.store.get(_key("gone")).decode())
        except RuntimeError:  # the store is gone, and so is the process that kept it
            if not self._stopped.wait(BEAT):
                end(f"{self._name(0)}, or the launcher beside it, is gone")

    def missing(self, patience: float = 4 * BEAT) -> str:
        """Who does not beat any more; "" where all do."""
        others = [rank for rank in range(len(self.names)) if rank != self.rank]
        try:
            before = [self.store.add(_beat(rank), 0) for rank in others]
            time.sleep(patience)
            after = [self.store.add(_beat(rank), 0) for rank in others]
        except RuntimeError:
            return f"{self._name(0)}, or the launcher beside it, is gone"
        gone = [self._name(rank) for rank, a, b in zip(others, before, after, strict=True) if a == b]
        return f"{', '.join(gone)} {'is' if len(gone) == 1 else 'are'} gone" if gone else ""

    def done(self, what: str) -> None:
        """Tell those who wait for it."""
        self.store.set(_key(what), "1")

    def wait(self, what: str) -> None:
        """Wait for what another process does, for as long as it takes."""
        while not self.store.check([_key(what)]):
            time.sleep(BEAT / 4)

    def give_up(self, why: str) -> None:
        """Tell the others why this process ends."""
        self._stopped.set()
        with suppress(RuntimeError):
            if not self.store.check([_key("gone")]):
                self.store.set(_key("gone"), f"{self._name(self.rank)} gave up: {why}")

    def stop(self) -> None:
        """Part in peace: the others do not wait for this one any more."""
        self._stopped.set()
        with suppress(RuntimeError):  # the process that kept the store has left before
            self.store.set(f"{_beat(self.rank)}/left", "1")

    def _left(self, rank: int) -> bool:
        return self.store.check([f"{_beat(rank)}/left"])

    def _name(self, rank: int) -> str:
        return f"process {rank} ({self.names[rank]})"


def start(rank: int, size: int, host: str) -> Heart:
    """Connect to the store that is open by now, exchange names, and begin to beat."""
    store = open_store(keeps=False, timeout=_ANSWER)
    store.set(_key(f"name/{rank}"), f"{host}, pid {os.getpid()}")
    names = [store.get(_key(f"name/{other}")).decode() for other in range(size)]
    heart = Heart(store, rank, names)
    threading.Thread(target=heart.beat, args=(_end,), daemon=True, name="heartbeat").start()
    return heart


def open_store(*, keeps: bool, timeout: timedelta) -> TCPStore:
    """Connect to the store of the launcher, or of process 0.

    keeps  whether this process keeps the store
    Raises: RuntimeError when nobody answers
    """
    return TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=keeps,
        timeout=timeout,
        wait_for_workers=False,
    )


def start_number() -> str:
    """How often the launcher has started the processes anew; its store still holds what they said before."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")


def _key(name: str) -> str:
    return f"fusion/{start_number()}/{name}"


def _beat(rank: int) -> str:
    return _key(f"beat/{rank}")


def _end(why: str) -> None:
    """End this process, whose main thread may wait forever in a collective operation."""
    print(f"error: {why}\n  hint: see what it said last; start all of them again with --resume", file=sys.stderr)
    sys.stderr.flush()
    os._exit(1)
