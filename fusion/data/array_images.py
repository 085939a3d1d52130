"""Images stored as arrays: MNIST's idx files, and CIFAR's batches, as torchvision keeps them.

CIFAR's Python batches are pickles, which could run any code. Only arrays of bytes, lists and text are read from them,
by stand-ins for the few names that they need; any other name is an error.
"""

from __future__ import annotations

import gzip
import io
import math
import os
import pickle
import pickletools
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from glob import escape, glob
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fusion.errors import DataError, translate_errors
from prototxt.text.class_names import read_names

_SIDE: Final = 32  # of CIFAR's images
_VALUES: Final = 3 * _SIDE * _SIDE
_IDX_IMAGES: Final = re.compile(r"(images)([-.]idx)3(-ubyte)")
# Files of class names beside batches, and the key of the names in pickles.
_NAMES: Final = {
    "batches.meta": b"label_names",
    "meta": b"fine_label_names",
    "batches.meta.txt": b"",
    "fine_label_names.txt": b"",
}
_LABELS: Final = 256
_LARGE: Final = 1 << 28  # bytes; smaller idx files may expand at any ratio
_MOST_EXPANSION: Final = 200
_AT_ONCE: Final = 1 << 20


@dataclass(frozen=True)
class ArrayImages:
    """Images in memory.

    pixels   uint8 [N, C, H, W], blue first where C is 3
    labels   int64 [N]
    classes  the names of the classes, that of class 0 first; empty if they are not known
    """

    path: str
    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...] = ()

    @property
    def folders(self) -> tuple[str, ...]:
        """Return a folder name per class, which sort in the order of the classes."""
        width = len(str(int(self.labels.max())))
        numbers = tuple(f"{number:0{width}d}" for number in range(int(self.labels.max()) + 1))
        if not self.classes:
            return numbers
        if list(self.classes) == sorted(set(self.classes)) and all(map(_is_file_name, self.classes)):
            return self.classes
        plain = [re.sub(r"[^\w .-]", "_", name) for name in self.classes]
        return tuple(f"{number}_{name}" for number, name in zip(numbers, plain, strict=False))


def read_array_images(path: str) -> ArrayImages | None:
    """Read images stored as arrays; None if the path is none of these.

    path    an idx file of images (`train-images-idx3-ubyte`, also .gz), whose labels lie beside it; a batch of CIFAR-10
            or CIFAR-100, in Python's or the binary form; or a pattern of several batches, `data_batch_*`
    Raises  DataError for a folder of such files, of which a part is to be chosen, and for damaged files
    """
    if os.path.isdir(path):
        _refuse_folder(path)
        return None
    files = [path] if os.path.isfile(path) else sorted(glob(path))
    if not files or not all(map(os.path.isfile, files)):
        return None
    kinds = {_kind(file) for file in files}
    if kinds == {"idx"} and len(files) == 1:
        return _read_mnist(path)
    if len(kinds) != 1 or kinds <= {None, "idx"}:
        return None
    read = _read_pickle if kinds == {"pickle"} else _read_binary
    parts = [read(file) for file in files]
    pixels, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    if not len(labels):
        raise DataError("it holds no images", place=path)
    classes = _class_names(Path(files[0]).parent)
    if classes and labels.max() >= len(classes):
        message = f"there is a label {labels.max()}, and names of {len(classes)} classes"
        raise DataError(message, place=path, hint="remove or replace the file of names beside it")
    rgb = pixels.reshape(-1, 3, _SIDE, _SIDE)
    return ArrayImages(path, np.ascontiguousarray(rgb[:, ::-1]), labels, classes)


def read_idx(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Read bytes in MNIST's format, compressed or not: two zeros, the type (8), the number of axes, sizes, values.

    Raises: DataError for a damaged file or values of another type, OSError.
    """
    place = os.fspath(path)
    with open(path, "rb") as plain:
        size, packed = os.fstat(plain.fileno()).st_size, plain.peek(2)[:2] == b"\x1f\x8b"
        file = gzip.GzipFile(fileobj=plain) if packed else plain
        try:
            head = file.read(4)
            sizes = file.read(4 * head[3]) if head[:3] == b"\0\0\x08" and len(head) == 4 else None
            if sizes is None or len(sizes) < 4 * head[3]:
                raise DataError("this is no idx file of bytes", place=place)
            dims = tuple(np.frombuffer(sizes, ">u4").tolist())
            start, needed = file.tell(), math.prod(dims)
            most = min(needed, max(_LARGE, _MOST_EXPANSION * size) if packed else size) + 1
            # piece by piece, as a read of all allocates what the sizes state
            content = b"".join(iter(lambda: file.read(min(_AT_ONCE, start + most - file.tell())), b""))
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise DataError(f"the file cannot be unpacked: {error}", place=place, hint="download it again") from error
    if len(content) != needed or not needed:
        found = f"{needed} values and more" if len(content) > needed else f"{len(content)} values"
        message = f"the file holds {found}, and states {'x'.join(map(str, dims))}"
        raise DataError(message, place=place, hint="is it whole? download it again")
    with translate_errors(DataError, "the file cannot be read", place):  # of more axes than arrays have
        return np.frombuffer(content, np.uint8).reshape(dims)


def _kind(path: str) -> str | None:
    """Return the kind of a file by its first bytes and its size."""
    with open(path, "rb") as file:
        head = file.read(3)
    name, size = os.path.basename(path), os.path.getsize(path)
    if _IDX_IMAGES.search(name) and (head[:2] == b"\x1f\x8b" or head == b"\0\0\x08"):
        return "idx"
    if head[:1] == b"\x80" and re.fullmatch(r"data_batch_\d+|test_batch|train|test", name):
        return "pickle"
    return "binary" if name.endswith(".bin") and any(size % (_VALUES + more) == 0 for more in (1, 2)) else None


def _refuse_folder(path: str) -> None:
    """Check that a folder is none of data sets, of which a part must be chosen. Raises: DataError."""
    for train, test in (
        ("train-images*idx3-ubyte*", "t10k-images*idx3-ubyte*"),
        ("data_batch_*", "test_batch*"),
        ("train.bin", "test.bin"),
    ):
        if any(_kind(file) for file in glob(os.path.join(escape(path), train)) if os.path.isfile(file)):
            choices = " or ".join(f"'{os.path.join(path, part)}'" for part in (train, test))
            raise DataError("this folder holds a training and a test part", place=path, hint=f"give one: {choices}")


def _read_mnist(path: str) -> ArrayImages:
    labels_path = os.path.join(os.path.dirname(path), _IDX_IMAGES.sub(r"labels\g<2>1\3", os.path.basename(path)))
    known = [labels_path, labels_path.removesuffix(".gz"), f"{labels_path}.gz"]
    found = next((one for one in known if os.path.isfile(one)), None)
    if found is None:
        raise DataError("its labels are not beside it", place=path, hint=f"expected {labels_path}")
    pixels, labels = read_idx(path), read_idx(found)
    if pixels.ndim != 3 or labels.shape != pixels.shape[:1]:
        shapes = " and ".join("x".join(map(str, array.shape)) for array in (pixels, labels))
        raise DataError(f"images and labels do not belong together: {shapes}", place=path, hint=f"with {found}")
    return ArrayImages(path, pixels[:, None], labels.astype(np.int64))


def _read_binary(path: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return pixels and labels of CIFAR-10 (one label byte) or CIFAR-100 (coarse and fine label)."""
    content = np.fromfile(path, np.uint8)
    before = 1 if content.size % (_VALUES + 1) == 0 else 2
    records = content.reshape(-1, _VALUES + before)
    return records[:, before:], records[:, before - 1].astype(np.int64)


def _read_pickle(path: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    content = _unpickle(path)
    pixels, labels = _array(content.get(b"data"), path), content.get(b"fine_labels", content.get(b"labels"))
    if not isinstance(labels, list) or not all(type(label) is int and 0 <= label < _LABELS for label in labels):
        raise DataError(f"the batch has no list of labels from 0 to {_LABELS - 1}", place=path)
    if pixels.shape != (len(labels), _VALUES):
        shape = "x".join(map(str, pixels.shape))
        raise DataError(f"the batch holds {shape} values and {len(labels)} labels", place=path)
    return pixels, np.array(labels, np.int64)


def _class_names(folder: Path) -> tuple[str, ...]:
    """Return the class names beside CIFAR's batches."""
    for name, key in _NAMES.items():
        path = folder / name
        if not path.is_file():
            continue
        if not key:
            return tuple(filter(None, read_names(path)))
        names = _unpickle(str(path)).get(key)
        if isinstance(names, list):
            with translate_errors(DataError, "a name is no text", str(path)):
                return tuple((name if isinstance(name, bytes) else name.encode()).decode() for name in names)
    return ()


def _unpickle(path: str) -> Mapping[Any, Any]:
    content = Path(path).read_bytes()
    with translate_errors(DataError, "the batch cannot be read", path, "give a file of CIFAR-10 or CIFAR-100"):
        _check_sizes(content)
        found = _Unpickler(io.BytesIO(content), encoding="bytes").load()
        if isinstance(found, dict):
            return {key.encode() if isinstance(key, str) else key: value for key, value in found.items()}
    raise DataError("this is no batch of CIFAR", place=path)


def _check_sizes(content: bytes) -> None:
    """Check a pickle's sizes, for which memory would be taken before they are found wrong. Raises: ValueError."""
    for operation, argument, place in pickletools.genops(content):  # checks the lengths itself
        # the table of kept values is as long as the largest number in it
        if "PUT" in operation.name and int(argument or 0) > (place or 0):
            raise ValueError(f"it keeps a value as number {argument} at byte {place}")


class _StoredArray:
    """Stands in for numpy.ndarray: keeps its state, from which `_array` makes an array of bytes."""

    state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state


class _StoredType(_StoredArray):
    """Stands in for numpy.dtype."""

    def __init__(self, name: object = None, *_: object) -> None:
        self.name = name


def _array(stored: object, path: str) -> NDArray[np.uint8]:
    if isinstance(stored, _StoredArray) and isinstance(stored.state, tuple) and len(stored.state) == 5:
        _, shape, kind, columns_first, data = stored.state
        is_table = isinstance(shape, tuple) and len(shape) == 2 and all(type(size) is int for size in shape)
        is_bytes = isinstance(kind, _StoredType) and kind.name in (b"u1", "u1") and isinstance(data, bytes)
        if is_table and is_bytes and min(shape) >= 0 and len(data) == math.prod(shape):
            values: NDArray[np.uint8] = np.frombuffer(data, np.uint8).reshape(
                shape, order="F" if columns_first else "C"
            )
            return values
    raise DataError("the batch holds no array of bytes", place=path)


class _Unpickler(pickle.Unpickler):
    """Reads arrays, lists, numbers and text, and nothing that could run code."""

    _ALLOWED: Final[Mapping[tuple[str, str], Any]] = {
        **{(f"numpy.{core}.multiarray", "_reconstruct"): lambda *_: _StoredArray() for core in ("core", "_core")},
        ("numpy", "ndarray"): _StoredArray,
        ("numpy", "dtype"): _StoredType,
        ("_codecs", "encode"): lambda text, encoding: text.encode("latin1") if encoding == "latin1" else b"",
    }

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in for a name. Raises: UnpicklingError for any other than those that arrays need."""
        try:
            return self._ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no batch of CIFAR needs") from None


def _is_file_name(name: str) -> bool:
    return bool(re.fullmatch(r"[^/\0\r\n.][^/\0\r\n]*", name)) and name == name.strip()
