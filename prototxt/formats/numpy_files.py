"""Read NumPy files of unknown origin: a header is compared with the bytes after it before memory is allocated."""

from __future__ import annotations

import io
import lzma
import math
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
_LARGE = 1 << 28  # bytes; smaller archives may expand at any ratio
_MOST_EXPANSION = 200
# Of zipfile and its decompressors, and of Python's parser, which NumPy reads headers with.
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    NotImplementedError,
    EOFError,
    RuntimeError,
)
_HEADER_ERRORS = (SyntaxError, tokenize.TokenError, RecursionError, MemoryError, TypeError, LookupError, OverflowError)


def read_npy(path: str | os.PathLike[str]) -> Array:
    """Read a .npy file. Raises: ValueError if it is damaged or holds Python objects; OSError."""
    with open(path, "rb") as file:
        return _array(file, os.fstat(file.fileno()).st_size, "the array")


def read_npz(path: str | os.PathLike[str], chosen: Callable[[str], bool] = lambda name: True) -> dict[str, Array]:
    """Read the arrays of an archive by name.

    chosen  whether an array of this name is read; others may hold anything
    Raises: ValueError if it is damaged, holds Python objects, or is a suspected zip bomb; OSError.
    """
    with open(path, "rb") as file, _as_value_error(), zipfile.ZipFile(file) as archive:
        entries = {name: entry for entry in archive.infolist() if chosen(name := entry.filename.removesuffix(".npy"))}
        whole = sum(entry.file_size for entry in entries.values())
        packed = sum(entry.compress_size for entry in entries.values())
        if whole > _LARGE and whole > _MOST_EXPANSION * packed:
            raise ValueError(f"{packed} bytes would expand to {whole}")
        return {name: _entry(archive, entry) for name, entry in entries.items()}


def _entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Array:
    with archive.open(entry) as member:
        return _array(member, entry.file_size, entry.filename)


def _array(file: IO[bytes], size: int, name: str) -> Array:
    """Read an array from `size` bytes; `name` is used in errors."""
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran_order, dtype = read(file)
    except _HEADER_ERRORS as error:
        raise ValueError(f"the header of {name} is damaged: {error}") from None
    if dtype.hasobject:
        raise ValueError(f"{name} holds Python objects, not numbers or text")
    present, count = size - file.tell(), math.prod(shape)
    needed = count * dtype.itemsize
    # Values without a width would need no bytes, in any number.
    if min(shape, default=0) < 0 or needed != present or count > needed:
        raise ValueError(f"{name} of shape {list(shape)} needs {needed} bytes and has {present}")
    values = np.empty(count, dtype)
    _fill(file, values, name)
    return values.reshape(shape, order="F" if fortran_order else "C")


def _fill(file: IO[bytes], values: Array, name: str) -> None:
    assert isinstance(file, io.BufferedIOBase)
    left = values.view(np.uint8).data if values.nbytes else memoryview(b"")
    while left:
        count = file.readinto(left[: 1 << 20])
        if not count:
            raise ValueError(f"{name} ends {len(left)} bytes early")
        left = left[count:]


@contextmanager
def _as_value_error() -> Iterator[None]:
    try:
        yield
    except _ZIP_ERRORS as error:
        raise ValueError(str(error) or type(error).__name__) from None
    except OSError as error:
        if error.strerror and error.errno != 22:  # bz2's errors have no number, those of a negative place are EINVAL
            raise
        raise ValueError(str(error)) from None
