"""Large tensors of an ONNX file, memory-mapped and copied as bytes instead of being read.

A graph's arrays are then views of the mapped file: their pages take memory only while values are accessed, which
composing and merging do not do.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from mmap import mmap
from typing import Any, BinaryIO

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.external_data_helper import ExternalDataInfo, load_external_data_for_model, uses_external_data

from prototxt.formats.copy import FileSlice, LazyBlob, Payload
from prototxt.formats.index import BlobSpan, FileStamp, Scan
from prototxt.formats.onnx_outline import LARGE, outline


@dataclass
class Mapped:
    """A model without the values of its large float32 initializers, and those values.

    arrays  by name, views of the mapped files
    files   by path: the file's state when it was mapped, and all its bytes
    """

    model: onnx.ModelProto
    arrays: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    files: dict[str, tuple[Scan, NDArray[np.uint8]]] = field(default_factory=dict)


def read_mapped(path: str) -> Mapped:
    """Read a file, and map its large float32 tensors; all others are read, also from files beside it.

    Raises: WeightsError when it is not in protobuf's wire format; onnx's and protobuf's errors; OSError.
    """
    with open(path, "rb") as file:
        found = outline(file)
        mapped = Mapped(onnx.ModelProto.FromString(found.content))
        tensors = mapped.model.graph.initializer
        for tensor, place in zip(tensors, found.places, strict=True):
            if place is not None:
                _map(mapped, tensor, file, *place)
    folder = os.path.dirname(path)
    for tensor in tensors:
        _map_outside(mapped, tensor, folder)
    load_external_data_for_model(mapped.model, folder)
    return mapped


def payload(array: NDArray[Any], files: Sequence[Scan]) -> Payload:
    """Return an array for writing: as a range of bytes in its file, or read on demand if its layout differs."""
    home = _home(array)
    scan = next((scan for scan in files if home is not None and os.path.abspath(scan.path) == home.filename), None)
    if home is None or scan is None:
        return array
    start, shape = _address(array) - _address(home), tuple(array.shape)
    if array.flags.c_contiguous and array.dtype == np.float32:
        return FileSlice(scan, BlobSpan(shape, "<f4", start, array.nbytes), shape)
    return LazyBlob(shape, lambda: _read(array, start, scan))


def _read(array: NDArray[Any], start: int, scan: Scan) -> NDArray[Any]:
    """Return the values of a view of a mapped file by reading the file, so that no mapped page stays in memory."""
    scan.check_unchanged()
    # A transposed view has its first element inside the range, so the range's ends are computed from the strides.
    reach = [(size - 1) * stride for size, stride in zip(array.shape, array.strides, strict=True)]
    low, high = sum(min(0, step) for step in reach), sum(max(0, step) for step in reach) + array.itemsize
    with open(scan.path, "rb") as file:
        file.seek(start + low)
        data = file.read(high - low)
    values: NDArray[Any] = np.ndarray(array.shape, array.dtype, data, -low, array.strides)
    return values


def _home(array: NDArray[Any]) -> np.memmap[Any, Any] | None:
    """Return the mapped file that an array is a view of, None for any other array."""
    owner: Any = array
    while isinstance(owner, np.ndarray) and not isinstance(owner.base, mmap):
        owner = owner.base
    return owner if isinstance(owner, np.memmap) else None


def _address(array: NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])


def _map(mapped: Mapped, tensor: onnx.TensorProto, file: BinaryIO, start: int, end: int) -> None:
    """Map the tensor's values. Raises: ValueError if their number does not fit its shape."""
    shape = tuple(tensor.dims)
    if end - start != 4 * math.prod(shape):
        raise ValueError(f"tensor '{tensor.name}' of shape {shape} has {end - start} bytes")
    if file.name not in mapped.files:
        scan = Scan(file.name, "onnx", mapped.model.graph.name, (), FileStamp.of(file.fileno()))
        mapped.files[file.name] = scan, np.memmap(file, np.uint8, "r")
    _, data = mapped.files[file.name]
    mapped.arrays[tensor.name] = data[start:end].view("<f4").reshape(shape)


def _map_outside(mapped: Mapped, tensor: onnx.TensorProto, folder: str) -> None:
    """Map a tensor in a file beside the model; a tensor with an unusual location is left for onnx to read or refuse."""
    if not uses_external_data(tensor) or tensor.data_type != onnx.TensorProto.FLOAT:
        return
    about, count = ExternalDataInfo(tensor), 4 * math.prod(tensor.dims)
    start = about.offset or 0
    if count < LARGE or about.length not in (None, count) or os.path.basename(about.location) != about.location:
        return
    path = os.path.join(folder, about.location)
    if os.path.islink(path) or not os.path.isfile(path) or os.path.getsize(path) < start + count:
        return
    with open(path, "rb") as file:
        _map(mapped, tensor, file, start, start + count)
    tensor.data_location = onnx.TensorProto.DEFAULT
    del tensor.external_data[:]
