"""A folder that gets its name once it is complete."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fusion.errors import DataError
from prototxt.files import FULL_DISK, full_disk, temporary_beside


@contextmanager
def new_folder(path: str | os.PathLike[str]) -> Iterator[str]:
    """Make a temporary folder that is renamed to `path` when the block succeeds, and removed when it fails.

    Raises: DataError when that name exists; OSError, on a full disk with the name and the size that was written.
    """
    target = os.path.abspath(path)
    if os.path.lexists(target):
        raise DataError("this exists already", place=os.fspath(path), hint="remove it, or give another name")
    with temporary_beside(target, folder=True) as (folder, _):
        try:
            yield folder
        except OSError as error:
            if error.errno not in FULL_DISK:
                raise
            size = sum(entry.stat().st_size for entry in Path(folder).rglob("*") if entry.is_file())
            raise full_disk(error, size, path) from None
        umask = os.umask(0)  # the folder was made private, and the mask can only be read by setting it
        os.umask(umask)
        os.chmod(folder, 0o777 & ~umask)
        os.rename(folder, target)
