"""What a user's Python layer sees of Caffe: blobs, the class to derive from, a module that answers to `import caffe`.

The module stands in only while a layer's code is loaded or runs; otherwise `import caffe` means what it always did.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Protocol

import numpy as np

TRAIN, TEST = 0, 1


class Blob:
    """Numbers and their gradients, as pycaffe shows them.

    data, diff  float32, or float64 where the net runs in it; write into them: `top[0].data[...] = x`
    """

    def __init__(self, *shape: int, dtype: type[np.floating[Any]] = np.float32) -> None:
        self._data = np.zeros(shape, dtype)
        self._diff = np.zeros(shape, dtype)

    @property
    def data(self) -> np.ndarray:
        """The numbers."""
        return self._data

    @property
    def diff(self) -> np.ndarray:
        """Their gradients."""
        return self._diff

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of all axes."""
        return tuple(self._data.shape)

    @property
    def count(self) -> int:
        """How many numbers there are."""
        return self._data.size

    @property
    def num(self) -> int:
        """Size of axis 0, 1 where there is none."""
        return self._legacy(0)

    @property
    def channels(self) -> int:
        """Size of axis 1, 1 where there is none."""
        return self._legacy(1)

    @property
    def height(self) -> int:
        """Size of axis 2, 1 where there is none."""
        return self._legacy(2)

    @property
    def width(self) -> int:
        """Size of axis 3, 1 where there is none."""
        return self._legacy(3)

    def reshape(self, *shape: int) -> None:
        """Give the blob another shape; what it held stays only if the count does."""
        sizes = tuple(int(size) for size in shape)
        if sizes == self.shape:
            return
        same = int(np.prod(sizes)) == self.count
        self._data = self._data.reshape(sizes) if same else np.zeros(sizes, self._data.dtype)
        self._diff = self._diff.reshape(sizes) if same else np.zeros(sizes, self._data.dtype)

    def hold(self, data: np.ndarray) -> None:
        """Hold these numbers, with gradients of 0."""
        self._data = data
        self._diff = np.zeros_like(data)

    def set_gradient(self, diff: np.ndarray) -> None:
        """Hold these gradients."""
        self._diff = diff

    def _legacy(self, axis: int) -> int:
        return self.shape[axis] if axis < len(self.shape) else 1


class Blobs(list[Blob]):
    """What a layer learns or keeps."""

    def add_blob(self, *shape: int) -> Blob:
        """A further blob, of zeros."""
        self.append(Blob(*shape))
        return self[-1]


class Layer:
    """Derive from this, and write `setup`, `reshape`, `forward` and `backward`.

    param_str  the text of `python_param.param_str`
    phase      caffe.TRAIN or caffe.TEST
    blobs      what the layer learns; `setup` adds them
    """

    param_str: str = ""
    phase: int = TEST
    blobs: Blobs

    def __init__(self, *args: object) -> None:
        self.blobs = Blobs()


class UserLayer(Protocol):
    """What a user's class has."""

    param_str: str
    phase: int
    blobs: Blobs

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        """Read the parameters, add blobs; once."""

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        """Give the tops their shapes; before every forward."""

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        """Fill the tops."""

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        """Fill the gradients of the bottoms, and add to those of the blobs."""


class _Caffe(ModuleType):
    """The module that answers to `import caffe`."""

    def __init__(self) -> None:
        super().__init__("caffe", "A stand-in for pycaffe, as far as Python layers need it.")
        self.Layer, self.TRAIN, self.TEST = Layer, TRAIN, TEST

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        raise AttributeError(f"caffe.{name} is not here: a Python layer finds caffe.Layer, caffe.TRAIN and caffe.TEST")


_caffe = _Caffe()


@contextmanager
def stand_in() -> Iterator[None]:
    """Let `import caffe` find the stand-in, even where a real one is installed, whose layers could not run here."""
    real = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "caffe"}
    for name in real:
        del sys.modules[name]
    sys.modules["caffe"] = _caffe
    try:
        yield
    finally:
        del sys.modules["caffe"]
        sys.modules.update(real)
