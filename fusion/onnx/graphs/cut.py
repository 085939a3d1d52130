"""Values at which a graph can be cut, the input of its classifier, and the part of the graph between values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import onnx

from fusion.errors import OnnxError
from fusion.onnx.graphs.graph import Dims, Graph, attributes, prune
from fusion.onnx.graphs.ml_operators import SCORES
from prototxt.errors import did_you_mean

_STEPS: Final = (":apart", ":means", ":padded", ":part", ":turned")  # suffixes of values that only the plain form has
CHANNELS_FIRST: Final = [0, 3, 1, 2]
_SCORING: Final = frozenset(("Gemm", "MatMul", "Conv"))
_ENDS: Final = frozenset(("Softmax", "LogSoftmax", "ArgMax", "Sigmoid", "Cast"))
_PASSING: Final = frozenset(("FakeQuantize", "Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze")) | {
    "Add", "AveragePool", "Dropout", "GlobalAveragePool", "MaxPool", "ReduceMax", "ReduceMean", "Relu"
}  # fmt: skip


def find_value(graph: Graph, name: str) -> str | None:
    """Return the value of this name, also for its name in the file or without the leading slash; None if none."""
    values = {output for node in graph.nodes for output in node.output} | set(graph.inputs)
    for found in (name, f"/{name}"):
        found = graph.aliases.get(found, found)
        if found in values:
            return found
    return None


def feature_values(graph: Graph) -> list[tuple[str, Dims]]:
    """Return the values that are features (float, a row per sample) with their shapes, nearest to the output first."""
    found = [(name, dims) for node in reversed(graph.nodes) for name in node.output
             if (dims := graph.shapes.get(name)) is not None and len(dims) > 1 and dims[0] is None
             and graph.types.get(name) == onnx.TensorProto.FLOAT and not name.endswith(_STEPS)]  # fmt: skip
    return list(dict.fromkeys(found))


def scores_value(graph: Graph) -> str:
    """Return the value with the class scores: the first output before softmax, ArgMax or Cast, or its logarithm."""
    makers = _makers(graph)
    name = graph.outputs[0]
    while name in makers and makers[name].op_type in _ENDS:
        name = makers[name].input[0]
    return name + SCORES if name + SCORES in makers else name


def classifier_input(graph: Graph) -> str | None:
    """Return the value that the layer with the class scores reads, None if there is no such layer.

    Of a classifier of `ai.onnx.ml` without such a layer, as a forest, that is its class scores.
    """
    makers, scores = _makers(graph), scores_value(graph)
    none = scores if graph.classifier else None
    name = scores
    # From the scores backwards through pooling, flattening and biases to the first layer with weights.
    while name in makers:
        node = makers[name]
        features = [value for value in node.input if value and not _is_constant(graph, makers.get(value), value)]
        if len(features) != 1:
            return none
        if node.op_type in _SCORING and len(features) < len(node.input):
            return none if features[0] in graph.inputs else features[0]
        if node.op_type not in _PASSING:
            return none
        name = features[0]
    return none


def _is_constant(graph: Graph, maker: onnx.NodeProto | None, name: str) -> bool:
    """Return whether a value is a constant, or a quantized one."""
    fake = maker is not None and maker.op_type == "FakeQuantize" and maker.input[0] in graph.constants
    return fake or name in graph.constants


def image_entries(graph: Graph) -> dict[str, str]:
    """Return for each input the value at which images of Caffe's order (N, C, H, W) enter.

    That is the input itself; or, for a file with channels last that begins with a Transpose to channels first, as
    TensorFlow's do, the output of that Transpose.
    """
    found = {}
    for name in graph.inputs:
        readers = [node for node in graph.nodes if name in node.input]
        transposed = len(readers) == 1 and readers[0].op_type == "Transpose" and name not in graph.outputs
        found[name] = name
        if transposed and list(attributes(readers[0]).get("perm", ())) == CHANNELS_FIRST:
            found[name] = readers[0].output[0]
    return found


def cut(graph: Graph, outputs: Sequence[str] = (), inputs: Sequence[str] = ()) -> Graph:
    """Return the part of a normalized graph between values.

    outputs  by default the graph's own
    inputs   values to start at, instead of the graph's own inputs before them
    Raises: OnnxError for an unknown name, with the most similar names.
    """
    ends = [_existing(graph, name) for name in outputs] if outputs else list(graph.outputs)
    starts = [_existing(graph, name) for name in inputs]
    nodes = prune([node for node in graph.nodes if not set(node.output) & set(starts)], ends)
    read = {name for node in nodes for name in node.input} | set(ends)
    found = list(starts) if starts else [name for name in graph.inputs if name in read]
    missing = [name for name in graph.inputs if name in read and name not in found]
    if missing:
        depends = f"{', '.join(map(repr, ends))} also depends on the input '{missing[0]}'"
        hint = "start at values on which all of it depends"
        raise OnnxError(f"{depends}, not on {', '.join(starts)} alone", place=graph.place, hint=hint)
    return replace(
        graph,
        nodes=nodes,
        constants={name: array for name, array in graph.constants.items() if name in read},
        inputs={name: graph.inputs.get(name, graph.shapes.get(name, ())) for name in found},
        outputs=tuple(ends),
    )


def _makers(graph: Graph) -> dict[str, onnx.NodeProto]:
    return {name: node for node in graph.nodes for name in node.output}


def _existing(graph: Graph, name: str) -> str:
    found = find_value(graph, name)
    if found is None:
        raise unknown_value(graph, name)
    return found


def unknown_value(graph: Graph, name: str) -> OnnxError:
    """Return the error for a name that no value has."""
    known = [*(value for value, _ in feature_values(graph)), *graph.inputs]
    hint = did_you_mean(name, known, also=f"values are: {list_features(graph)}")
    return OnnxError(f"there is no value '{name}'", place=graph.place, hint=hint)


def list_features(graph: Graph, most: int = 12) -> str:
    """Return the values at which the graph can be cut, with their shapes per sample, as text."""
    found = feature_values(graph)
    shown = [f"{name.lstrip('/')} ({'x'.join('?' if dim is None else str(dim) for dim in dims[1:])})"
             for name, dims in found[:most]]  # fmt: skip
    return ", ".join(shown) + (f" and {len(found) - most} more" if len(found) > most else "") or "none"
