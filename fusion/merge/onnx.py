"""The weights of Onnx layers: from their own files, or from another file of the same graph."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from fusion.errors import MergeError, OnnxError
from fusion.merge.plan import FromOnnx, ShapesAndOrigins, shapes_text
from fusion.merge.sources import MergeSource
from fusion.merge.targets import TargetLayer
from prototxt.formats.copy import Payload
from prototxt.formats.index import Shape
from prototxt.schema.messages import LayerParameter
from prototxt.text.source_places import place_of

if TYPE_CHECKING:
    from fusion.onnx.graphs import Graph


def match_onnx(item: TargetLayer, source: MergeSource | None) -> tuple[ShapesAndOrigins | None, list[MergeError]]:
    """Return the shapes and origins of the layer's weights, and the errors.

    source  with the layer's prefix, if any: an ONNX file of the same graph replaces the layer's own
    """
    layer = item.layer
    other = source.onnx if source is not None else ""
    try:
        own = onnx_weights(layer)
        weights = onnx_weights(layer, other) if other else own
    except OnnxError as error:
        return None, [MergeError(error.message, place=error.place, hint=error.hint)]
    errors = [*_mismatch(layer, own, weights, other)]
    shapes: tuple[Shape, ...] = tuple(tuple(array.shape) for array in weights.values())
    file = other or layer.onnx_param.file
    origins = tuple(FromOnnx(file, layer.name, index, name) for index, name in enumerate(weights))
    return (shapes, origins), errors


def onnx_weights(layer: LayerParameter, file: str = "") -> dict[str, NDArray[Any]]:
    """Return the weights of an Onnx layer by name, float32, in their graph's order; large ones are mapped, not read.

    file  replaces the layer's own
    Raises: OnnxError.
    """
    from fusion.onnx.graphs import graph_weights

    return dict(graph_weights(_graph(layer, file)))


def onnx_payloads(layer: LayerParameter, file: str = "") -> dict[str, Payload]:
    """Return the weights to be written: byte ranges of the file where it has them as float32. Raises: OnnxError."""
    from fusion.onnx.graphs import graph_weights
    from fusion.onnx.graphs.mapped_weights import payload

    graph = _graph(layer, file)
    return {name: payload(array, graph.files) for name, array in graph_weights(graph).items()}


def _graph(layer: LayerParameter, file: str) -> Graph:
    from fusion.onnx.graphs.layer_graph import layer_graph

    if file:
        layer = deepcopy(layer)
        layer.onnx_param.file = file
    return layer_graph(layer)


def _mismatch(
    layer: LayerParameter, own: dict[str, NDArray[Any]], weights: dict[str, NDArray[Any]], file: str
) -> list[MergeError]:
    """Return the error of weights that do not fit into the layer's own graph, if any."""
    needed = [tuple(array.shape) for array in own.values()]
    given = [tuple(array.shape) for array in weights.values()]
    if needed == given:
        return []
    # One difference is enough to show that the graphs are not the same.
    differing = next(
        (f"'{name}' is {shapes_text([shape])} there" for name, shape, other in zip(weights, given, needed, strict=False)
         if shape != other),
        f"it has {len(given)} weights, not {len(needed)}",
    )  # fmt: skip
    message = f"layer '{layer.name}': {file} does not have the graph of {layer.onnx_param.file}: {differing}"
    hint = "give the file from which the net was composed, or compose again with the other one"
    return [MergeError(message, place=place_of(layer), hint=hint)]
