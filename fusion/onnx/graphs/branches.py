"""`If` whose condition is known before the graph runs: the nodes of its branch take its place."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from onnx import GraphProto, NodeProto

from fusion.onnx.graphs.graph import attributes, graphs_of, inner_nodes, make_node


def branch_nodes(node: NodeProto, condition: bool, taken: Collection[str]) -> Iterator[NodeProto]:
    """Yield the nodes of the branch that a condition chooses, and an Identity for each output of the If.

    taken  names that other values have; a value of the branch with one of them is renamed, since both branches may
           use the same names, and so may other nodes
    """
    branch: GraphProto = attributes(node)["then_branch" if condition else "else_branch"]
    own = [name for part in branch.node for name in part.output if name] + [item.name for item in branch.initializer]
    names = {name: f"{node.output[0]}/{name}" for name in own if name in taken}
    for tensor in branch.initializer:
        yield make_node("Constant", [], [names.get(tensor.name, tensor.name)], value=tensor)
    for part in branch.node:
        yield _renamed(part, names)
    for value, name in zip(branch.output, node.output, strict=True):
        yield make_node("Identity", [names.get(value.name, value.name)], [name])


def _renamed(node: NodeProto, names: dict[str, str]) -> NodeProto:
    """Return the node with other names of values, also where graphs in its attributes read them."""
    found = NodeProto()
    found.CopyFrom(node)
    for part in (found, *inner_nodes([found])):
        for values in (part.input, part.output):
            values[:] = [names.get(name, name) for name in values]
        for graph in graphs_of(part):
            for item in graph.output:
                item.name = names.get(item.name, item.name)
    return found
