"""`HDF5Data`: arrays from the files that a list names; a batch runs across file ends and wraps."""

from __future__ import annotations

import hashlib
import os
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fusion.data.arrays import ArraySource
from fusion.data.order import Order, Permutation
from fusion.data.recipes import Recipe
from fusion.data.store import BUDGET
from fusion.errors import DataError, raise_all
from prototxt.files import read_text

if TYPE_CHECKING:
    from prototxt.messages import LayerParameter


def open_hdf5_data(recipe: Recipe, *, budget: int = BUDGET) -> ArraySource:
    """The source of an `HDF5Data` layer; each top is the data set of its name.

    Raises: DataError
    """
    layer, seed = recipe.layer, recipe.seed
    param = layer.hdf5_data_param
    name = f"layer '{layer.name}'"
    _check(layer, name)
    paths = _read_list(param.source)
    files = [_open(path) for path in paths]
    arrays: list[Any] = []
    for top in layer.top:
        parts = [_data_set(file, top, path) for file, path in zip(files, paths, strict=True)]
        _agree(parts, paths, top)
        arrays.append(np.concatenate([np.asarray(part[:], np.float32) for part in parts]))
    counts = [len(_data_set(file, layer.top[0], path)) for file, path in zip(files, paths, strict=True)]
    _same_length(arrays, layer, name)
    for file in files:
        file.close()
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]]).tolist()
    order = Order(sum(counts), param.batch_size, permutation=_shuffled_files(counts, seed) if param.shuffle else None)
    return ArraySource(
        tops=tuple(layer.top),
        arrays=arrays,
        sequence=order,
        name=name,
        hash=_fingerprint(paths, layer),
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


def _open(path: str) -> Any:
    try:
        import h5py
    except ImportError as error:
        raise DataError("HDF5Data needs h5py", place=path, hint="pip install 'caffe-fusion[hdf5]'") from error
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise DataError(
            f"cannot read the file: {error}", place=path, hint="paths are relative to the working directory"
        ) from error


def _data_set(file: Any, top: str, path: str) -> Any:
    import h5py

    found = file.get(top)
    if not isinstance(found, h5py.Dataset) or found.ndim < 1:
        raise DataError(f"no data set '{top}'", place=path, hint=f"the file holds {', '.join(file) or 'nothing'}")
    return found


def _agree(parts: list[Any], paths: list[str], top: str) -> None:
    raise_all(
        [
            DataError(
                f"data set '{top}' has rows of shape {part.shape[1:]}, the first file {parts[0].shape[1:]}", place=path
            )
            for part, path in zip(parts, paths, strict=True)
            if part.shape[1:] != parts[0].shape[1:]
        ]
    )


def _same_length(arrays: list[Any], layer: LayerParameter, name: str) -> None:
    lengths = {top: len(array) for top, array in zip(layer.top, arrays, strict=True)}
    if len(set(lengths.values())) > 1:
        raise DataError(f"the data sets differ in length: {lengths}", place=name)
    if not arrays or not len(arrays[0]):
        raise DataError("the files hold no rows", place=name)


def _shuffled_files(counts: list[int], seed: int) -> Permutation:
    """Files in random order, and rows in random order inside each file, as Caffe shuffles them."""
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])

    @lru_cache(maxsize=2)
    def permutation(epoch: int) -> NDArray[np.int64]:
        rng = np.random.default_rng((seed, epoch))
        return np.concatenate([starts[i] + rng.permutation(counts[i]) for i in rng.permutation(len(counts))])

    return permutation


def _fingerprint(paths: list[str], layer: LayerParameter) -> str:
    digest = hashlib.sha256(" ".join(layer.top).encode())
    for path in paths:
        found = os.stat(path)
        digest.update(f"{path}\0{found.st_size}\0{found.st_mtime_ns}\n".encode())
    return digest.hexdigest()
