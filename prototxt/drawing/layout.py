"""Lay out a diagram: a rectangle for each box, a smooth path for each arrow, a frame for each group of names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prototxt.drawing.nodes import Diagram, Node
from prototxt.drawing.place_nodes import x_positions
from prototxt.drawing.rank_nodes import RankedGraph, rank_boxes

TITLE, LINE = 16.0, 14.0  # heights of a box's title and of its other lines, in pixels
_PAD = 8.0
_GAP = 22.0  # between boxes of a row
_ROW_GAP = 34.0
_DUMMY = 4.0
_FRAME = 10.0
_NARROW = frozenset("ijlftrI.,:;/()[]|'! -")
_WIDE = frozenset("mwMW@%")


@dataclass(frozen=True, slots=True)
class NodeBox:
    """A rectangle, by its upper left corner and size."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class DiagramLayout:
    """The positions of all parts, in pixels from the upper left corner.

    boxes   rectangles of the nodes
    paths   paths of the edges, as SVG path data
    frames  frames around the nodes of a group, unless another node is inside
    """

    width: float
    height: float
    boxes: tuple[NodeBox, ...]
    paths: tuple[str, ...]
    frames: tuple[tuple[str, NodeBox], ...]


def lay_out(graph: Diagram) -> DiagramLayout:
    """Lay out a diagram from top to bottom."""
    sizes = [_size(node) for node in graph.nodes]
    order = rank_boxes(len(sizes), [(edge.source, edge.target) for edge in graph.edges])
    count = sum(map(len, order.rows))
    widths = [width for width, _ in sizes] + [_DUMMY] * (count - len(sizes))
    xs = x_positions(order, widths, _GAP)
    tops, heights = _rows(order, [height for _, height in sizes])
    boxes: list[NodeBox] = [NodeBox(0, 0, 0, 0)] * len(sizes)
    row_of: dict[int, int] = {}
    for row, vertices in enumerate(order.rows):
        for vertex in vertices:
            row_of[vertex] = row
            if vertex < order.real:
                width, height = sizes[vertex]
                boxes[vertex] = NodeBox(xs[vertex] - width / 2, tops[row] + (heights[row] - height) / 2, width, height)
    paths = tuple(_path(path, xs, boxes, row_of, tops, heights) for path in order.paths)
    frames = tuple(_frames(graph.nodes, boxes))
    right = max([x + w / 2 for x, w in zip(xs, widths, strict=True)] + [box.x + box.width for _, box in frames] + [0.0])
    bottom = tops[-1] + heights[-1] if tops else 0.0
    return DiagramLayout(right, bottom + _FRAME, tuple(boxes), paths, frames)


def text_width(text: str, size: float) -> float:
    """Estimate the width of a text in a sans-serif font."""
    # Estimated widths of glyph classes in em: the viewer's sans-serif font is unknown.
    units = sum(0.38 if c in _NARROW else 0.96 if c in _WIDE else 0.7 if c.isupper() else 0.62 for c in text)
    return units * size


def _size(node: Node) -> tuple[float, float]:
    title = text_width(node.title, 12) * 1.08 + (20 if node.frozen else 0)
    width = max([title, *(text_width(line, 11) for line in node.lines)]) + 2 * _PAD
    return max(64.0, width), 2 * _PAD + TITLE + LINE * len(node.lines) - 3


def _rows(order: RankedGraph, heights: Sequence[float]) -> tuple[list[float], list[float]]:
    """Return the top of each row, and its height: that of its tallest box."""
    tops, high, y = [], [], 0.0
    for vertices in order.rows:
        height = max((heights[vertex] for vertex in vertices if vertex < order.real), default=0.0)
        tops.append(y)
        high.append(height)
        y += height + _ROW_GAP
    return tops, high


def _path(
    path: Sequence[int],
    xs: Sequence[float],
    boxes: Sequence[NodeBox],
    row_of: dict[int, int],
    tops: Sequence[float],
    heights: Sequence[float],
) -> str:
    """Return an arrow's path: straight down through the rows it passes, bent between them."""
    first, last = boxes[path[0]], boxes[path[-1]]
    x, y = _port(first, xs[path[1]]), first.y + first.height
    parts = [f"M{x:.1f} {y:.1f}"]
    for vertex in path[1:]:
        end = vertex == path[-1]
        row = row_of[vertex]
        to_x = _port(last, xs[path[-2]]) if end else xs[vertex]
        to_y = last.y - 1 if end else tops[row]
        if abs(to_x - x) < 0.5:
            parts.append(f"V{to_y:.1f}")
        else:
            bend = max(y, tops[row] - _ROW_GAP) if y < tops[row] - _ROW_GAP else y
            if bend > y:
                parts.append(f"V{bend:.1f}")
            middle = (bend + to_y) / 2
            parts.append(f"C{x:.1f} {middle:.1f} {to_x:.1f} {middle:.1f} {to_x:.1f} {to_y:.1f}")
        x, y = to_x, to_y
        if not end:
            y = tops[row] + heights[row]
            parts.append(f"V{y:.1f}")
    return "".join(parts)


def _port(box: NodeBox, towards: float) -> float:
    """Return where an arrow meets a box: vertically aligned with its other end, if the box is wide enough."""
    inset = min(14.0, box.width / 2)
    return min(max(towards, box.x + inset), box.x + box.width - inset)


def _frames(nodes: Sequence[Node], boxes: Sequence[NodeBox]) -> list[tuple[str, NodeBox]]:
    groups: dict[str, list[int]] = {}
    for number, node in enumerate(nodes):
        if node.group:
            groups.setdefault(node.group, []).append(number)
    frames = []
    for name, members in groups.items():
        inner = [boxes[number] for number in members]
        left, top = min(box.x for box in inner) - _FRAME, min(box.y for box in inner) - _FRAME
        right = max(box.x + box.width for box in inner) + _FRAME
        bottom = max(box.y + box.height for box in inner) + _FRAME
        frame = NodeBox(left, top, right - left, bottom - top)
        strangers = (box for number, box in enumerate(boxes) if number not in set(members))
        if len(members) > 1 and not any(_overlap(frame, box) for box in strangers):
            frames.append((name, frame))
    return frames


def _overlap(one: NodeBox, other: NodeBox) -> bool:
    return (
        one.x < other.x + other.width
        and other.x < one.x + one.width
        and one.y < other.y + other.height
        and other.y < one.y + one.height
    )
