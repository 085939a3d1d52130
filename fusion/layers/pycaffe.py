"""The part of pycaffe that layers need: blobs, which NumPy and torch both see, and the base class of Python layers."""

from __future__ import annotations

import math
from enum import Enum
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

TRAIN, TEST = 0, 1
Array = NDArray[np.floating]


class _Newest(Enum):
    """The copy of a memory on a GPU that has the newest values."""

    BOTH, HOST, DEVICE = range(3)


def has_copy(tensor: Tensor) -> bool:
    """Return whether NumPy needs a copy of the tensor's numbers."""
    return tensor.device.type != "cpu"


class Memory:
    """Numbers that NumPy and torch both see, as Caffe's SyncedMemory.

    On a CPU it is one piece of memory. On a GPU there are two copies; the older one is brought up to date when it is
    used. NumPy's may be written until the next call of a layer; get it again after that, as in Caffe.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._room = tensor.view(-1)  # a smaller shape keeps the numbers that come after it
        self._tensor = tensor
        self._host: Tensor | None = None
        self._newest = _Newest.DEVICE

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the sizes of all axes."""
        return tuple(self._tensor.shape)

    def array(self) -> Array:
        """Return the numbers for NumPy, which may change them."""
        if not has_copy(self._tensor):
            values: Array = self._tensor.numpy()
            return values
        if self._host is None:
            self._host = torch.empty_like(self._tensor, device="cpu")
        if self._newest is _Newest.DEVICE:
            self._host.copy_(self._tensor)
        self._newest = _Newest.HOST
        copied: Array = self._host.numpy()
        return copied

    def read(self) -> Tensor:
        """Return the numbers for torch, which must not change them."""
        if self._newest is _Newest.HOST and self._host is not None:
            self._tensor.copy_(self._host)
            self._newest = _Newest.BOTH
        return self._tensor

    def write(self) -> Tensor:
        """Return the numbers for torch, which changes all or some of them."""
        self.read()
        return self.overwrite()

    def overwrite(self) -> Tensor:
        """Return the numbers for torch, which changes or has changed all of them."""
        self._newest = _Newest.DEVICE
        return self._tensor

    def reshape(self, shape: tuple[int, ...]) -> None:
        """Change the shape; the numbers stay where there is room for them, else all are 0."""
        count = math.prod(shape)
        tensor = self.read()
        if count > self._room.numel():
            self._room = torch.zeros(count, dtype=tensor.dtype, device=tensor.device)
        self._tensor = self._room[:count].view(shape)
        self._host, self._newest = None, _Newest.DEVICE


class Blob:
    """Values and their gradients, as in pycaffe.

    data, diff  float32, or float64 where the net does; assign elements: `top[0].data[...] = x`
    parameter   the tensor of a module that the values are, or None
    """

    def __init__(self, *shape: int, device: torch.device | str = "cpu") -> None:
        self._data = Memory(torch.zeros(shape, device=device))
        self._diff: Memory | None = None
        self.parameter: Tensor | None = None

    @property
    def data(self) -> Array:
        """Return the values."""
        return self._data.array()

    @property
    def diff(self) -> Array:
        """Return the gradients."""
        return self.gradients.array()

    @property
    def values(self) -> Memory:
        """Return the values for torch too."""
        return self._data

    @property
    def gradients(self) -> Memory:
        """Return the gradients for torch too, at first zeros."""
        if self._diff is None:
            self._diff = Memory(torch.zeros_like(self._data.read()))
        return self._diff

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the sizes of all axes."""
        return self._data.shape

    @property
    def count(self) -> int:
        """Return the number of values."""
        return math.prod(self.shape)

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
        """Change the shape; as in Caffe, the memory is kept unless it is too small, and then all values are 0."""
        sizes = tuple(int(size) for size in shape)
        if sizes == self.shape:
            return
        self._data.reshape(sizes)
        if self._diff is not None:
            self._diff.reshape(sizes)
        if self.parameter is not None:
            self.parameter.data = self._data.read()

    def set_values(self, values: Tensor) -> None:
        """Use this tensor's memory for the values, and set the gradients to 0."""
        self._data, self._diff = Memory(values), None

    def set_gradients(self, gradients: Tensor) -> None:
        """Use this tensor's memory for the gradients."""
        self._diff = Memory(gradients)

    def clear_gradients(self) -> None:
        """Set the gradients to 0."""
        if self._diff is not None:
            self._diff.write().zero_()

    def share_values(self, other: Blob) -> None:
        """Use the memory of another blob's values; the gradients stay apart."""
        self._data, self.parameter = other._data, other.parameter

    def use_parameter(self, parameter: Tensor) -> None:
        """Use the memory of a module's parameter or buffer for the values."""
        self._data, self.parameter = Memory(parameter.data), parameter

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
    type       "Python"
    """

    param_str: str = ""
    phase: int = TEST
    blobs: Blobs
    type = "Python"

    def __init__(self, *args: object) -> None:
        self.blobs = Blobs()


class UserLayer(Protocol):
    """The interface of a user's class."""

    param_str: str
    phase: int
    blobs: Blobs
    type: str

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        """Read the parameters and add blobs; called once."""

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        """Set the shapes of the tops; called before every forward."""

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        """Fill the tops."""

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        """Set the gradients of the bottoms, and add to those of the blobs."""
