"""The part of pycaffe that a user's Python layer needs: blobs, the base class, and a stand-in for `import caffe`.

The stand-in is installed only while a layer's code is loaded or runs; otherwise `import caffe` is unchanged.
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
    """Values and their gradients, as in pycaffe.

    data, diff  float32, or float64 where the net does; assign elements: `top[0].data[...] = x`
    """

    def __init__(self, *shape: int, dtype: type[np.floating[Any]] = np.float32) -> None:
        self._data = np.zeros(shape, dtype)
        self._diff = np.zeros(shape, dtype)

    @property
    def data(self) -> np.ndarray:
        """Return the values."""
        return self._data

    @property
    def diff(self) -> np.ndarray:
        """Return the gradients."""
        return self._diff

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the sizes of all axes."""
        return tuple(self._data.shape)

    @property
    def count(self) -> int:
        """Return the number of values."""
        return self._data.size

    @property
    def num(self) -> int:
        """Return the size of axis 0, 1 where there is none."""
        return self._legacy(0)

    @property
    def channels(self) -> int:
        """Return the size of axis 1, 1 where there is none."""
        return self._legacy(1)

    @property
    def height(self) -> int:
        """Return the size of axis 2, 1 where there is none."""
        return self._legacy(2)

    @property
    def width(self) -> int:
        """Return the size of axis 3, 1 where there is none."""
        return self._legacy(3)

    def reshape(self, *shape: int) -> None:
        """Change the shape; the values are kept only if the count is the same."""
        sizes = tuple(int(size) for size in shape)
        if sizes == self.shape:
            return
        same = int(np.prod(sizes)) == self.count
        self._data = self._data.reshape(sizes) if same else np.zeros(sizes, self._data.dtype)
        self._diff = self._diff.reshape(sizes) if same else np.zeros(sizes, self._data.dtype)

    def set_data(self, data: np.ndarray) -> None:
        """Set the values, and the gradients to 0."""
        self._data = data
        self._diff = np.zeros_like(data)

    def set_gradient(self, diff: np.ndarray) -> None:
        """Set the gradients."""
        self._diff = diff

    def _legacy(self, axis: int) -> int:
        return self.shape[axis] if axis < len(self.shape) else 1


class Blobs(list[Blob]):
    """The blobs that a layer learns or stores."""

    def add_blob(self, *shape: int) -> Blob:
        """Append a blob of zeros and return it."""
        self.append(Blob(*shape))
        return self[-1]


class Layer:
    """The base class `caffe.Layer`: derive from it and define `setup`, `reshape`, `forward` and `backward`.

    param_str  the text of `python_param.param_str`
    phase      caffe.TRAIN or caffe.TEST
    blobs      the blobs that the layer learns; `setup` adds them
    """

    param_str: str = ""
    phase: int = TEST
    blobs: Blobs

    def __init__(self, *args: object) -> None:
        self.blobs = Blobs()


class UserLayer(Protocol):
    """The interface of a user's class."""

    param_str: str
    phase: int
    blobs: Blobs

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        """Read the parameters and add blobs; called once."""

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        """Set the shapes of the tops; called before every forward."""

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        """Fill the tops."""

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        """Set the gradients of the bottoms, and add to those of the blobs."""


class _Caffe(ModuleType):
    """The module that `import caffe` finds."""

    def __init__(self) -> None:
        super().__init__("caffe", "A stand-in for pycaffe with the names that Python layers need.")
        self.Layer, self.TRAIN, self.TEST = Layer, TRAIN, TEST

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        raise AttributeError(
            f"caffe.{name} does not exist here: a Python layer has caffe.Layer, caffe.TRAIN and caffe.TEST"
        )


_caffe = _Caffe()


@contextmanager
def stand_in() -> Iterator[None]:
    """Install the stand-in as `caffe`, even over a real pycaffe, whose layers could not run here."""
    real = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "caffe"}
    for name in real:
        del sys.modules[name]
    sys.modules["caffe"] = _caffe
    try:
        yield
    finally:
        del sys.modules["caffe"]
        sys.modules.update(real)
