"""Reading ahead in a thread, so that a batch is ready before the step that needs it."""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from typing import Any, Generic, TypeVar

T = TypeVar("T")
_Entry = tuple[Any, BaseException | None]


class ahead(Generic[T]):  # noqa: N801 - used like a generator function
    """The iterator's items, made up to `depth` in advance by a thread; its error is raised where the item was due.

    The thread is stopped and joined when the items end or fail, by `close`, when this object is no longer referenced,
    and at the end of the interpreter: a thread that still runs in C++ code as the interpreter goes aborts the process.
    """

    def __init__(self, items: Iterator[T], depth: int = 3) -> None:
        self._queue: queue.Queue[_Entry] = queue.Queue(depth)
        self._ended: BaseException | None = None
        stop = threading.Event()
        # A daemon, since the interpreter joins other threads before it calls any finalizer, and would wait forever.
        thread = threading.Thread(target=_fill, args=(items, self._queue, stop), daemon=True, name="prefetch")
        self.close: Callable[[], object] = weakref.finalize(self, _join, thread, self._queue, stop)
        thread.start()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        if self._ended is not None:
            raise self._ended
        item, error = self._queue.get()
        if error is not None:
            self._ended = error
            self.close()
            raise error
        return item  # type: ignore[no-any-return]


def _join(thread: threading.Thread, target: queue.Queue[_Entry], stop: threading.Event) -> None:
    """End the thread after the item that it makes at the moment."""
    stop.set()
    _drain(target)  # the thread may be waiting for room
    if thread is not threading.current_thread():  # a garbage collection may run in the thread itself
        thread.join()
        _drain(target)
        target.put((None, StopIteration()))


def _drain(target: queue.Queue[_Entry]) -> None:
    with suppress(queue.Empty):
        while True:
            target.get_nowait()


def _fill(items: Iterator[Any], target: queue.Queue[_Entry], stop: threading.Event) -> None:
    try:
        for item in items:
            target.put((item, None))
            if stop.is_set():
                break
        error: BaseException = StopIteration()
    except BaseException as raised:
        error = raised
    if stop.is_set():
        if isinstance(items, Generator):
            items.close()
    else:
        target.put((None, error))
