"""Reading text without losing a byte, and writing files so that a crash never leaves half of one."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, cast

_CHUNK = 1 << 20  # bytes that are written and read back at once
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what only writing ends with


def read_text(path: str | os.PathLike[str]) -> str:
    """The file's text with every byte kept: line ends and a BOM stay, bytes that are not UTF-8 become surrogates."""
    return Path(path).read_bytes().decode("utf-8", "surrogateescape")


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` (as `read_text` gives it) in place of the file, at once or not at all."""
    with atomic_write(path) as file:
        file.write(text.encode("utf-8", "surrogateescape"))


@contextmanager
def atomic_write(path: str | os.PathLike[str], *, least: int = 0) -> Iterator[BinaryIO]:
    """A binary file that replaces `path` when the block ends, and vanishes when the block fails.

    least  bytes that the file will have at the least: their room on the disk is taken before the first is written, so
           that a full disk is told at once, and the system need not look for room page by page

    The temporary file lies beside `path`, so that the final rename never crosses a file system. An existing file's
    mode is kept; a link is followed, so that it goes on pointing at the new content. A device or pipe is never
    replaced: the finished content is written into it.
    """
    if _is_special(path):
        with _copied_into(path) as file:
            yield file
        return
    target = Path(os.path.realpath(path))
    # As tempfile.mkstemp does it, whose import is a tenth of a short command's time.
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
    """Whether a device, pipe or socket stands at the path; links are followed, /dev/stdout to a pipe among them."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


@contextmanager
def _copied_into(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A temporary file, since writers seek and read back; it is written into `path` when the block ends."""
    import shutil
    import tempfile

    with tempfile.TemporaryFile() as file:
        yield cast("BinaryIO", file)
        file.seek(0)
        with open(os.open(path, os.O_WRONLY), "wb") as target:
            shutil.copyfileobj(file, target)


def write_at(handle: int, data: memoryview | bytes, offset: int, place: str | os.PathLike[str]) -> None:
    """Write all of the bytes at this place of a file, and read them back.

    A disk that fills up takes a part and reports that as success; only the next write fails.

    handle  open for reading and writing; `place` names the file in errors
    Raises: OSError
    """
    view, done = memoryview(data).cast("B"), 0
    while done < len(view):
        count = os.pwrite(handle, view[done : done + _CHUNK], offset + done)
        if not count:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(place))
        if os.pread(handle, count, offset + done) != view[done : done + count]:
            raise OSError(errno.EIO, "what was written is read back differently", os.fspath(place))
        done += count


def take_room(handle: int, size: int, target: str | os.PathLike[str]) -> None:
    """Take the file's room on the disk before its bytes are written.

    Raises: OSError when the disk has too little room; a file system that cannot tell is asked nothing.
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
