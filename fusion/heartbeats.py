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
_GONE = "fusion/gone"


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
                self.store.add(_key(self.rank), 1)
                found = self.store.add(_key(neighbour), 0)
                if found != last:
                    last, since = found, time.monotonic()
                elif time.monotonic() - since > self.silence and not self._left(neighbour):
                    self.store.set(_GONE, f"{self._name(neighbour)} has been silent for {self.silence:.0f} seconds")
                if self.store.check([_GONE]):
                    end(self.store.get(_GONE).decode())
        except RuntimeError:  # the store is gone, and so is the process that kept it
            if not self._stopped.wait(BEAT):
                end(f"{self._name(0)}, or the launcher beside it, is gone")

    def missing(self, patience: float = 4 * BEAT) -> str:
        """Who does not beat any more; "" where all do."""
        others = [rank for rank in range(len(self.names)) if rank != self.rank]
        try:
            before = [self.store.add(_key(rank), 0) for rank in others]
            time.sleep(patience)
            after = [self.store.add(_key(rank), 0) for rank in others]
        except RuntimeError:
            return f"{self._name(0)}, or the launcher beside it, is gone"
        gone = [self._name(rank) for rank, a, b in zip(others, before, after, strict=True) if a == b]
        return f"{', '.join(gone)} {'is' if len(gone) == 1 else 'are'} gone" if gone else ""

    def done(self, what: str) -> None:
        """Tell those who wait for it."""
        self.store.set(what, "1")

    def wait(self, what: str) -> None:
        """Wait for what another process does, for as long as it takes."""
        while not self.store.check([what]):
            time.sleep(BEAT / 4)

    def give_up(self, why: str) -> None:
        """Tell the others why this process ends."""
        self._stopped.set()
        with suppress(RuntimeError):
            if not self.store.check([_GONE]):
                self.store.set(_GONE, f"{self._name(self.rank)} gave up: {why}")

    def stop(self) -> None:
        """Part in peace: the others do not wait for this one any more."""
        self._stopped.set()
        with suppress(RuntimeError):  # the process that kept the store has left before
            self.store.set(f"{_key(self.rank)}/left", "1")

    def _left(self, rank: int) -> bool:
        return self.store.check([f"{_key(rank)}/left"])

    def _name(self, rank: int) -> str:
        return f"process {rank} ({self.names[rank]})"


def start(rank: int, size: int, host: str) -> Heart:
    """Connect to the store that the launcher or process 0 keeps, exchange names, and begin to beat."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(address, port, is_master=False, timeout=_ANSWER)
    run = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store.set(f"fusion/name/{run}/{rank}", f"{host}, pid {os.getpid()}")
    names = [store.get(f"fusion/name/{run}/{other}").decode() for other in range(size)]
    heart = Heart(store, rank, names)
    threading.Thread(target=heart.beat, args=(_end,), daemon=True, name="heartbeat").start()
    return heart


def _key(rank: int) -> str:
    return f"fusion/beat/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{rank}"


def _end(why: str) -> None:
    """End this process, whose main thread may wait forever in a collective operation."""
    print(f"error: {why}\n  hint: see what it said last; start all of them again with --resume", file=sys.stderr)
    sys.stderr.flush()
    os._exit(1)
