"""Ctrl-C and SIGTERM: snapshot and stop; SIGHUP and SIGUSR1: snapshot and continue, as in Caffe."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

_SAME = 1.0  # seconds within which a second signal is the same request: a terminal and a launcher may both send one


@dataclass
class Requests:
    """The requests of the user that are not served yet."""

    stop: bool = False
    snapshot: bool = False


@contextmanager
def requests_by_signal() -> Iterator[Requests]:
    """Collect SIGINT, SIGTERM (stop), SIGHUP, SIGUSR1 (snapshot) while the block runs.

    A second Ctrl-C interrupts at once.
    """
    requests = Requests()
    first = 0.0
    if threading.current_thread() is not threading.main_thread():  # Python allows handlers in the main thread only
        yield requests
        return

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal first
        if requests.stop and number == signal.SIGINT and time.monotonic() > first + _SAME:
            raise KeyboardInterrupt
        first = first or time.monotonic()
        requests.stop = True

    def snapshot(number: int, frame: FrameType | None) -> None:
        requests.snapshot = True

    handlers = {signal.SIGINT: stop, signal.SIGTERM: stop}
    handlers.update({getattr(signal, name): snapshot for name in ("SIGHUP", "SIGUSR1") if hasattr(signal, name)})
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield requests
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
