"""Read text without losing a byte, and write files so that a crash never leaves half of one."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, cast

_CHUNK = 1 << 20  # bytes written and read back at a time
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # errors that only a write can raise


def read_text(path: str | os.PathLike[str]) -> str:
    """Read text with every byte kept: line ends and a BOM stay, bytes that are not UTF-8 become surrogates."""
    return Path(path).read_bytes().decode("utf-8", "surrogateescape")


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Replace the file atomically by `text`, as returned by `read_text`."""
    with atomic_write(path) as file:
        file.write(text.encode("utf-8", "surrogateescape"))


@contextmanager
def atomic_write(path: str | os.PathLike[str], *, least: int = 0) -> Iterator[BinaryIO]:
    """Open a temporary binary file that replaces `path` when the block succeeds and is removed when it fails.

    least  minimum size in bytes: this much disk space is allocated first, so that a full disk fails at once and the
           file system need not search for space page by page

    The temporary file lies beside `path`, so that the final rename never crosses a file system. The mode of an
    existing file is kept, and symbolic links are followed. A device or pipe is not replaced: the finished content is
    written into it.
    """
    if _is_special(path):
        with _copied_into(path) as file:
            yield file
        return
    target = Path(os.path.realpath(path))
    # Done by hand because importing tempfile takes a tenth of a short command's time.
    name = target.parent / f".{target.name[:100]}.{os.urandom(6).hex()}.tmp"
    handle = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
    try:
        with cast("BinaryIO", os.fdopen(handle, "wb")) as file:
            os.chmod(name, _mode(target))
            take_room(handle, least, target)
            yield file
        os.replace(name, target)
    except BaseException as error:
        with suppress(FileNotFoundError):
            os.unlink(name)
        if isinstance(error, OSError) and error.errno in _FULL and error.filename is None:
            raise OSError(error.errno, error.strerror, str(target)) from None
        raise


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
                raise OSError(error.errno, f"{error.strerror} ({size / 1e6:.1f} MB are needed)", str(target)) from None


def _mode(target: Path) -> int:
    with suppress(FileNotFoundError):
        return target.stat().st_mode & 0o777
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask
