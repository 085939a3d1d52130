"""Ctrl-C and SIGTERM: snapshot and stop; hang-up and SIGUSR1: snapshot and go on, as Caffe treats the first of each."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

_AGAIN = 1.0  # seconds within which a second signal is the same wish: a terminal and a launcher may both send one


@dataclass
class Requests:
    """What the user has asked for since it was last looked at."""

    stop: bool = False
    snapshot: bool = False


@contextmanager
def requests() -> Iterator[Requests]:
    """Collect SIGINT, SIGTERM (stop), SIGHUP, SIGUSR1 (snapshot) while the block runs.

    A second Ctrl-C interrupts at once.
    """
    asked = Requests()
    first = 0.0
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal first
        if asked.stop and number == signal.SIGINT and time.monotonic() > first + _AGAIN:
            raise KeyboardInterrupt
        first = first or time.monotonic()
        asked.stop = True

    def snapshot(number: int, frame: FrameType | None) -> None:
        asked.snapshot = True

    handlers = {signal.SIGINT: stop, signal.SIGTERM: stop}
    handlers.update({getattr(signal, name): snapshot for name in ("SIGHUP", "SIGUSR1") if hasattr(signal, name)})
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
