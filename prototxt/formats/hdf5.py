"""Weights in HDF5: /data/<layer>/<i>, as Caffe writes them; needs h5py, which is imported on first use.

Contiguous float32 datasets are listed with their place in the file, so that they can be mapped and copied as bytes.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from prototxt.errors import WeightsError
from prototxt.formats.hdf5_chunks import DAMAGED, read_chunked
from prototxt.formats.index import BlobSpan, FileStamp, LayerEntry, Scan
from prototxt.formats.mmap_reader import Array, MmapReader

_MAX_DEPTH = 32
_MANY = 16 << 20  # bytes that compressed datasets may always unpack to
_RATIO = 8  # above that, the maximum multiple of the file's size: trained weights hardly compress at all


def h5py(place: str) -> Any:
    """Import and return the h5py module.

    Raises: WeightsError with the command to install it.
    """
    try:
        import h5py as module
    except ImportError:
        hint = "pip install 'caffe-fusion[hdf5]'"
        raise WeightsError("HDF5 files need the package h5py, which is not installed", place=place, hint=hint) from None
    return module


def open_file(path: str | os.PathLike[str]) -> Any:
    """Open an h5py.File for reading.

    Raises: WeightsError if HDF5's library cannot open it.
    """
    place = os.fspath(path)
    try:
        return h5py(place).File(place, "r")
    except OSError as error:
        reason = str(error).partition("(")[2].rstrip(")") or str(error)
        raise WeightsError(f"HDF5 cannot open the file: {reason}", place=place, hint=DAMAGED) from None


@contextmanager
def damage_as_weights_error(place: str) -> Iterator[None]:
    """Turn the various exceptions of h5py on damaged files into a WeightsError."""
    try:
        yield
    except (LookupError, RuntimeError, OSError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise WeightsError(f"HDF5 cannot read the file: {error}", place=place, hint=DAMAGED) from None


def scan_hdf5(path: str | os.PathLike[str]) -> Scan:
    """List the layers of a Caffe weights file in HDF5, in HDF5's alphabetical order.

    Raises: WeightsError if the file holds something else, or a dataset that cannot be trained weights.
    """
    place = os.fspath(path)
    with open_file(path) as file, damage_as_weights_error(place):
        group = _data_group(file, place)
        entries = tuple(_entries(group, "", place, 0, UnpackedSize(place, os.stat(path).st_size)))
    if not entries:
        raise WeightsError("the file has a /data group without layers", place=place, hint="write it again")
    return Scan(place, "hdf5", "", entries, FileStamp.of(place))


def _data_group(file: Any, place: str) -> Any:
    names = list(file)
    if {"iter", "history"} <= set(names):
        hint = "the weights are in the .caffemodel.h5 of the same iteration"
        raise WeightsError("this is a solver state, not trained weights", place=place, hint=hint)
    link = file.get("data", getlink=True) if "data" in names else None
    if link is not None and isinstance(link, h5py(place).HardLink) and hasattr(file["data"], "keys"):
        return file["data"]
    holds = ", ".join(names[:6]) or "nothing"
    hint = (
        "Caffe keeps weights in groups /data/<layer>/0, /data/<layer>/1; other programs' HDF5 must be converted first"
    )
    if link is not None:
        hint = "it looks like the input of an HDF5Data layer: give the .caffemodel.h5"
    raise WeightsError(f"this HDF5 file holds {holds}, but no layers of Caffe's", place=place, hint=hint)


def _entries(group: Any, name: str, place: str, depth: int, unfolding: UnpackedSize) -> Iterator[LayerEntry]:
    """Yield the layers of a group and its subgroups; links to other places and files are refused."""
    if depth > _MAX_DEPTH:
        hint = "a group that contains itself is damage, or malice"
        raise WeightsError(f"groups are nested deeper than {_MAX_DEPTH} at '{name[:80]}'", place=place, hint=hint)
    links = {key: group.get(key, getlink=True) for key in group}
    hard = h5py(place).HardLink
    for key, link in links.items():
        if not isinstance(link, hard):
            raise WeightsError(
                f"'{name}/{key}' is a link to another place or file", place=place, hint="copy the values"
            )
    members = {key: group[key] for key in links}
    blobs = {key: member for key, member in members.items() if not hasattr(member, "keys")}
    if name and (blobs or not members):
        numbers = [str(index) for index in range(len(blobs))]
        if set(blobs) != set(numbers):
            hint = "Caffe numbers the blobs of a layer 0, 1, 2, ..."
            raise WeightsError(f"layer '{name}' has datasets {', '.join(list(blobs)[:6])}", place=place, hint=hint)
        spans = (dataset_span(blobs[key], f"blob {key} of layer '{name}'", unfolding) for key in numbers)
        yield LayerEntry(name, blobs=tuple(spans))
    for key, member in members.items():
        if hasattr(member, "keys"):
            yield from _entries(member, f"{name}/{key}" if name else key, place, depth + 1, unfolding)


class UnpackedSize:
    """The bounded number of bytes that the compressed and converted datasets of a file unpack to."""

    def __init__(self, place: str, size: int) -> None:
        self.place = place
        self.size = size
        self.total = 0

    def add(self, dataset: Any, name: str) -> None:
        """Count the bytes of a dataset, or of a chunk if that is larger. Raises: WeightsError beyond the bound."""
        chunk = math.prod(dataset.chunks) * dataset.dtype.itemsize if dataset.chunks else 0
        before, self.total = self.total, self.total + max(dataset.nbytes, chunk)
        if self.total > max(_MANY, _RATIO * self.size):
            hint = "no trained weights compress like that: this is damage, or malice"
            whole = f"{name} and those before it" if before else name
            message = f"{whole} would unpack to {self.total} bytes from a file of {self.size}"
            raise WeightsError(message, place=self.place, hint=hint)


def dataset_span(dataset: Any, name: str, unfolding: UnpackedSize) -> BlobSpan:
    """Return the place of a dataset's values; `name` is used in errors.

    Raises: WeightsError if they lie in another file, are not floats, or unpack to far more than the file.
    """
    place = unfolding.place
    if dataset.is_virtual or dataset.external:
        raise WeightsError(f"{name} lies in another file", place=place, hint="copy its values into this one")
    if dataset.shape is None or dataset.dtype.kind != "f":
        hint = "weights are floating-point numbers"
        raise WeightsError(f"{name} holds {dataset.dtype}, not floating-point numbers", place=place, hint=hint)
    offset = dataset.id.get_offset()
    if offset is None or dataset.dtype.str != "<f4":
        unfolding.add(dataset, name)
        return BlobSpan(dataset.shape, "<f4" if dataset.dtype.str == "<f4" else "other", 0, 0, packed=False)
    return BlobSpan(dataset.shape, "<f4", offset, dataset.nbytes)


def read_dataset(dataset: Any, place: str) -> Array:
    """Read the values of a dataset as float32."""
    if not dataset.chunks:
        return np.asarray(dataset[()], np.float32)
    with open(place, "rb") as file:
        return np.asarray(read_chunked(dataset, file.fileno(), place), np.float32)


class HDF5Reader:
    """A reader of the arrays of an HDF5 file: mapped where a dataset is contiguous, else read by h5py."""

    def __init__(self, scan: Scan) -> None:
        self._bytes = MmapReader(scan)
        self._scan = scan
        self._homes = {id(blob): (e.name, i) for e in scan.entries for i, blob in enumerate(e.blobs) if not blob.packed}

    def array(self, blob: BlobSpan) -> Array:
        """Return the values of a blob, float32 and read-only."""
        if blob.packed:
            return self._bytes.array(blob)
        layer, index = self._homes[id(blob)]
        with open_file(self._scan.path) as file, damage_as_weights_error(self._scan.path):
            values = read_dataset(file[f"data/{layer}/{index}"], self._scan.path)
        values.flags.writeable = False
        return values
