"""Gradients that are affine in a net's scores and their softmax, written as just that.

The gradient of most losses towards the scores z [N, C] of N records is

    A * z + B * softmax(z) + D

with coefficients that follow from each record alone: the label, what a reference said, how much the record counts. A
traced step finds it in many operations, loss by loss and class subset by class subset; here all are added up into one
such sum, whose coefficients are worked out once for all records (see `columns`) or looked up (see `tables`).
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, fx

from fusion.solver.steps.forms import Basis, Factor, Form, Reader, constant, is_matrix

aten = torch.ops.aten


def gather(program: fx.GraphModule, of_record: Collection[fx.Node], fixed: Collection[fx.Node], largest: int) -> None:
    """Rewrite a trace in place where that takes fewer operations; its results stay the same but for rounding.

    of_record  nodes [N, ...] whose row i follows from record i alone
    fixed      tensors of the trace whose values never change
    largest    bytes per record that a coefficient may take
    """
    forms: dict[fx.Node, Form] = {}
    for node in list(program.graph.nodes):
        value = node.meta.get("val")
        if node.op != "call_function" or node in of_record or not is_matrix(value):
            continue
        if value.shape[1] * value.element_size() <= largest:
            with program.graph.inserting_before(node):
                form = Reader(program, of_record, fixed, forms, node).form()
            if form is not None:
                forms[node] = form
    for node, form in forms.items():
        if form.terms and any(user not in forms for user in node.users) and _pays(form):
            _write(program, node, form)
    program.graph.eliminate_dead_code()


def _pays(form: Form) -> bool:
    """Whether less is left: operations, with one to look up each coefficient, and one less to look up a label."""
    factors = [factor for factor in (*form.terms.values(), form.rest) if isinstance(factor, fx.Node)]
    looked_up = sum(factor.op != "get_attr" for factor in factors)
    made = len(form.terms) + sum(basis.softmax for basis in form.terms)
    labels = any(node.target is aten.nll_loss_backward.default for node in form.replaced)
    return len(form.replaced) + labels >= made + looked_up + (not labels)


def _write(program: fx.GraphModule, node: fx.Node, form: Form) -> None:
    """Put the form in the node's place."""
    graph, result, value = program.graph, form.rest, node.meta["val"]
    with graph.inserting_before(node):
        for basis, factor in sorted(form.terms.items(), key=lambda term: term[0].into is not None):
            if basis.into is not None:
                result = _add_to_columns(program, result, basis, factor, value)
            else:
                result = _add_product(graph, result, _part(graph, basis, value), factor)
            result.meta["val"] = value
    assert isinstance(result, fx.Node)
    node.replace_all_uses_with(result)


def _part(graph: fx.Graph, basis: Basis, value: Tensor) -> fx.Node:
    part = basis.scores
    if basis.columns is not None:
        part = graph.call_function(aten.index_select.default, (part, 1, basis.columns))
    elif basis.softmax:
        part = graph.call_function(aten._softmax.default, (part, 1, False))
    part.meta.setdefault("val", value)
    return part


def _add_product(graph: fx.Graph, result: Factor, part: fx.Node, factor: Factor) -> fx.Node:
    """result + part * factor."""
    if isinstance(result, fx.Node):
        if isinstance(factor, float):
            return graph.call_function(aten.add.Tensor, (result, part), {"alpha": factor})
        return graph.call_function(aten.addcmul.default, (result, part, factor))
    scaled = graph.call_function(aten.mul.Tensor, (part, factor))  # takes a number as well
    scaled.meta["val"] = part.meta["val"]
    return scaled if result == 0.0 else graph.call_function(aten.add.Scalar, (scaled, result))


def _add_to_columns(program: fx.GraphModule, result: Factor, basis: Basis, factor: Factor, value: Tensor) -> fx.Node:
    """The result with scores * factor added to some of its columns."""
    graph = program.graph
    if not isinstance(result, fx.Node):
        result = constant(program, torch.full(value.shape, result, dtype=value.dtype, device=value.device))
    part = _add_product(graph, 0.0, basis.scores, factor)
    return graph.call_function(aten.index_add.default, (result, 1, basis.into, part))
