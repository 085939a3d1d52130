"""Operations of a trace said in cheaper ones: what autograd writes in general, where a special case is at hand."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

aten = torch.ops.aten


def simplify(program: fx.GraphModule) -> None:
    """Rewrite single operations in place."""
    for node in list(program.graph.nodes):
        if node.target is aten.index.Tensor:
            _select(program.graph, node)
        elif node.target is aten.add.Tensor:
            _add_into(program, node)
        elif node.target is aten.nll_loss_backward.default and node.args[4] == 0:
            _without_weight(program, node)
    program.graph.eliminate_dead_code()


def sum_before_softmax(graph: fx.Graph) -> None:
    """Several losses on one softmax: add their gradients before they pass it, since that is linear in them.

    g(a) + g(b) is g(a + b), and (rest + g(a)) + g(b) is rest + g(a + b).
    """
    for node in graph.find_nodes(op="call_function", target=aten.add.Tensor):
        if len(node.args) != 2 or node.kwargs:
            continue
        parts = list(node.args)
        passed = [part for part in parts if _is_passed(part)]
        inner = next((part for part in parts if _is_sum(part)), None)
        if len(passed) == 2 and _alike(*passed):
            _replace(graph, node, None, *passed)
        elif len(passed) == 1 and inner is not None and len(inner.users) == 1:
            for rest, before in (inner.args, inner.args[::-1]):
                if _is_passed(before) and _alike(before, passed[0]):
                    _replace(graph, node, rest, before, passed[0])
                    break
    graph.eliminate_dead_code()


def _replace(graph: fx.Graph, node: fx.Node, rest: Any, one: fx.Node, other: fx.Node) -> None:
    with graph.inserting_before(node):
        joined = graph.call_function(aten.add.Tensor, (one.args[0], other.args[0]))
        passed = graph.call_function(aten._log_softmax_backward_data.default, (joined, *one.args[1:]))
        joined.meta["val"] = passed.meta["val"] = node.meta["val"]
        made = passed
        if rest is not None:
            made = graph.call_function(aten.add.Tensor, (rest, passed))
            made.meta["val"] = node.meta["val"]
    node.replace_all_uses_with(made)
    graph.erase_node(node)


def _is_passed(node: object) -> bool:
    """Whether a node is a gradient behind a softmax that nothing else needs."""
    softmax = aten._log_softmax_backward_data.default
    return isinstance(node, fx.Node) and node.target is softmax and len(node.users) == 1


def _is_sum(node: object) -> bool:
    return isinstance(node, fx.Node) and node.target is aten.add.Tensor and len(node.args) == 2 and not node.kwargs


def _alike(one: fx.Node, other: fx.Node) -> bool:
    return one.args[1:] == other.args[1:]


def _select(graph: fx.Graph, node: fx.Node) -> None:
    """x[:, i] is one selection of columns."""
    source, chosen = node.args
    assert isinstance(source, fx.Node)
    assert isinstance(chosen, (list, tuple))
    if len(chosen) == 2 and chosen[0] is None and _is_list(chosen[1]):
        with graph.inserting_before(node):
            made = graph.call_function(aten.index_select.default, (source, 1, chosen[1]))
        made.meta["val"] = node.meta["val"]
        node.replace_all_uses_with(made)


def _add_into(program: fx.GraphModule, node: fx.Node) -> None:
    """x + zeros with values put into columns: the values are added to those columns of x."""
    if len(node.args) != 2 or node.kwargs:
        return
    for base, put in (node.args, node.args[::-1]):
        if not (isinstance(base, fx.Node) and isinstance(put, fx.Node) and put.target is aten.index_put.default):
            continue
        zeros, chosen, values, *accumulate = put.args
        assert isinstance(chosen, (list, tuple))
        columns = len(chosen) == 2 and chosen[0] is None and _is_list(chosen[1])
        if columns and accumulate == [True] and _is_zero(program, zeros) and _same_shape(base, put):
            with program.graph.inserting_before(node):
                made = program.graph.call_function(aten.index_add.default, (base, 1, chosen[1], values))
            made.meta["val"] = node.meta["val"]
            node.replace_all_uses_with(made)
            return


def _without_weight(program: fx.GraphModule, node: fx.Node) -> None:
    """The total weight means something to a mean alone; without it, the forward pass need not be run for it."""
    name = "no_weight"
    if not hasattr(program, name):
        program.register_buffer(name, torch.zeros((), dtype=node.meta["val"].dtype, device=node.meta["val"].device))
    with program.graph.inserting_before(node):
        weight = program.graph.get_attr(name)
    weight.meta["val"] = getattr(program, name)
    node.args = (*node.args[:-1], weight)


def _is_list(node: object) -> bool:
    return isinstance(node, fx.Node) and isinstance(node.meta.get("val"), Tensor) and node.meta["val"].dim() == 1


def _is_zero(program: fx.GraphModule, node: object) -> bool:
    return isinstance(node, fx.Node) and node.op == "get_attr" and not getattr(program, str(node.target)).any()


def _same_shape(one: fx.Node, other: fx.Node) -> bool:
    return bool(one.meta["val"].shape == other.meta["val"].shape and one.meta["val"].dtype == other.meta["val"].dtype)
