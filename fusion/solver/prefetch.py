"""Reading ahead in a thread, so that a batch is ready before the step that needs it."""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

_POLL = 0.5  # seconds after which the thread looks whether anybody still reads


class ahead(Generic[T]):  # noqa: N801 - used like a generator function
    """The iterator's items, made up to `depth` in advance by a thread; its error is raised where the item was due.

    The thread ends with the iterator, and when nobody holds this object any more.
    """

    def __init__(self, items: Iterator[T], depth: int = 3) -> None:
        self._queue: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(depth)
        self._ended: BaseException | None = None
        stop = threading.Event()
        weakref.finalize(self, stop.set)
        threading.Thread(target=_fill, args=(items, self._queue, stop), daemon=True, name="prefetch").start()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        if self._ended is not None:
            raise self._ended
        item, error = self._queue.get()
        if error is not None:
            self._ended = error
            raise error
        return item  # type: ignore[return-value]


def _fill(
    items: Iterator[T], target: queue.Queue[tuple[T | None, BaseException | None]], stop: threading.Event
) -> None:
    try:
        for item in items:
            if not _put(target, (item, None), stop):
                return
        error: BaseException = StopIteration()
    except BaseException as raised:
        error = raised
    _put(target, (None, error), stop)


def _put(
    target: queue.Queue[tuple[T | None, BaseException | None]],
    entry: tuple[T | None, BaseException | None],
    stop: threading.Event,
) -> bool:
    while not stop.is_set():
        try:
            target.put(entry, timeout=_POLL)
        except queue.Full:
            continue
        return True
    return False
