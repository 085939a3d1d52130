"""The rows of a layered drawing: a rank for each box, and an order within each rank with few arrow crossings.

Source: Sugiyama, Tagawa and Toda 1981, "Methods for Visual Understanding of Hierarchical System Structures".
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

_SWEEPS = 12


@dataclass(frozen=True)
class RankedGraph:
    """A layered graph whose arrows all go to the next row; long ones run through dummy vertices.

    rows    vertices of each row, from left to right; those with numbers from `real` are dummies
    above   for each vertex its neighbours in the row above
    below   for each vertex its neighbours in the row below
    paths   for each arrow its vertices, including both ends
    """

    real: int
    rows: list[list[int]]
    above: list[list[int]]
    below: list[list[int]]
    paths: list[list[int]]


def rank_boxes(count: int, edges: Sequence[tuple[int, int]]) -> RankedGraph:
    """Rank and order `count` boxes; an arrow's source has a smaller number than its target."""
    ranks = _ranks(count, edges)
    of = list(ranks)
    paths = []
    for source, target in edges:
        path = [source]
        for rank in range(ranks[source] + 1, ranks[target]):
            path.append(len(of))
            of.append(rank)
        paths.append([*path, target])
    above: list[list[int]] = [[] for _ in of]
    below: list[list[int]] = [[] for _ in of]
    for path in paths:
        for upper, lower in pairwise(path):
            below[upper].append(lower)
            above[lower].append(upper)
    rows: list[list[int]] = [[] for _ in range(max(of, default=-1) + 1)]
    for vertex in _depth_first(len(of), above, below):
        rows[of[vertex]].append(vertex)
    graph = RankedGraph(count, rows, above, below, paths)
    _order(graph)
    return graph


def _ranks(count: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    """Rank boxes by the longest path from a source; sources themselves go directly above their first reader."""
    ranks = [0] * count
    fed = [False] * count
    for source, target in sorted(edges, key=lambda edge: edge[1]):
        ranks[target] = max(ranks[target], ranks[source] + 1)
        fed[target] = True
    first: dict[int, int] = {}
    for source, target in edges:
        first[source] = min(first.get(source, ranks[target]), ranks[target])
    return [rank if fed[v] else max(0, first.get(v, 1) - 1) for v, rank in enumerate(ranks)]


def _depth_first(count: int, above: list[list[int]], below: list[list[int]]) -> list[int]:
    """Return the vertices in depth-first order, which keeps branches together."""
    seen = [False] * count
    order: list[int] = []
    for start in range(count):
        todo = [start] if not above[start] else []
        while todo:
            vertex = todo.pop()
            if not seen[vertex]:
                seen[vertex] = True
                order.append(vertex)
                todo += reversed(below[vertex])
    return order


def _order(graph: RankedGraph) -> None:
    """Sort each row by the mean of its neighbours, down and up, and keep the order with the fewest crossings."""
    best = [list(row) for row in graph.rows]
    fewest = _crossings(graph)
    # The best order seen is kept, since a sweep can also increase the crossings.
    for sweep in range(_SWEEPS):
        if not fewest:
            break
        down = sweep % 2 == 0
        rows = graph.rows[1:] if down else graph.rows[-2::-1]
        neighbours = graph.above if down else graph.below
        places = _places(graph)
        for row in rows:
            middles = {vertex: _middle([places[n] for n in neighbours[vertex]], places[vertex]) for vertex in row}
            row.sort(key=middles.__getitem__)
            places.update((vertex, place) for place, vertex in enumerate(row))
        crossings = _crossings(graph)
        if crossings < fewest:
            fewest, best = crossings, [list(row) for row in graph.rows]
    graph.rows[:] = best


def _places(graph: RankedGraph) -> dict[int, int]:
    return {vertex: place for row in graph.rows for place, vertex in enumerate(row)}


def _middle(places: list[int], own: int) -> float:
    return sum(places) / len(places) if places else float(own)


def _crossings(graph: RankedGraph) -> int:
    places = _places(graph)
    total = 0
    for row in graph.rows:
        # Each arrow crosses those from boxes further left that end further right.
        passed: list[int] = []
        for vertex in row:
            ends = sorted(places[lower] for lower in graph.below[vertex])
            total += sum(len(passed) - bisect_right(passed, end) for end in ends)
            for end in ends:
                insort(passed, end)
    return total
