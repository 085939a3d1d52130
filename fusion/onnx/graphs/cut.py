"""Where a graph can be cut, where its classifier begins, and the part of it between values."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import onnx

from fusion.errors import OnnxError
from fusion.onnx.graphs.graph import Dims, Graph, attributes, pruned

_STEPS: Final = (":apart", ":means", ":padded", ":turned")  # values that the file does not have
CHANNELS_FIRST: Final = [0, 3, 1, 2]
_SCORING: Final = frozenset(("Gemm", "MatMul", "Conv"))
_ENDS: Final = frozenset(("Softmax", "LogSoftmax", "ArgMax", "Sigmoid", "Cast"))
_PASSING: Final = frozenset(
    ("Add", "AveragePool", "Dropout", "Flatten", "GlobalAveragePool", "MaxPool", "ReduceMean", "ReduceMax", "Relu")
) | {"Reshape", "Squeeze", "Transpose", "Unsqueeze"}


def tensor(graph: Graph, name: str) -> str | None:
    """The value of this name in the graph, also by a former name or one without the slash in front; None if none."""
    made = {output for node in graph.nodes for output in node.output} | set(graph.inputs)
    for found in (name, f"/{name}"):
        found = graph.aliases.get(found, found)
        if found in made:
            return found
    return None


def candidates(graph: Graph) -> list[tuple[str, Dims]]:
    """Values that are features, with their shapes: float, one row per sample; nearest to the output first."""
    found = [(name, dims) for node in reversed(graph.nodes) for name in node.output
             if (dims := graph.shapes.get(name)) is not None and len(dims) > 1 and dims[0] is None
             and graph.types.get(name) == onnx.TensorProto.FLOAT and not name.endswith(_STEPS)]  # fmt: skip
    return list(dict.fromkeys(found))


def scores(graph: Graph) -> str:
    """The value with the class scores: the first output, before softmax and what only names the best."""
    makers = _makers(graph)
    name = graph.outputs[0]
    while name in makers and makers[name].op_type in _ENDS:
        name = makers[name].input[0]
    return name


def before_classifier(graph: Graph) -> str | None:
    """What the layer with the class scores reads; None where it is not found."""
    makers, name = _makers(graph), scores(graph)
    while name in makers:
        node = makers[name]
        features = [value for value in node.input if value and value not in graph.constants]
        if len(features) != 1:
            return None
        if node.op_type in _SCORING and len(features) < len(node.input):
            return None if features[0] in graph.inputs else features[0]
        if node.op_type not in _PASSING:
            return None
        name = features[0]
    return None


def entries(graph: Graph) -> dict[str, str]:
    """Each input, and the value at which pictures of Caffe's order (N, C, H, W) enter.

    That is the input itself; or, where the file takes channels last, as TensorFlow's do, and begins by turning them to
    the front, what comes of that.
    """
    found = {}
    for name in graph.inputs:
        readers = [node for node in graph.nodes if name in node.input]
        turned = len(readers) == 1 and readers[0].op_type == "Transpose" and name not in graph.outputs
        found[name] = name
        if turned and list(attributes(readers[0]).get("perm", ())) == CHANNELS_FIRST:
            found[name] = readers[0].output[0]
    return found


def cut(graph: Graph, outputs: Sequence[str] = (), inputs: Sequence[str] = ()) -> Graph:
    """The part of a normalized graph that leads from values to values.

    outputs  by default the graph's own
    inputs   values to start at, instead of the graph's own inputs behind them
    Raises: OnnxError for a name that is none, with the names that could be meant.
    """
    ends = [_named(graph, name) for name in outputs] if outputs else list(graph.outputs)
    starts = [_named(graph, name) for name in inputs]
    nodes = pruned([node for node in graph.nodes if not set(node.output) & set(starts)], ends)
    read = {name for node in nodes for name in node.input} | set(ends)
    found = list(starts) if starts else [name for name in graph.inputs if name in read]
    missing = [name for name in graph.inputs if name in read and name not in found]
    if missing:
        what = (
            f"{', '.join(map(repr, ends))} also depends on the input '{missing[0]}', not on {', '.join(starts)} alone"
        )
        raise OnnxError(what, place=graph.place, hint="start at values that all of it comes from")
    return replace(
        graph,
        nodes=nodes,
        constants={name: array for name, array in graph.constants.items() if name in read},
        inputs={name: graph.inputs.get(name, graph.shapes.get(name, ())) for name in found},
        outputs=tuple(ends),
    )


def _makers(graph: Graph) -> dict[str, onnx.NodeProto]:
    return {name: node for node in graph.nodes for name in node.output}


def _named(graph: Graph, name: str) -> str:
    found = tensor(graph, name)
    if found is None:
        raise missing_value(graph, name)
    return found


def missing_value(graph: Graph, name: str) -> OnnxError:
    """The error for a name that no value has."""
    known = [value for value, _ in candidates(graph)]
    near = difflib.get_close_matches(name, [*known, *graph.inputs], n=1)
    guess = f"did you mean '{near[0]}'? " if near else ""
    return OnnxError(f"there is no value '{name}'", place=graph.place, hint=f"{guess}values are: {listed(graph)}")


def listed(graph: Graph, most: int = 12) -> str:
    """The values at which the graph can be cut, with their shapes per sample."""
    found = candidates(graph)
    shown = [f"{name.lstrip('/')} ({'x'.join('?' if dim is None else str(dim) for dim in dims[1:])})"
             for name, dims in found[:most]]  # fmt: skip
    return ", ".join(shown) + (f" and {len(found) - most} more" if len(found) > most else "") or "none"
