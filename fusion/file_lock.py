"""A lock file beside files that only one process may write, which names this process and ends with it."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fusion.errors import TrainingError

_HELD = (errno.EWOULDBLOCK, errno.EACCES)


_TRAINING = "another training writes snapshots of this prefix"
_OTHER_PREFIX = "stop that one, or change snapshot_prefix (--set snapshot_prefix=...)"


@contextmanager
def locked(
    prefix: str, say: Callable[[str], None], message: str = _TRAINING, hint: str = _OTHER_PREFIX
) -> Iterator[None]:
    """Hold `PREFIX.lock` while the block runs; the system releases the lock of a process that dies.

    message, hint  of the error if another process holds it
    Raises: TrainingError naming the process that holds it
    """
    path = f"{prefix}.lock"
    try:
        handle = _take(path, message, hint)
    except (ImportError, OSError) as error:  # no such locks on this system or file system
        say(f"warning: {path} cannot be locked ({error}): make sure that no other process writes the same files")
        handle = None
    try:
        yield
    finally:
        if handle is not None:
            os.unlink(path)  # before the lock ends: another process checks that the file still exists
            os.close(handle)


def _take(path: str, message: str, hint: str) -> int:
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
            raise TrainingError(f"{message}: {holder}", place=path, hint=hint) from None
        os.close(handle)  # the file was removed between opening and locking


def _is_at(handle: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _this_process() -> str:
    return f"{socket.gethostname()}, pid {os.getpid()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}\n"
