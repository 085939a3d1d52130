"""Read text without losing a byte, and write files so that a crash never leaves half of one."""

from __future__ import annotations

import errno
import io
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

from prototxt.errors import PrototxtError

FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # errors that only a write can raise
_CHUNK = 1 << 20  # bytes written and read back at a time
_NEEDED = "needed"  # part of the message of a full disk that states a size


def read_text(path: str | os.PathLike[str]) -> str:
    """Read text with every byte kept: line ends and a BOM stay, bytes that are not UTF-8 become surrogates.

    Raises: PrototxtError for a file with zeros, which is binary or in UTF-16; OSError.
    """
    text = Path(path).read_bytes().decode("utf-8", "surrogateescape")
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        message = "this is no text in UTF-8: there is a zero on this line"
        raise PrototxtError(message, place=f"{os.fspath(path)}:{line}", hint="is it a binary file, or in UTF-16?")
    return text


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Replace the file atomically by `text`, as returned by `read_text`."""
    data = text.encode("utf-8", "surrogateescape")
    with atomic_write(path, least=len(data)) as file:
        file.write(data)


@contextmanager
def atomic_write(path: str | os.PathLike[str], *, least: int = 0) -> Iterator[BinaryIO]:
    """Open a temporary binary file that replaces `path` when the block succeeds and is removed when it fails.

    least  minimum size in bytes: this much disk space is allocated first, so that a full disk fails at once and the
           file system need not search for space page by page

    The mode of an existing file is kept, and symbolic links are followed. A device or pipe is not replaced: the
    finished content is written into it. Raises: OSError naming `path`, and on a full disk the size.
    """
    if _is_special(path):
        with _copied_into(path) as file:
            yield file
        return
    target = Path(os.path.realpath(path))
    with temporary_beside(target) as (name, handle):
        try:
            with cast("BinaryIO", os.fdopen(os.dup(handle), "wb")) as file:
                os.chmod(name, _mode(target))
                take_room(handle, least, path)
                yield file
            os.replace(name, target)
        except OSError as error:
            known = _NEEDED in str(error.strerror) or error.filename not in (None, name, os.fspath(path))
            if known or error.errno not in FULL_DISK:
                raise
            raise full_disk(error, max(least, os.fstat(handle).st_size), path) from None


@contextmanager
def temporary_beside(target: str | os.PathLike[str], *, folder: bool = False) -> Iterator[tuple[str, int]]:
    """Make a temporary file or folder beside `target`, so that a rename to it never crosses a file system.

    Yields its path and its descriptor, which holds a lock. At the end of the block it is removed if it is still there;
    what killed processes left beside `target` was not locked any more and is removed first.

    Raises: OSError naming the folder that cannot be written to.
    """
    parent, base = os.path.split(os.fspath(target))
    start = f".{base[:50]}."  # of at most 200 bytes: a name may have 255
    try:
        _remove_abandoned(parent or ".", start)
        name, handle = _make_locked(os.path.join(parent, start), folder)
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror}: nothing can be written here", parent or ".") from None
    try:
        yield name, handle
    finally:
        with suppress(FileNotFoundError):
            _remove(name)
        os.close(handle)


def open_log(path: str | os.PathLike[str], *, append: bool) -> io.TextIOWrapper:
    """Open a text file that others may follow: every line is written at once, and errors of writing name the file."""
    raw = NamedFile(path, "a" if append else "w")
    return io.TextIOWrapper(io.BufferedWriter(raw), "utf-8", "surrogateescape", line_buffering=True)


class NamedFile(io.FileIO):
    """A file whose errors of writing have its name."""

    def write(self, data: Any) -> int:
        """Write bytes. Raises: OSError with the file's name."""
        try:
            return super().write(data)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self.name) from None


def _make_locked(start: str, folder: bool) -> tuple[str, int]:
    while True:
        # Done by hand because importing tempfile takes a tenth of a short command's time.
        name = f"{start}{os.urandom(6).hex()}.tmp"
        if folder:
            os.mkdir(name, 0o700)
            handle = os.open(name, os.O_RDONLY)
        else:
            handle = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        if _lock(handle) is not False and os.path.exists(name):  # else another process has just removed it
            return name, handle
        os.close(handle)


def _remove_abandoned(parent: str, start: str) -> None:
    try:
        names = os.listdir(parent)
    except OSError:  # a folder may be written to, and yet not be listed
        return
    for name in names:
        if name.startswith(start) and re.fullmatch(r"[0-9a-f]{12}\.tmp", name[len(start) :]):
            with suppress(OSError):
                handle = os.open(os.path.join(parent, name), os.O_RDONLY)
                try:
                    if _lock(handle):
                        _remove(os.path.join(parent, name))
                finally:
                    os.close(handle)


def _lock(handle: int) -> bool | None:
    """Lock a file until its descriptors are closed; return False if another process has, None where nothing locks."""
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError) as error:
        return False if isinstance(error, BlockingIOError) else None
    return True


def _remove(path: str) -> None:
    if os.path.isdir(path):
        import shutil

        shutil.rmtree(path, ignore_errors=True)
    else:
        os.unlink(path)


def _is_special(path: str | os.PathLike[str]) -> bool:
    """Return whether the path, links followed (as /dev/stdout to a pipe), is a device, pipe or socket."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


@contextmanager
def _copied_into(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a temporary file, since writers seek and read back; copy it into `path` when the block ends."""
    import shutil
    import tempfile

    with tempfile.TemporaryFile() as file:
        yield cast("BinaryIO", file)
        file.seek(0)
        with open(os.open(path, os.O_WRONLY), "wb") as target:
            shutil.copyfileobj(file, target)


def write_at(handle: int, data: memoryview | bytes, offset: int, place: str | os.PathLike[str]) -> None:
    """Write all bytes at `offset` and read them back.

    A disk that fills up accepts part of a write and reports success; only the next write fails.

    handle  file descriptor open for reading and writing; `place` is the file's name in errors
    Raises: OSError
    """
    view, done = memoryview(data).cast("B"), 0
    while done < len(view):
        count = os.pwrite(handle, view[done : done + _CHUNK], offset + done)
        if not count:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(place))
        if os.pread(handle, count, offset + done) != view[done : done + count]:
            raise OSError(errno.EIO, "the bytes read back differ from those written", os.fspath(place))
        done += count


def take_room(handle: int, size: int, target: str | os.PathLike[str]) -> None:
    """Allocate `size` bytes on the disk before they are written, where the file system supports it.

    Raises: OSError when the disk has too little space.
    """
    if size and hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(handle, 0, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENODEV, errno.ENOSYS):
                raise full_disk(error, size, target) from None


def full_disk(error: OSError, least: int, target: str | os.PathLike[str]) -> OSError:
    """Return the error of a write, with the file's name and the size in bytes that it has at least."""
    size = f"{least / 1e6:.1f} MB" if least >= 1e5 else f"{least / 1e3:.1f} kB"
    return OSError(error.errno, f"{error.strerror} (at least {size} are {_NEEDED})", os.fspath(target))


def _mode(target: Path) -> int:
    with suppress(FileNotFoundError):
        return target.stat().st_mode & 0o777
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask
