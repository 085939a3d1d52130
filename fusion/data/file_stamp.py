"""A hash that changes when data changes: over the settings, and the files' names, sizes and times."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable


def stamp_files(settings: bytes, names: Iterable[str], folder: str = "") -> str:
    """Return a hash of the settings and of these files as they are now.

    folder  is put before every name, unchanged
    """
    digest = hashlib.sha256(settings)
    for name in names:
        try:
            status = os.stat(folder + name)
            line = f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n"
        except OSError:
            line = f"{name}\0missing\n"
        digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
