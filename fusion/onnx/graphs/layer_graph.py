"""The part of an ONNX file that one `Onnx` layer of a prototxt stands for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fusion.errors import OnnxError
from fusion.onnx.graphs.cut import cut
from fusion.onnx.graphs.graph import Dims, Graph
from fusion.onnx.graphs.normalize import load_graph

if TYPE_CHECKING:
    from prototxt.schema.messages import LayerParameter


def layer_graph(layer: LayerParameter, bottoms: Sequence[Dims] = ()) -> Graph:
    """Return the layer's graph in its plain form.

    bottoms  shapes of the layer's bottoms, for sizes that the file leaves open
    Raises: OnnxError for a file that is missing or damaged, a name that it does not have, or numbers of bottoms and
            tops that differ from those of its inputs and outputs.
    """
    param = layer.onnx_param
    if not param.file:
        raise OnnxError(f"layer '{layer.name}': onnx_param.file is missing", hint="name the ONNX file")
    try:
        graph = load_graph(param.file)
        if not param.input and any(None in dims[1:] for dims in graph.inputs.values()):
            given = dict(zip(graph.inputs, map(tuple, bottoms), strict=False))
            graph = load_graph(param.file, given)
    except OSError as error:
        hint = "paths are relative to the working directory; the layer's graph is in that file, also after training"
        raise OnnxError(f"layer '{layer.name}': {error.strerror}", place=param.file, hint=hint) from error
    graph = cut(graph, list(param.output), list(param.input))
    _check_count(layer, "bottom", len(layer.bottom), "input", list(graph.inputs))
    _check_count(layer, "top", len(layer.top), "output", list(graph.outputs))
    return graph


def _check_count(layer: LayerParameter, end: str, count: int, field: str, names: list[str]) -> None:
    if count != len(names):
        message = f"layer '{layer.name}' has {count} {end}s, its file {len(names)} {field}s: {', '.join(names)}"
        hint = f"select values by name in onnx_param.{field}"
        raise OnnxError(message, place=layer.onnx_param.file, hint=hint)
