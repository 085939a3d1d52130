"""A short diagram of a long net: branches with one prefix, blocks with one input and output, and their repetitions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import takewhile

from prototxt.drawing.nodes import Diagram, Edge, Node
from prototxt.summary.text_table import amount

_SHORT = 24  # boxes that need no overview
_LARGEST = 20  # boxes of a block; a larger one, such as a whole U-Net, would hide the net
_LONGEST_PERIOD = 4
_SHOWN = 5  # layers of a block that are named in its box

Members = tuple[tuple[int, ...], ...]  # for each box the numbers of the boxes that it stands for


@dataclass(frozen=True)
class FoldedDiagram:
    """A diagram whose boxes may stand for several boxes of another one.

    members  for each box the numbers of those boxes, in their order
    """

    diagram: Diagram
    members: Members


def fold_diagram(graph: Diagram) -> FoldedDiagram | None:
    """Return the overview of a diagram; None if it is short, or would not become shorter by a third."""
    if len(graph.nodes) <= _SHORT:
        return None
    groups = _branches(graph)
    folds = _runs(graph, groups)
    if 3 * len(folds) > 2 * len(graph.nodes):
        return None
    home = {number: index for index, (members, _) in enumerate(folds) for number in members}
    ends = ((home[edge.source], home[edge.target], edge.blob) for edge in graph.edges)
    edges = tuple(Edge(*end) for end in dict.fromkeys(ends) if end[0] != end[1])
    branches = {group: graph.nodes[group[0]].group for group in groups if len(group) > 1}
    nodes = tuple(
        _fold([graph.nodes[number] for number in members], times, branches.get(members)) for members, times in folds
    )
    return FoldedDiagram(Diagram(graph.name, nodes, edges), tuple(members for members, _ in folds))


def _branches(graph: Diagram) -> Members:
    """Return the boxes in an order along the arrows, those of one prefix together unless an arrow returns to them."""
    names = {node.group: None for node in graph.nodes if node.group}
    found: Members = tuple((number,) for number in range(len(graph.nodes)))
    for name in names if len(names) > 1 else ():
        inside = tuple(number for number, node in enumerate(graph.nodes) if node.group == name)
        rest = tuple(group for group in found if group[0] not in inside)
        found = _along_arrows(graph, (*rest, inside)) or found
    return found


def _along_arrows(graph: Diagram, groups: Members) -> Members | None:
    """Return the groups sorted along the arrows, the first boxes first; None if they are in a cycle."""
    home = {number: index for index, group in enumerate(groups) for number in group}
    arrows = {(home[edge.source], home[edge.target]) for edge in graph.edges}
    below: list[list[int]] = [[] for _ in groups]
    waiting = [0] * len(groups)
    for source, target in arrows:
        if source != target:
            below[source].append(target)
            waiting[target] += 1
    ready = [(group[0], index) for index, group in enumerate(groups) if not waiting[index]]
    heapify(ready)
    order: list[int] = []
    while ready:
        index = heappop(ready)[1]
        order.append(index)
        for target in below[index]:
            waiting[target] -= 1
            if not waiting[target]:
                heappush(ready, (groups[target][0], target))
    return tuple(groups[index] for index in order) if len(order) == len(groups) else None


def _runs(graph: Diagram, groups: Members) -> list[tuple[tuple[int, ...], int]]:
    """Return the boxes of each fold, and how often its form is repeated."""
    blocks = _blocks(graph, groups)
    forms = [_form(graph, block) for block in blocks]
    found: list[tuple[tuple[int, ...], int]] = []
    at = 0
    while at < len(blocks):
        period, times = _repetition(forms, at)
        # two boxes in a row that look alike are no relief when they become one
        if times > 1 and sum(map(len, blocks[at : at + period * times])) > 2:
            found.append((tuple(number for block in blocks[at : at + period * times] for number in block), times))
            at += period * times
        else:
            found.append((blocks[at], 1))
            at += 1
    return found


def _blocks(graph: Diagram, groups: Members) -> Members:
    """Return the parts of the net between two boxes through which everything flows; large ones stay apart."""
    home = {number: index for index, group in enumerate(groups) for number in group}
    furthest = list(range(len(groups)))
    for edge in graph.edges:
        furthest[home[edge.source]] = max(furthest[home[edge.source]], home[edge.target])
    blocks: list[tuple[int, ...]] = []
    start = reach = 0
    for index in range(len(groups)):
        if reach <= index:  # nothing from before this box passes it
            part = groups[start : index + 1]
            joined = [tuple(number for group in part for number in group)]
            # data and whole branches stay visible
            apart = any(len(group) > 1 or graph.nodes[group[0]].kind == "data" for group in part)
            blocks += part if apart or len(part) > _LARGEST else joined
            start = index + 1
        reach = max(reach, furthest[index])
    return (*blocks, *groups[start:])


def _form(graph: Diagram, block: Sequence[int]) -> tuple[object, ...]:
    """Return a block without its names and sizes."""
    place = {number: index for index, number in enumerate(block)}
    inner = sorted((place[e.source], place[e.target]) for e in graph.edges if e.source in place and e.target in place)
    nodes = (graph.nodes[number] for number in block)
    return (*((node.lines[:1], tuple(row.type for row in node.rows), node.frozen) for node in nodes), *inner)


def _repetition(forms: Sequence[object], at: int) -> tuple[int, int]:
    """Return the period and number of the repetitions that start here and cover most, the shortest period first."""
    best = (1, 1)
    for period in range(1, _LONGEST_PERIOD + 1):
        times = 1
        while forms[at : at + period] == forms[at + period * times : at + period * (times + 1)]:
            times += 1
        if times > 1 and period * times > best[0] * best[1]:
            best = (period, times)
    return best


def _fold(nodes: Sequence[Node], times: int, branch: str | None) -> Node:
    """Return the box that stands for others, or the only one itself; branch: its name if it is a whole branch."""
    if len(nodes) == 1:
        return nodes[0]
    size = len(nodes) // times
    first, last = _name(nodes[:size]), _name(nodes[-size:])
    one = nodes[:size]
    lines = [f"{times} blocks of {size} boxes" if times > 1 < size else f"{len(nodes)} boxes"]
    lines += [node.lines[0] for node in one[:_SHOWN]]
    lines += [f"and {size - _SHOWN} more"] * (size > _SHOWN)
    rows = [row for node in nodes for row in node.rows]
    params = sum((row.cost.params or 0) + (row.cost.statistics or 0) for row in rows)
    macs = sum(row.cost.macs or 0 for row in rows)
    facts = [f"{amount(params)} params"] * bool(params) + [f"{amount(macs)} MACs"] * bool(macs)
    lines += [", ".join(facts)] * bool(facts)
    lines.append(nodes[-1].lines[-1])
    title = branch or (f"{first} … {last}" if times > 1 and first != last else first)
    return Node("folded", title, tuple(lines), all(node.frozen for node in nodes), tuple(rows))


def _name(nodes: Sequence[Node]) -> str:
    """Return the start that the names of a block have in common, or else the name of its last box."""
    titles = [node.title for node in nodes]
    if len(titles) == 1:
        return titles[0]
    alike = takewhile(lambda letters: len(set(letters)) == 1, zip(*titles, strict=False))
    shared = "".join(letters[0] for letters in alike).rstrip("_-./ ")
    return shared if len(shared) > 2 else titles[-1]
