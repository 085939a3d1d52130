"""What follows from a record alone, taken out of a traced step: worked out once, and kept beside the record's rows.

A loss towards a reference asks in each step whether the reference was right, which of its classes the label is, how
much the record counts. None of that changes while the head learns.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from math import prod

import torch
from torch import Tensor, fx

from fusion.solver.steps.affine import gather

aten = torch.ops.aten
LARGEST = 256  # bytes per record of a column: those that are larger are worked out anew

# Values of a record made from values of the same record, place by place.
_POINTWISE = frozenset({
    aten.ge.Scalar, aten.gt.Scalar, aten.le.Scalar, aten.lt.Scalar, aten.eq.Scalar, aten.ne.Scalar,
    aten.ge.Tensor, aten.gt.Tensor, aten.le.Tensor, aten.lt.Tensor, aten.eq.Tensor, aten.ne.Tensor,
    aten.bitwise_and.Tensor, aten.bitwise_or.Tensor, aten.bitwise_not.default,
    aten.logical_and.default, aten.logical_or.default, aten.logical_not.default,
    aten.where.self, aten.where.ScalarSelf, aten.where.ScalarOther, aten.masked_fill.Scalar,
    aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor,
    aten.add.Scalar, aten.sub.Scalar, aten.mul.Scalar, aten.div.Scalar, aten.rsub.Scalar, aten.pow.Tensor_Scalar,
    aten.neg.default, aten.abs.default, aten.exp.default, aten.log.default, aten.sqrt.default, aten.relu.default,
    aten.clamp.default, aten.clamp_min.default, aten.clamp_max.default, aten.maximum.default, aten.minimum.default,
    aten._to_copy.default,
})  # fmt: skip
# Operations along the axis or axes that are their second argument.
_ALONG = frozenset({
    aten.argmax.default, aten.argmin.default, aten.any.dim, aten.all.dim, aten.amax.default, aten.amin.default,
    aten.sum.dim_IntList, aten.mean.dim, aten.logsumexp.default, aten._softmax.default, aten._log_softmax.default,
    aten.unsqueeze.default, aten.squeeze.dim, aten.select.int, aten.slice.Tensor, aten.index_select.default,
})  # fmt: skip
_JUDGED = (aten.nll_loss_backward.default, aten.nll_loss2d_backward.default)
_VIEWS = frozenset({aten.view.default, aten._unsafe_view.default, aten.reshape.default, aten.expand.default})


def take_out(
    program: fx.GraphModule, batch: int, living: Collection[Tensor], most: int = 1 << 20
) -> fx.GraphModule | None:
    """Make a trace on `batch` records take what follows from each of them as further inputs, in place.

    living   tensors in the trace whose values change between steps
    most     bytes per record that all of it may take
    returns  a program that makes those inputs from the trace's own; None where there are none
    """
    changing = {tensor.data_ptr() for tensor in living}
    _pass_factors(program.graph, of_record(program, batch, changing)[0])
    gather(program, *of_record(program, batch, changing), LARGEST)
    of_each, _ = of_record(program, batch, changing)
    taken = needed(of_each)
    if not taken or sum(prod(value.shape[1:]) * value.element_size() for value in _values(taken)) > most:
        return None
    maker = extracted(program, of_each, taken)
    last = program.graph.find_nodes(op="placeholder")[-1]
    for number, node in enumerate(taken):
        with program.graph.inserting_after(last):
            last = program.graph.placeholder(f"column{number}")
        last.meta["val"] = node.meta["val"]
        node.replace_all_uses_with(last)
    program.graph.eliminate_dead_code()
    program.recompile()
    return maker


def check_labels(
    program: fx.GraphModule, batch: int, living: Collection[Tensor], given: Mapping[fx.Node, Tensor]
) -> None:
    """Make sure that every label is a class or ignored: the gradient alone is worked out without asking.

    given   inputs of the trace, and rows [N, ...] of all values that they take, at least `batch`; a label may follow
            from all of them together
    Raises  ValueError
    """
    changing = {tensor.data_ptr() for tensor in living}
    each, _ = of_record(program, batch, changing, tuple(given))
    asked = [node for target in _JUDGED for node in program.graph.find_nodes(op="call_function", target=target)]
    labels = [node.args[2] for node in asked if isinstance(node.args[2], fx.Node)]
    device = next((tensor.device for tensor in living), None)
    if not all(label in each for label in labels) or (labels and not given):
        raise ValueError("a label does not follow from its record alone")
    made = fill(extracted(program, each, labels, tuple(given)), list(given.values()), batch, device) if labels else []
    for node, label in zip(asked, made, strict=True):
        scores, ignored = node.args[1], node.args[5]
        assert isinstance(scores, fx.Node)
        if not bool((((label >= 0) & (label < scores.meta["val"].shape[1])) | (label == ignored)).all()):
            raise ValueError("a label is none of the classes")


def fill(
    maker: fx.GraphModule, inputs: Sequence[Tensor], batch: int, device: torch.device | None = None
) -> list[Tensor]:
    """Run what makes columns over all records.

    inputs   the rows of all records, N of them and at least `batch`
    device   where the maker runs; None: where the rows are
    returns  a tensor [N, ...] for each column
    """
    count = len(inputs[0])
    columns: list[Tensor] = []
    for start in [*range(0, count - batch, batch), count - batch]:
        parts = maker(*(rows[start : start + batch].to(device or rows.device) for rows in inputs))
        if not columns:
            columns = [part.new_empty((count, *part.shape[1:])) for part in parts]
        for column, part in zip(columns, parts, strict=True):
            column[start : start + batch] = part
    return columns


def settle(program: fx.GraphModule, columns: Sequence[Tensor], batch: int) -> list[Tensor]:
    """Make columns that are the same for every record constants of the program, in place; returns the others."""
    left = []
    places = program.graph.find_nodes(op="placeholder")[-len(columns) :] if columns else []
    for node, column in zip(places, columns, strict=True):
        if not bool((column == column[:1]).all()):
            left.append(column)
            continue
        program.register_buffer(f"same_{node.name}", column[:batch].clone())
        with program.graph.inserting_before(node):
            node.replace_all_uses_with(program.graph.get_attr(f"same_{node.name}"))
        program.graph.erase_node(node)
    program.recompile()
    return left


def _values(nodes: Sequence[fx.Node]) -> Iterator[Tensor]:
    return (node.meta["val"] for node in nodes)


def _pass_factors(graph: fx.Graph, of_record: Collection[fx.Node]) -> None:
    """Where a record's value is multiplied by a number times another value, multiply the record's by the number."""
    for node in graph.find_nodes(op="call_function", target=aten.mul.Tensor):
        for mine, other in (node.args, node.args[::-1]):
            if mine in of_record and isinstance(other, fx.Node) and other.target is aten.mul.Scalar:
                with graph.inserting_before(node):
                    scaled = graph.call_function(aten.mul.Scalar, (mine, other.args[1]))
                scaled.meta["val"] = mine.meta["val"]
                node.args = (scaled, other.args[0])
                break


def extracted(
    program: fx.GraphModule, of_each: Collection[fx.Node], taken: Sequence[fx.Node], given: Sequence[fx.Node] = ()
) -> fx.GraphModule:
    """The part of a trace that makes some of its values from its inputs, or from these nodes."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {node: graph.placeholder(node.name) for node in given}
    for node in program.graph.nodes:
        inner = node in of_each or node.op == "get_attr" or (node.op == "placeholder" and not given)
        if inner and node not in copies:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output([copies[node] for node in taken])
    graph.eliminate_dead_code()
    return fx.GraphModule(program, graph)


def of_record(
    program: fx.GraphModule, batch: int, living: Collection[int], given: Collection[fx.Node] = ()
) -> tuple[dict[fx.Node, None], set[fx.Node]]:
    """The inputs and the nodes [batch, ...] whose row i follows from row i of the inputs alone; and fixed tensors.

    living  addresses of tensors in the trace whose values change between steps
    given   nodes that are taken for the inputs
    """
    found: dict[fx.Node, None] = {}
    fixed: set[fx.Node] = set()
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if node.op == "get_attr":
            tensor = getattr(program, str(node.target))
            if tensor.data_ptr() not in living:
                fixed.add(node)
                node.meta["val"] = tensor
            continue
        per_record = isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] == batch
        is_input = node in given if given else node.op == "placeholder"
        if per_record and (is_input or _keeps_records(node, found, fixed)):
            found[node] = None
    return found, fixed


def _keeps_records(node: fx.Node, of_record: Collection[fx.Node], fixed: Collection[fx.Node]) -> bool:
    sources, dims = node.all_input_nodes, node.meta["val"].dim()
    if node.op != "call_function" or not all(source in of_record or source in fixed for source in sources):
        return False
    if node.target in _POINTWISE:
        return any(source in of_record for source in sources) and all(
            source.meta["val"].dim() == dims if source in of_record else _is_same_for_all(source.meta["val"], dims)
            for source in sources
        )
    first = node.args[0]
    if first not in of_record:
        return False
    if node.target is aten.mm.default:
        return node.args[1] in fixed
    if node.target in _ALONG:
        return len(node.args) > 1 and _lowest_axis(node) >= 1 and not any(source in of_record for source in sources[1:])
    return node.target in _VIEWS


def _is_same_for_all(constant: Tensor, dims: int) -> bool:
    """Whether a constant that is combined with [batch, ...] of so many dimensions is the same for each record."""
    return constant.dim() < dims or bool((constant == constant[:1]).all())


def _lowest_axis(node: fx.Node) -> int:
    """The lowest axis that an operation works along; -1 where it is not given."""
    first, axes = node.args[0], node.args[1]
    assert isinstance(first, fx.Node)
    dims = first.meta["val"].dim() + (node.target is aten.unsqueeze.default)
    listed = list(axes) if isinstance(axes, (list, tuple)) else [axes]
    return min((axis % dims for axis in listed if isinstance(axis, int)), default=-1)


def needed(of_each: Collection[fx.Node], given: Collection[fx.Node] = ()) -> list[fx.Node]:
    """Those that the rest of a trace needs and that are small; a large one is worked out in each step, from others."""
    taken: list[fx.Node] = []
    anew: set[fx.Node] = set()
    for node in reversed(list(of_each)):
        is_input = node in given if given else node.op == "placeholder"
        if is_input or all(user in of_each and user not in anew for user in node.users):
            continue
        value = node.meta["val"]
        if prod(value.shape[1:]) * value.element_size() <= LARGEST:
            taken.append(node)
        else:
            anew.add(node)
    return taken[::-1]
