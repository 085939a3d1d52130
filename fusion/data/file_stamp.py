"""Whether data is still what it was: a hash over what decides how it comes out, and its files' sizes and times."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable


def stamp_files(settings: bytes, names: Iterable[str], folder: str = "") -> str:
    """A hash of the settings and of these files as they are now.

    folder  stands in front of every name, as it is
    """
    digest = hashlib.sha256(settings)
    for name in names:
        try:
            found = os.stat(folder + name)
            line = f"{name}\0{found.st_size}\0{found.st_mtime_ns}\n"
        except OSError:
            line = f"{name}\0missing\n"
        digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
