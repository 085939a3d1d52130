"""What follows from a record's label and from a few truths about it, looked up in tables.

Where the frozen trunk runs in each iteration nothing can be kept beside a record (see `columns`). But a loss towards a
reference asks little of each record: its label, and whether the reference was right. What follows from these alone has
a few dozen values, which are worked out once.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Sequence

import torch
from torch import Tensor, fx

from fusion.solver.steps.affine import gather
from fusion.solver.steps.columns import LARGEST, extracted, fill, needed, of_record

aten = torch.ops.aten
_MOST = 4096  # rows of a table


def tabulate(program: fx.GraphModule, batch: int, living: Collection[Tensor], place: int, count: int) -> None:
    """Make a trace on `batch` records look up what follows from so little, in place.

    living  tensors in the trace whose values change between steps
    place   the number of the input that holds the labels, [batch] whole numbers from 0 to count - 1
    """
    label = program.graph.find_nodes(op="placeholder")[place]
    if label.meta["val"].shape != (batch,) or count > _MOST:
        return
    changing = {tensor.data_ptr() for tensor in living}
    truths = _truths(program, batch, changing, label)
    if truths and count << len(truths) <= _MOST:
        gather(program, *of_record(program, batch, changing, (label, *truths)), LARGEST)
        _look_up(program, batch, changing, label, count, truths)
    _look_up(program, batch, changing, label, count, ())
    program.graph.eliminate_dead_code()
    program.recompile()


def _truths(program: fx.GraphModule, batch: int, living: Collection[int], label: fx.Node) -> list[fx.Node]:
    """The truths [batch] that do not follow from the label and from those before them."""
    found: list[fx.Node] = []
    known, _ = of_record(program, batch, living, (label,))
    for node in program.graph.nodes:
        value = node.meta.get("val")
        is_truth = isinstance(value, Tensor) and value.dtype == torch.bool and value.shape == (batch,)
        if is_truth and node not in known:
            found.append(node)
            known, _ = of_record(program, batch, living, (label, *found))
    return found


def _look_up(
    program: fx.GraphModule, batch: int, living: Collection[int], label: fx.Node, count: int, truths: Sequence[fx.Node]
) -> None:
    """Look up what follows from these alone, and is needed behind them."""
    given = (label, *truths)
    finite, _ = of_record(program, batch, living, given)
    places = {node: place for place, node in enumerate(program.graph.nodes)}
    last = max(given, key=places.__getitem__)
    by_label = of_record(program, batch, living, (label,))[0] if truths else {}
    taken = [
        node for node in needed(finite, given)
        if places[node] > places[last] and node not in by_label and not _is_label(node, label)
    ]  # fmt: skip
    if not taken:
        return
    tables = _tables(extracted(program, finite, taken, given), batch, label.meta["val"], count, len(truths))
    number = _number(program.graph, label, truths, last)
    alike: dict[object, list[tuple[fx.Node, Tensor]]] = {}
    for node, table in zip(taken, tables, strict=True):
        alike.setdefault((table.dtype, table.dim()) if table.dim() <= 2 else node, []).append((node, table))
    for members in alike.values():
        _replace(program, members, number)
    program.graph.eliminate_dead_code()


def _replace(program: fx.GraphModule, members: Sequence[tuple[fx.Node, Tensor]], number: fx.Node) -> None:
    """Look up all of these nodes at once, in their tables side by side: a look-up costs more than what it finds."""
    nodes, tables = zip(*members, strict=True)
    name = f"table_{nodes[0].name}"
    single, flat = len(members) == 1, tables[0].dim() == 1
    program.register_buffer(name, tables[0] if single else torch.stack(tables, 1) if flat else torch.cat(tables, 1))
    call = program.graph.call_function
    with program.graph.inserting_before(nodes[0]):
        row = call(aten.index_select.default, (program.graph.get_attr(name), 0, number))
        row.meta["val"] = nodes[0].meta["val"]
        parts = [row]
        if not single:
            sizes = [table.shape[-1] for table in tables]
            whole = call(aten.unbind.int, (row, 1)) if flat else call(aten.split_with_sizes.default, (row, sizes, 1))
            row.meta["val"] = row.meta["val"].new_empty((len(row.meta["val"]), len(tables) if flat else sum(sizes)))
            parts = [call(operator.getitem, (whole, place)) for place in range(len(tables))]
    for node, part in zip(nodes, parts, strict=True):
        part.meta["val"] = node.meta["val"]
        node.replace_all_uses_with(part)


def _tables(maker: fx.GraphModule, batch: int, label: Tensor, count: int, truths: int) -> list[Tensor]:
    """What the maker gives for each label and each choice of truths, in the order of `_number`."""
    rows = count << truths
    numbers = torch.arange(rows + batch, device=label.device).clamp(max=rows - 1)
    inputs = [(numbers >> truths).to(label.dtype), *((numbers >> bit & 1).bool() for bit in range(truths))]
    return [table[:rows].clone() for table in fill(maker, inputs, batch)]


def _number(graph: fx.Graph, label: fx.Node, truths: Sequence[fx.Node], last: fx.Node) -> fx.Node:
    """A record's row in the tables: the label in the high bits, the truths in the low ones."""
    value = label.meta["val"]
    whole = torch.empty(value.shape, dtype=torch.int64, device=value.device)
    with graph.inserting_before(last.next):
        number = graph.call_function(aten._to_copy.default, (label,), {"dtype": torch.int64})
        number.meta["val"] = whole
        if truths:
            number = graph.call_function(aten.mul.Scalar, (number, 1 << len(truths)))
            number.meta["val"] = whole
        for bit, truth in enumerate(truths):
            number = graph.call_function(aten.add.Tensor, (number, truth), {"alpha": 1 << bit})
            number.meta["val"] = whole
    return number


def _is_label(node: fx.Node, label: fx.Node) -> bool:
    """Whether a node is the label itself in another number type."""
    return node.target is aten._to_copy.default and node.args[0] is label
