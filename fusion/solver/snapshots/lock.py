"""A lock file for each snapshot prefix, which names the training that holds it and ends with its process."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fusion.errors import TrainingError

_HELD = (errno.EWOULDBLOCK, errno.EACCES)


@contextmanager
def locked(prefix: str, say: Callable[[str], None]) -> Iterator[None]:
    """Hold `PREFIX.lock` while the block runs; the system releases the lock of a process that dies.

    Raises: TrainingError naming the process that holds it
    """
    path = f"{prefix}.lock"
    try:
        handle = _take(path)
    except (ImportError, OSError) as error:  # no such locks on this system or file system
        say(f"warning: {path} cannot be locked ({error}): make sure that no other training writes the same snapshots")
        handle = None
    try:
        yield
    finally:
        if handle is not None:
            os.unlink(path)  # before the lock ends: another process checks that the file still exists
            os.close(handle)


def _take(path: str) -> int:
    import fcntl

    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(handle, path):
                os.truncate(handle, 0)
                os.pwrite(handle, _this_process().encode(), 0)
                return handle
        except OSError as error:
            holder = os.pread(handle, 1000, 0).decode("utf-8", "replace").strip() or "a process that is starting"
            os.close(handle)
            if error.errno not in _HELD:
                raise
            hint = "stop that one, or change snapshot_prefix (--set snapshot_prefix=...)"
            message = f"another training writes snapshots of this prefix: {holder}"
            raise TrainingError(message, place=path, hint=hint) from None
        os.close(handle)  # the file was removed between opening and locking


def _is_at(handle: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _this_process() -> str:
    return f"{socket.gethostname()}, pid {os.getpid()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}\n"
