"""`HDF5Data`: arrays from the files that a list names; a batch runs across file ends and wraps.

Data that fits into the budget is read at once. Otherwise each file is read whole when it is visited, as in Caffe, and a
file that is too large for that row by row.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fusion.data.array_source import ArraySource
from fusion.data.decoded_cache import BUDGET
from fusion.data.file_stamp import stamp_files
from fusion.data.sampler import Order, Permutation
from fusion.data.source_config import SourceConfig
from fusion.errors import DataError, raise_all
from prototxt.errors import WeightsError
from prototxt.files import read_text
from prototxt.formats.hdf5 import damage_as_weights_error, open_file
from prototxt.formats.hdf5_chunks import DAMAGED

if TYPE_CHECKING:
    from prototxt.schema.messages import LayerParameter

_MANY = 64 << 20  # bytes that a compressed data set may always have
_MOST_EXPANSION = 1100  # times the file's size: gzip packs 1,032 zeros into a byte


def open_hdf5_data(config: SourceConfig, *, budget: int = BUDGET) -> ArraySource:
    """Open the source of an `HDF5Data` layer; each top is the data set of its name.

    Raises: DataError
    """
    layer, seed = config.layer, config.seed
    param = layer.hdf5_data_param
    name = f"layer '{layer.name}'"
    _check(layer, name)
    paths = _read_list(param.source)
    files = _read_shapes(paths, tuple(layer.top))
    counts = _row_counts(files, layer, name)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]]).tolist()
    sizes = [sum(part.nbytes for part in file) for file in files]
    arrays: list[Any] = []
    for number, top in enumerate(layer.top):
        shape = (sum(counts), *files[0][number].row)
        rows = Rows(top, paths, np.array(starts), shape, keeps_files=2 * max(sizes) <= budget)
        arrays.append(rows[:] if sum(sizes) <= budget else rows)
    order = Order(sum(counts), param.batch_size, permutation=_shuffled_files(counts, seed) if param.shuffle else None)
    return ArraySource(
        tops=tuple(layer.top),
        arrays=arrays,
        sequence=order,
        name=name,
        hash=stamp_files(" ".join(layer.top).encode(), paths),
        starts=tuple(zip(starts, paths, strict=True)),
    )


def _check(layer: LayerParameter, name: str) -> None:
    if layer.HasField("transform_param"):
        raise DataError("HDF5Data does not transform its data", place=name, hint="remove transform_param")
    if not layer.hdf5_data_param.batch_size:
        raise DataError("batch_size must be at least 1", place=name, hint="give hdf5_data_param.batch_size")


def _read_list(source: str) -> list[str]:
    try:
        paths = [line.strip() for line in read_text(source).split("\n") if line.strip()]
    except OSError as error:
        hint = "hdf5_data_param.source names a text file with one .h5 path per line, relative to the working directory"
        raise DataError(f"cannot read the list of files: {error.strerror}", place=source, hint=hint) from error
    if not paths:
        raise DataError("the list of files is empty", place=source, hint="write one .h5 path per line")
    return paths


@contextmanager
def open_hdf5_file(path: str) -> Iterator[Any]:
    """Open a file for the block. Raises: DataError, also for damage that the block comes across."""
    if not os.path.isfile(path):
        raise DataError("cannot read the file", place=path, hint="paths are relative to the working directory")
    try:
        with open_file(path) as file, damage_as_weights_error(path):
            yield file
    except WeightsError as error:
        raise DataError(f"cannot read the file: {error.message}", place=path, hint=error.hint) from error


def top_data_set(file: Any, top: str, path: str) -> Any:
    """Return the data set of a top. Raises: DataError if there is none, or its values cannot be those of a net."""
    import h5py

    found = file.get(top)
    if not isinstance(found, h5py.Dataset) or found.ndim < 1:
        raise DataError(f"no data set '{top}'", place=path, hint=f"the file holds {', '.join(file) or 'nothing'}")
    if found.dtype.kind not in "fiub":
        raise DataError(f"data set '{top}' holds {found.dtype}, not numbers", place=path, hint="write it as float32")
    size = os.path.getsize(path)
    # A damaged shape makes HDF5 fill any amount of memory; where values are in one piece, it must lie in the file.
    whole = not found.chunks and found.id.get_offset() is not None and not found.external
    if found.nbytes > (size if whole else max(_MANY, _MOST_EXPANSION * size)):
        message = f"data set '{top}' of shape {found.shape} has {found.nbytes} bytes in a file of {size}"
        raise DataError(message, place=path, hint=DAMAGED)
    return found


@dataclass(frozen=True)
class _DataSet:
    """A data set of one file: the number of rows, and the shape of each."""

    count: int
    row: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return 4 * self.count * math.prod(self.row)


def _read_shapes(paths: list[str], tops: tuple[str, ...]) -> list[list[_DataSet]]:
    """Read each file's data set sizes. Raises: DataError naming every file whose rows have another shape."""
    found = []
    for path in paths:
        with open_hdf5_file(path) as file:
            sets = [top_data_set(file, top, path) for top in tops]
            found.append([_DataSet(len(item), tuple(item.shape[1:])) for item in sets])
    raise_all(
        [
            DataError(f"data set '{top}' has rows of shape {part.row}, the first file {first.row}", place=path)
            for path, parts in zip(paths, found, strict=True)
            for top, part, first in zip(tops, parts, found[0], strict=True)
            if part.row != first.row
        ]
    )
    return found


def _row_counts(files: list[list[_DataSet]], layer: LayerParameter, name: str) -> list[int]:
    """Return the number of rows of each file. Raises: DataError unless the tops have equally many."""
    lengths = {top: sum(parts[number].count for parts in files) for number, top in enumerate(layer.top)}
    if len(set(lengths.values())) > 1:
        raise DataError(f"the data sets differ in length: {lengths}", place=name)
    if not lengths or not any(lengths.values()):
        raise DataError("the files hold no rows", place=name)
    return [parts[0].count for parts in files]


@dataclass(eq=False)
class Rows:
    """One top's rows, float32 [N, ...], read from its files when they are indexed.

    starts       the number of each file's first row
    keeps_files  a file is read whole, as in Caffe, and the last two that were visited are kept; else only the rows
                 are read
    """

    top: str
    paths: Sequence[str]
    starts: NDArray[np.int64]
    shape: tuple[int, ...]
    keeps_files: bool
    cached: dict[int, NDArray[np.float32]] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: NDArray[np.int64] | slice) -> NDArray[np.float32]:
        """Return these rows; numbers ascend and differ."""
        numbers = np.arange(len(self))[rows] if isinstance(rows, slice) else rows
        files = np.searchsorted(self.starts, numbers, side="right") - 1
        out = np.empty((len(numbers), *self.shape[1:]), np.float32)
        for file in np.unique(files).tolist():
            here = files == file
            out[here] = self._of_file(file, numbers[here] - self.starts[file])
        return out

    def _of_file(self, file: int, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        cached = self.cached.get(file)
        if cached is not None:
            return cached[rows]
        consecutive = int(rows[-1] - rows[0]) == len(rows) - 1
        chosen: Any = slice(int(rows[0]), int(rows[-1]) + 1) if consecutive else rows
        with open_hdf5_file(self.paths[file]) as opened:
            stored = top_data_set(opened, self.top, self.paths[file])
            if not self.keeps_files:
                return np.asarray(stored[chosen], np.float32)
            whole = np.asarray(stored[:], np.float32)
        self.cached = {**dict(list(self.cached.items())[-1:]), file: whole}
        return whole[rows]


def _shuffled_files(counts: list[int], seed: int) -> Permutation:
    """Return a permutation with files in random order, and rows in random order inside each, as Caffe shuffles them."""
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])

    # A batch that wraps needs two epochs.
    @lru_cache(maxsize=2)
    def permutation(epoch: int) -> NDArray[np.int64]:
        rng = np.random.default_rng((seed, epoch))
        return np.concatenate([starts[i] + rng.permutation(counts[i]) for i in rng.permutation(len(counts))])

    return permutation
