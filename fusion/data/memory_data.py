"""`MemoryData` and `Input`: arrays that the caller passes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fusion.data.array_source import ArraySource
from fusion.data.sampler import Order
from fusion.errors import DataError

if TYPE_CHECKING:
    from prototxt.schema.messages import LayerParameter

Arrays = list[NDArray[np.float32]]


def open_memory_data(layer: LayerParameter, arrays: Mapping[str, ArrayLike] | None = None) -> ArraySource:
    """Return the source of a `MemoryData` or `Input` layer.

    arrays  float32 [N, ...] for each top; a MemoryData layer's label comes out as [batch, 1, 1, 1], as in Caffe
    Raises  DataError when arrays are missing, or do not fit the layer
    """
    name = f"layer '{layer.name}'"
    missing = [top for top in layer.top if arrays is None or top not in arrays]
    if missing or arrays is None:
        text = f"the data of {layer.type} must be passed as arrays: {', '.join(map(repr, missing))}"
        raise DataError(text, place=name, hint="pass arrays={'" + (missing[0] if missing else "data") + "': array}")
    values = [np.asarray(arrays[top], np.float32) for top in layer.top]
    if layer.type == "MemoryData":
        batch_size = layer.memory_data_param.batch_size
        values = _as_memory_data(values, layer, name)
    else:
        shapes = layer.input_param.shape
        batch_size = shapes[0].dim[0] if shapes and shapes[0].dim else len(values[0])
    if len({len(array) for array in values}) != 1 or not len(values[0]):
        raise DataError(
            f"the arrays have {[len(array) for array in values]} rows", place=name, hint="give equal numbers"
        )
    return ArraySource(tuple(layer.top), values, Order(len(values[0]), batch_size), name)


def _as_memory_data(values: Arrays, layer: LayerParameter, name: str) -> Arrays:
    param = layer.memory_data_param
    if not param.batch_size:
        raise DataError("batch_size must be at least 1", place=name, hint="give memory_data_param.batch_size")
    shape = (param.channels, param.height, param.width)
    if values[0].shape[1:] != shape:
        raise DataError(f"rows of shape {values[0].shape[1:]} do not fit {shape}", place=name)
    if len(values[0]) % param.batch_size:
        text = f"{len(values[0])} rows are no multiple of batch_size {param.batch_size}"
        raise DataError(text, place=name, hint="MemoryData takes whole batches: pad or cut the arrays")
    return [values[0], *(label.reshape(-1, 1, 1, 1) for label in values[1:])]
