"""Horizontal positions in a layered drawing: long arrows are straight, and boxes are centred on their neighbours.

Source: Brandes and Koepf 2001, "Fast and Simple Horizontal Coordinate Assignment": four alignments, one towards each
corner, and the median of the four positions of each vertex.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from prototxt.drawing.rank_nodes import RankedGraph

Pair = tuple[int, int]


def x_positions(graph: RankedGraph, widths: Sequence[float], gap: float) -> list[float]:
    """Return the centre of each vertex; the leftmost edge is at 0.

    widths  widths of all vertices, including dummies
    """
    conflicts = _conflicts(graph)
    found: list[list[float]] = []
    for upside_down in (False, True):
        neighbours = graph.below if upside_down else graph.above
        rows = graph.rows[::-1] if upside_down else graph.rows
        for mirrored in (False, True):
            turned = [row[::-1] for row in rows] if mirrored else rows
            roots = _aligned(turned, neighbours, conflicts, len(widths))
            xs = _compacted(turned, roots, widths, gap)
            found.append([-x for x in xs] if mirrored else xs)
    return _balanced(found, widths)


def _conflicts(graph: RankedGraph) -> set[Pair]:
    """Return the arrow segments that cross an inner segment of a long arrow, which has to stay straight."""
    places = {vertex: place for row in graph.rows for place, vertex in enumerate(row)}
    marked: set[Pair] = set()
    for upper, lower in pairwise(graph.rows):
        start, left = 0, 0
        for index, vertex in enumerate(lower):
            inner = next((u for u in graph.above[vertex] if vertex >= graph.real and u >= graph.real), None)
            if inner is None and index < len(lower) - 1:
                continue
            right = len(upper) if inner is None else places[inner]
            for other in lower[start : index + 1]:
                for u in graph.above[other]:
                    is_inner = other >= graph.real and u >= graph.real
                    if not is_inner and not left <= places[u] <= right:
                        marked.add((u, other))
            start, left = index + 1, right
    return marked


def _aligned(
    rows: Sequence[Sequence[int]], neighbours: Sequence[Sequence[int]], conflicts: set[Pair], count: int
) -> list[int]:
    """Align each vertex with a median neighbour; return the first vertex of the block of each vertex."""
    root, align = list(range(count)), list(range(count))
    places = {vertex: place for row in rows for place, vertex in enumerate(row)}
    for row in rows:
        last = -1
        for vertex in row:
            near = sorted(neighbours[vertex], key=places.__getitem__)
            for middle in sorted({(len(near) - 1) // 2, len(near) // 2}) if near else ():
                other = near[middle]
                crossed = (other, vertex) in conflicts or (vertex, other) in conflicts
                if align[vertex] == vertex and last < places[other] and not crossed:
                    align[other] = vertex
                    align[vertex] = root[vertex] = root[other]
                    last = places[other]
    return root


def _compacted(rows: Sequence[Sequence[int]], roots: Sequence[int], widths: Sequence[float], gap: float) -> list[float]:
    """Place each block as far left as its neighbours allow, then pull it to the right."""
    before: dict[int, dict[int, float]] = {root: {} for root in roots}
    after: dict[int, dict[int, float]] = {root: {} for root in roots}
    for row in rows:
        for left, right in pairwise(row):
            a, b = roots[left], roots[right]
            distance = max(before[b].get(a, 0.0), (widths[left] + widths[right]) / 2 + gap)
            before[b][a] = after[a][b] = distance
    order = _topological(before, after)
    xs: dict[int, float] = {}
    for root in order:
        xs[root] = max((xs[other] + distance for other, distance in before[root].items()), default=0.0)
    for root in reversed(order):
        if after[root]:
            xs[root] = max(xs[root], min(xs[other] - distance for other, distance in after[root].items()))
    return [xs[root] for root in roots]


def _topological(before: dict[int, dict[int, float]], after: dict[int, dict[int, float]]) -> list[int]:
    left = {root: len(others) for root, others in before.items()}
    order = [root for root, count in left.items() if not count]
    for root in order:  # the list grows during the loop
        for other in after[root]:
            left[other] -= 1
            if not left[other]:
                order.append(other)
    return order


def _balanced(found: Sequence[Sequence[float]], widths: Sequence[float]) -> list[float]:
    """Return the medians of the four positions, aligned at the left or right edge of the narrowest layout."""
    if not widths:
        return []
    spans = [
        (
            min(x - w / 2 for x, w in zip(xs, widths, strict=True)),
            max(x + w / 2 for x, w in zip(xs, widths, strict=True)),
        )
        for xs in found
    ]
    low, high = min(spans, key=lambda span: span[1] - span[0])
    shifts = [high - right if index % 2 else low - left for index, (left, right) in enumerate(spans)]
    middles = []
    for vertex in range(len(widths)):
        places = sorted(xs[vertex] + shift for xs, shift in zip(found, shifts, strict=True))
        middles.append((places[1] + places[2]) / 2)
    left = min(x - w / 2 for x, w in zip(middles, widths, strict=True))
    return [x - left for x in middles]
