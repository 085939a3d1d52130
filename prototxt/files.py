"""Reading text without losing a byte, and writing files so that a crash never leaves half of one."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, cast


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
    mode is kept; a link is followed, so that it goes on pointing at the new content.
    """
    target = Path(os.path.realpath(path))
    # As tempfile.mkstemp does it, whose import is a tenth of a short command's time.
    name = target.parent / f".{target.name[:100]}.{os.urandom(6).hex()}.tmp"
    handle = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
    try:
        with cast("BinaryIO", os.fdopen(handle, "wb")) as file:
            os.chmod(name, _mode(target))
            _take_room(handle, least, target)
            yield file
        os.replace(name, target)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(name)
        raise


def _take_room(handle: int, size: int, target: Path) -> None:
    """Raises: OSError when the disk has too little room; a file system that cannot tell is asked nothing."""
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
