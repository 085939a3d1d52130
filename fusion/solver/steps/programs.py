"""A traced step made shorter: what is constant is computed once, what is alike once per step, and heads that read the
same rows share one matrix product. What follows from a record alone can be taken out and kept beside its row."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, fx

from fusion.solver.steps.simplifying import simplify, sum_before_softmax

aten = torch.ops.aten
_FILLED = frozenset({aten.new_ones.default, aten.new_zeros.default, aten.new_full.default, aten.ones_like.default,
                     aten.zeros_like.default})  # fmt: skip
_SMALL = 4096  # numbers of a constant that is compared with others
_NOTHING = frozenset({aten.alias.default, aten.detach.default, aten.lift_fresh_copy.default})


def shorten(program: fx.GraphModule, living: Collection[Tensor] = ()) -> None:
    """Rewrite a trace in place; its results stay the same but for rounding. One that writes into tensors is kept.

    living  tensors in the trace whose values change between steps
    """
    if any(getattr(getattr(node.target, "_schema", None), "is_mutable", False) for node in program.graph.nodes):
        return
    _drop(program.graph)
    _fold(program, {tensor.data_ptr() for tensor in living})
    simplify(program)
    _merge(program, {tensor.data_ptr() for tensor in living})
    sum_before_softmax(program.graph)
    for node in program.graph.find_nodes(op="call_function", target=aten.bmm.default):
        _join(program.graph, node)
    program.graph.eliminate_dead_code()
    program.recompile()


def _drop(graph: fx.Graph) -> None:
    """Take out what changes nothing, and make a view of a view one view."""
    for node in graph.nodes:
        if node.op != "call_function" or not node.args:
            continue
        source = _unwrapped(node)
        if isinstance(source, fx.Node) and (node.target in _NOTHING or (_alike(node, source) and _is_idle(node))):
            node.replace_all_uses_with(source)
        elif node.target is aten.view.default and isinstance(source, fx.Node) and source.target is aten.view.default:
            node.args = (source.args[0], *node.args[1:])
        elif node.target is aten.t.default and isinstance(source, fx.Node) and source.target is aten.t.default:
            node.replace_all_uses_with(source.args[0])
    graph.eliminate_dead_code()


def _unwrapped(node: fx.Node) -> object:
    """The first argument, or the only member of the list that it is."""
    first = node.args[0]
    return first[0] if isinstance(first, (list, tuple)) and len(first) == 1 else first


def _alike(node: fx.Node, source: fx.Node) -> bool:
    """Whether two nodes have one shape and number type."""
    one, other = node.meta.get("val"), source.meta.get("val")
    return (
        isinstance(one, Tensor) and isinstance(other, Tensor) and (one.shape, one.dtype) == (other.shape, other.dtype)
    )


def _is_idle(node: fx.Node) -> bool:
    """Whether a node whose result looks like its argument is its argument."""
    if node.target in (aten.mul.Tensor, aten.div.Tensor, aten.mul.Scalar, aten.div.Scalar):
        return isinstance(node.args[1], (int, float)) and node.args[1] == 1
    if node.target is aten.sum.default:
        return bool(node.meta["val"].dim() == 0)
    if node.target is aten.pow.Tensor_Scalar:
        return bool(node.args[1] == 1)
    return node.target in (aten.view.default, aten._unsafe_view.default)


def _fold(program: fx.GraphModule, living: Collection[int]) -> None:
    """Compute what depends on no input and on no tensor that lies at one of these addresses."""
    known: dict[fx.Node, Tensor] = {}
    for node in program.graph.nodes:
        if node.op == "get_attr":
            tensor = getattr(program, str(node.target))
            if tensor.data_ptr() not in living:
                known[node] = tensor
        elif node.op == "call_function" and isinstance(node.meta.get("val"), Tensor):
            if node.target in _FILLED:
                known[node] = _filled(node)
            elif all(source in known for source in node.all_input_nodes):
                args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda source: known[source])
                known[node] = node.target(*args, **kwargs)
    for number, (node, value) in enumerate(known.items()):
        if node.op == "call_function" and any(user not in known for user in node.users):
            name = f"known{number}"
            program.register_buffer(name, value)
            with program.graph.inserting_before(node):
                constant = program.graph.get_attr(name)
                constant.meta["val"] = value
                node.replace_all_uses_with(constant)
    program.graph.eliminate_dead_code()


def _merge(program: fx.GraphModule, living: Collection[int]) -> None:
    """Keep one of equal operations on equal arguments, and one of equal tensors that do not change."""
    seen: dict[object, fx.Node] = {}
    for node in program.graph.nodes:
        key: object = f"{node.target} {node.args} {node.kwargs}"
        if node.op == "get_attr":
            key = _content(getattr(program, str(node.target)), living) or (node.op, node.target)
        elif node.op != "call_function":
            continue
        first = seen.setdefault(key, node)
        if first is not node:
            node.replace_all_uses_with(first)
            program.graph.erase_node(node)


def _content(tensor: Tensor, living: Collection[int]) -> object:
    """What two equal small tensors have in common; None for what changes or is large."""
    if tensor.data_ptr() in living or tensor.numel() > _SMALL:
        return None
    return tensor.dtype, tensor.device, tuple(tensor.shape), tuple(tensor.flatten().tolist())


def _filled(node: fx.Node) -> Tensor:
    """The tensor that a `new_ones` or `zeros_like` makes, whose size alone comes from its argument."""
    val: Tensor = node.meta["val"]
    number: Any = 1
    if node.target in (aten.new_zeros.default, aten.zeros_like.default):
        number = 0
    elif node.target is aten.new_full.default:
        number = node.args[2]
    return torch.full(val.shape, number, dtype=val.dtype, device=val.device)


def _join(graph: fx.Graph, node: fx.Node) -> None:
    """H products that share a factor [N, K] become one.

    rows @ w[h] for all h   is   rows @ [w[0] ... w[H]]
    g[h] @ rows for all h   is   [g[0]; ...; g[H]] @ rows
    """
    left, right = node.args
    assert isinstance(left, fx.Node)
    assert isinstance(right, fx.Node)
    heads, m, k = left.meta["val"].shape
    n = right.meta["val"].shape[2]
    call = graph.call_function
    with graph.inserting_before(node):
        if (rows := _shared(left)) is not None:
            flipped = call(aten.transpose.int, (right, 1, 2))
            stacked = call(aten.reshape.default, (flipped, [heads * n, k]))
            product = call(aten.mm.default, (rows, call(aten.t.default, (stacked,))))
            parts = call(aten.view.default, (product, [m, heads, n]))
            joined = call(aten.clone.default, (call(aten.transpose.int, (parts, 0, 1)),),
                          {"memory_format": torch.contiguous_format})  # fmt: skip
        elif (rows := _shared(right)) is not None:
            stacked = call(aten.reshape.default, (left, [heads * m, k]))
            joined = call(aten.view.default, (call(aten.mm.default, (stacked, rows)), [heads, m, n]))
        else:
            return
    joined.meta["val"] = node.meta["val"]
    node.replace_all_uses_with(joined)


def _shared(node: fx.Node) -> fx.Node | None:
    """The matrix that is repeated for every head, if the node is one."""
    if node.target is not aten.expand.default or not isinstance(node.args[0], fx.Node):
        return None
    source = node.args[0]
    return source if source.meta["val"].dim() == 2 else None
