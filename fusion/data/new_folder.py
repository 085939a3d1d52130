"""A folder that gets its name once it is complete."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from fusion.errors import DataError
from prototxt.files import temporary_beside


@contextmanager
def new_folder(path: str | os.PathLike[str]) -> Iterator[str]:
    """Make a temporary folder that is renamed to `path` when the block succeeds, and removed when it fails.

    Raises: DataError when that name exists, OSError.
    """
    target = os.path.abspath(path)
    if os.path.lexists(target):
        raise DataError("this exists already", place=os.fspath(path), hint="remove it, or give another name")
    with temporary_beside(target, folder=True) as (folder, _):
        yield folder
        umask = os.umask(0)  # the folder was made private, and the mask can only be read by setting it
        os.umask(umask)
        os.chmod(folder, 0o777 & ~umask)
        os.rename(folder, target)
