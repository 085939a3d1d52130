"""Data layers of a net: each fills its tops from a source, from arrays of a script, or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fusion.layers.pycaffe import Blob, Blobs
from fusion.pycaffe.errors import CaffeError
from fusion.pycaffe.layer import NetLayer
from prototxt.schema.messages import NetParameter

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fusion.data import DataSource
    from fusion.pycaffe.connections import Ends

_FILLED_BY_SCRIPTS = ("Input", "MemoryData")


def open_readers(message: NetParameter, phase: str, seed: int) -> list[DataSource]:
    """Return the sources of the layers that read or make data by themselves. Raises: DataError."""
    reading = NetParameter()
    reading.CopyFrom(message)
    del reading.layer[:]
    reading.layer.extend(layer for layer in message.layer if layer.type not in _FILLED_BY_SCRIPTS)
    if all(layer.bottom or not layer.top for layer in reading.layer):
        return []  # a net for deployment then imports nothing of data and training
    from fusion.solver.batches import open_sources

    return open_sources(reading, phase, seed=seed)


class DataLayer(NetLayer):
    """A layer that reads batches; the first of several layers in step fills the tops of all.

    source  None: an earlier layer reads in step with this one
    """

    def __init__(self, ends: Ends, blobs: Mapping[str, Blob], source: DataSource | None) -> None:
        from fusion.solver.batches import LiveBatches

        super().__init__(ends, blobs, Blobs())
        self._constant = _constant_tops(ends)
        names = [] if source is None else [name for name in source.tops if name not in self._constant]
        self._tops = {name: blobs[name] for name in names}
        self.batches = LiveBatches([source], torch.device("cpu")) if source is not None and names else None
        for name, value in self._constant.items():
            blobs[name].values.write().fill_(value)

    def run_forward(self) -> None:
        """Fill the tops with the next batch; constant ones of DummyData keep what a script wrote there, as in Caffe."""
        batch = {} if self.batches is None else next(self.batches)
        for name, top in self._tops.items():
            top.reshape(*batch[name].shape)
            top.values.write().copy_(batch[name])


def _constant_tops(ends: Ends) -> dict[str, float]:
    """Return the value of each top that DummyData fills once."""
    if ends.layer.type != "DummyData":
        return {}
    fillers = list(ends.layer.dummy_data_param.data_filler)
    if not fillers:
        return dict.fromkeys(ends.tops, 0.0)
    fillers *= len(ends.tops) if len(fillers) == 1 else 1
    pairs = zip(ends.tops, fillers, strict=True)
    return {name: filler.value for name, filler in pairs if filler.type == "constant"}


class MemoryDataLayer(NetLayer):
    """A layer whose records a script gives as arrays (`set_input_arrays`)."""

    def __init__(self, ends: Ends, blobs: Mapping[str, Blob]) -> None:
        super().__init__(ends, blobs, Blobs())
        self._arrays: Sequence[NDArray[np.float32]] = ()
        self._row = 0

    def set_arrays(self, data: NDArray[Any], labels: NDArray[Any]) -> None:
        """Take batches from these arrays, which may change: float32 [N, C, H, W] and [N, 1, 1, 1].

        Raises: CaffeError for another shape or type, or an N that is no multiple of the batch size.
        """
        param = self.ends.layer.memory_data_param
        _check_array("data array", data, (param.channels, param.height, param.width))
        _check_array("labels array", labels, (1, 1, 1))
        if len(data) != len(labels):
            raise CaffeError(f"data and labels must have the same first dimension, not {len(data)} and {len(labels)}")
        if not len(data) or len(data) % param.batch_size:
            raise CaffeError(
                f"first dimensions of input arrays must be a multiple of the batch size {param.batch_size}, "
                f"not {len(data)}",
                hint="pad the arrays",
            )
        self._arrays, self._row = (data, labels), 0

    def run_forward(self) -> None:
        """Fill the tops with the next rows, from the first after the last. Raises: CaffeError without arrays."""
        if not self._arrays:
            raise CaffeError(
                f"layer '{self.name}' has no data", hint="call net.set_input_arrays(data, labels) before forward"
            )
        size = self.ends.layer.memory_data_param.batch_size
        for index, (array, top) in enumerate(zip(self._arrays, self.top, strict=False)):
            rows = torch.from_numpy(array[self._row : self._row + size])
            self.fill_top(index, rows.view(size, *top.shape[1:]))
        self._row = (self._row + size) % len(self._arrays[0])


def _check_array(name: str, array: NDArray[Any], row: tuple[int, ...]) -> None:
    """Check the array of a MemoryData layer as pycaffe does. Raises: CaffeError."""
    if not array.flags.c_contiguous:
        raise CaffeError(f"{name} must be C contiguous", hint="numpy.ascontiguousarray makes it so")
    if array.ndim != 4:
        raise CaffeError(f"{name} must be 4-d, not of shape {array.shape}")
    if array.dtype != np.float32:
        raise CaffeError(f"{name} must be float32, not {array.dtype}")
    for axis, noun in enumerate(("number of channels", "height", "width"), 1):
        if array.shape[axis] != row[axis - 1]:
            raise CaffeError(f"{name} has wrong {noun}: {array.shape[axis]} instead of {row[axis - 1]}")
