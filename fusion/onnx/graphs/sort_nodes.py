"""Nodes in topological order, with functions inlined; cycles and endless recursion are errors."""

from __future__ import annotations

from collections.abc import Iterator
from inspect import signature

import onnx
from onnx import defs, helper, shape_inference

from fusion.errors import OnnxError
from fusion.onnx.graphs.graph import inner_nodes

_MOST = 1 << 18  # nodes of a graph with its functions written out; the largest nets have some ten thousand
_WRITTEN_OUT = (
    "Attention", "CausalConvWithState", "CenterCropPad", "MeanVarianceNormalization", "NegativeLogLikelihoodLoss",
    "RotaryEmbedding", "Shrink", "SoftmaxCrossEntropyLoss", "SwiGLU",
)  # fmt: skip
_BROKEN = "export the net again, this is no valid ONNX file"


def check_names(model: onnx.ModelProto, place: str) -> None:
    """Check that all names are text. Raises: OnnxError for one that protobuf returned as bytes."""
    graph = model.graph
    names: list[object] = [graph.name, *(item.domain for item in model.opset_import)]
    names += [tensor.name for tensor in graph.initializer]
    names += [value.name for value in (*graph.input, *graph.output)]
    for node in graph.node:
        names += [node.name, node.op_type, node.domain, *node.input, *node.output]
        names += [item.name for item in node.attribute]
    wrong = next((name for name in names if not isinstance(name, str)), None)
    if wrong is not None:
        raise OnnxError(f"the name {wrong!r} is not in UTF-8", place=place, hint="copy or export the file again")


def topological_order(graph: onnx.GraphProto, place: str) -> tuple[onnx.NodeProto, ...]:
    """Return the nodes, each after those that it reads from: ONNX requires this order, but not all writers keep it.

    Raises: OnnxError for a cycle, for a value that no node computes, and for one that two nodes compute.
    """
    makers: dict[str, int] = {}
    outside = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer} | {""}
    for index, node in enumerate(graph.node):
        for name in filter(None, node.output):
            if name in makers or name in outside:
                raise OnnxError(f"two nodes or tensors are called '{name}'", place=place, hint=_BROKEN)
            makers[name] = index
    for index, node in enumerate(graph.node):
        missing = next((name for name in node.input if name not in makers and name not in outside), None)
        if missing is not None:
            message = f"node '{_title(graph.node[index])}' reads '{missing}', which no node computes"
            raise OnnxError(message, place=place, hint=_BROKEN)
    lost = [value.name for value in graph.output if value.name not in makers and value.name not in outside - {""}]
    if lost:
        raise OnnxError(f"no node computes its output '{lost[0]}'", place=place, hint=_BROKEN)
    return tuple(graph.node[index] for index in _sorted(graph, makers, place))


def _sorted(graph: onnx.GraphProto, makers: dict[str, int], place: str) -> Iterator[int]:
    before = [{makers[name] for name in node.input if name in makers} for node in graph.node]
    done: set[int] = set()
    open_: set[int] = set()  # on the stack: reading from one of these is a cycle
    for start in range(len(graph.node)):
        stack = [start]
        while stack:
            index = stack[-1]
            waiting = before[index] - done
            if index in done or not waiting:
                stack.pop()
                open_.discard(index)
                if index not in done:
                    yield index
                done.add(index)
                continue
            if waiting & open_ or index in waiting:
                message = f"node '{_title(graph.node[index])}' depends on its own output"
                raise OnnxError(message, place=place, hint=_BROKEN)
            open_.add(index)
            stack += sorted(waiting, reverse=True)


def inline_functions(model: onnx.ModelProto, place: str) -> onnx.ModelProto:
    """Return the model with the functions of the file inlined.

    Raises: OnnxError for functions that call themselves, or that expand to too many nodes.
    """
    if not model.functions:
        return model
    bodies = {
        (function.domain, function.name): [*function.node, *inner_nodes(function.node)] for function in model.functions
    }
    # Count before inlining: a few nested functions can stand for more nodes than fit into memory.
    sizes: dict[tuple[str, str], int] = {}
    for start in bodies:
        stack = [start]
        while stack:
            key = stack[-1]
            calls = [(node.domain, node.op_type) for node in bodies[key]]
            waiting = [call for call in calls if call in bodies and call not in sizes]
            if not waiting:
                sizes[key] = sum(sizes.get(call, 1) for call in calls)
                stack.pop()
            elif set(waiting) & set(stack):
                hint = "ONNX allows no such function; export the net without it"
                raise OnnxError(f"its function '{key[1]}' calls itself", place=place, hint=hint)
            else:
                stack.append(waiting[0])
    every = [*model.graph.node, *inner_nodes(model.graph.node)]
    total = sum(sizes.get((node.domain, node.op_type), 1) for node in every)
    if total > _MOST:
        message = f"its functions call each other so often that they are {total:,} nodes; {_MOST:,} are read at most"
        raise OnnxError(message, place=place, hint="export the net without functions")
    from onnx import inliner

    result: onnx.ModelProto = inliner.inline_local_functions(model)
    return result


def expand_operators(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with operators that have no converter expanded, if ONNX defines them by other operators."""
    from onnx import inliner

    if "inline_schema_functions" not in signature(inliner.inline_selected_functions).parameters:
        return model  # an older onnx: they are refused
    while any(node.op_type in _WRITTEN_OUT and not node.domain for node in model.graph.node):
        count = len(model.graph.node)
        functions = [("", name) for name in _WRITTEN_OUT]
        try:
            model = inliner.inline_selected_functions(_typed(model), functions, inline_schema_functions=True)
        except Exception:  # its errors have no class of their own; such an operator is refused by name
            break
        if len(model.graph.node) == count:
            break
    return model


def _typed(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with types of all values, which onnx's inliner needs, and attribute defaults, which it drops."""
    found: onnx.ModelProto = shape_inference.infer_shapes(model)
    versions = {item.domain: item.version for item in found.opset_import}
    for node in found.graph.node:
        if node.op_type in _WRITTEN_OUT and not node.domain:
            given = {item.name for item in node.attribute}
            known_attributes = defs.get_schema(node.op_type, versions.get("", 1), "").attributes.values()
            node.attribute.extend(item.default_value for item in known_attributes
                                  if item.default_value.name and item.name not in given)  # fmt: skip
    known = {value.name for value in (*found.graph.value_info, *found.graph.input)}
    found.graph.value_info.extend(
        helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        for tensor in found.graph.initializer
        if tensor.name not in known
    )
    return found


def _title(node: onnx.NodeProto) -> str:
    return node.name or next(iter(node.output), "") or node.op_type
