"""The part of an ONNX file that one `Onnx` layer of a prototxt stands for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from fusion.errors import OnnxError
from fusion.onnx.graphs.cut import cut
from fusion.onnx.graphs.graph import Dims, Graph
from fusion.onnx.graphs.initializers import graph_weights
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
        whole = load_graph(param.file)
        graph = cut(whole, list(param.output), list(param.input))
        fed = zip(param.input or whole.inputs, map(tuple, bottoms), strict=False)
        given = {name: dims for name, dims in fed if None in whole.inputs.get(name, ())[1:]}
        if given:
            graph = _sized(graph, cut(load_graph(param.file, given), list(param.output), list(param.input)))
    except OSError as error:
        hint = "paths are relative to the working directory; the layer's graph is in that file, also after training"
        raise OnnxError(f"layer '{layer.name}': {error.strerror}", place=param.file, hint=hint) from error
    _check_count(layer, "bottom", len(layer.bottom), "input", list(graph.inputs))
    _check_count(layer, "top", len(layer.top), "output", list(graph.outputs))
    return graph


def _sized(graph: Graph, sized: Graph) -> Graph:
    """Return the graph with known sizes and the same weights. Raises: OnnxError where the sizes change the weights."""
    own, found = graph_weights(graph), graph_weights(sized)
    kept = {name: array.shape for name, array in found.items() if name in own}
    if list(kept.items()) != [(name, array.shape) for name, array in own.items()]:
        lost = next((name for name, array in own.items() if kept.get(name) != array.shape), next(iter(own)))
        hint = "export the net for the size of the images"
        raise OnnxError(f"its weight '{lost}' depends on sizes that it leaves open", place=graph.place, hint=hint)
    return replace(sized, settings=frozenset(found.keys() - own.keys()))


def _check_count(layer: LayerParameter, end: str, count: int, field: str, names: list[str]) -> None:
    if count != len(names):
        message = f"layer '{layer.name}' has {count} {end}s, its file {len(names)} {field}s: {', '.join(names)}"
        hint = f"select values by name in onnx_param.{field}"
        raise OnnxError(message, place=layer.onnx_param.file, hint=hint)
