"""Turn a net's listing into boxes and arrows; in-place layers are folded into the box whose blob they change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prototxt.shapes import UNKNOWN, Shape
from prototxt.summary.net_summary import FROZEN, PARTLY, LayerRow, NetListing
from prototxt.summary.text_table import amount

KINDS = {
    "data": "data",
    "convolution": "convolution",
    "dense": "inner product",
    "recurrent": "recurrent",
    "pooling": "pooling",
    "normalization": "normalization",
    "activation": "activation",
    "joining": "joining, splitting",
    "reshaping": "reshaping",
    "loss": "loss, measure",
    "other": "other",
    "unknown": "unknown type",
    "folded": "several boxes",
}
_FAMILIES = {
    "convolution": "Convolution Deconvolution ConvolutionDepthwise DepthwiseConvolution Im2col",
    "dense": "InnerProduct Embed MarginInnerProduct WeightedSum Gate Onnx",
    "recurrent": "LSTM RNN LSTMUnit Lstm",
    "pooling": "Pooling SPP ROIPooling PSROIPooling Unpooling Upsample Interp Reduction",
    "normalization": "BatchNorm Scale Bias LRN MVN Normalize BN",
    "activation": "ReLU PReLU ELU Sigmoid TanH AbsVal Power Exp Log BNLL Dropout Softmax Threshold Clip Swish ReLU6",
    "joining": "Concat Eltwise Slice Split Axpy Crop Filter Silence",
    "reshaping": "Reshape Flatten Permute Transpose Tile ShuffleChannel Reorg Reverse BatchReindex",
    "loss": "Accuracy ArgMax HDF5Output DetectionEvaluate",
}
_KIND_OF = {name: kind for kind, names in _FAMILIES.items() for name in names.split()}
_FAR = 3  # a label's arrow over more ranks becomes a small box next to its reader


@dataclass(frozen=True)
class Node:
    """A box: a layer and the in-place layers after it.

    title  the first layer's name
    lines  the lines below it, the last one muted
    rows   the layers in the box, empty for the copy of a distant blob
    """

    kind: str
    title: str
    lines: tuple[str, ...]
    frozen: bool
    rows: tuple[LayerRow, ...] = ()

    @property
    def group(self) -> str:
        """Return the part of the name before the first slash, "" if there is none."""
        head, slash, _ = self.title.partition("/")
        return head if slash and self.rows else ""


@dataclass(frozen=True, slots=True)
class Edge:
    """An arrow between two boxes, given by number, and its blob."""

    source: int
    target: int
    blob: str


@dataclass(frozen=True)
class Diagram:
    """The boxes and arrows of a net; an arrow's source has a smaller number than its target."""

    name: str
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]


def diagram_of(listing: NetListing) -> Diagram:
    """Return the diagram of a listing of one phase."""
    boxes: list[list[LayerRow]] = []
    maker: dict[str, int] = {}
    edges: dict[tuple[int, int, str], None] = {}
    for row in listing.rows:
        if row.in_place and len(row.tops) == 1 and len(row.bottoms) == 1 and row.tops[0] in maker:
            boxes[maker[row.tops[0]]].append(row)
            continue
        for bottom in row.bottoms:
            if bottom in maker:
                edges[maker[bottom], len(boxes), bottom] = None
        maker.update(dict.fromkeys(row.tops, len(boxes)))
        boxes.append([row])
    return _near_labels(Diagram(listing.name, tuple(map(_node, boxes)), tuple(Edge(*edge) for edge in edges)))


def node_kind(row: LayerRow) -> str:
    """Return the family of a layer's type, which determines its colour."""
    if not row.known:
        return "unknown"
    if not row.bottoms:
        return "data"
    return "loss" if row.type.endswith("Loss") else _KIND_OF.get(row.type, "loss" if "Loss" in row.type else "other")


def _node(rows: Sequence[LayerRow]) -> Node:
    first = rows[0]
    lines = [" ".join(word for word in (first.type, first.detail) if word)]
    if len(rows) > 1:
        lines += _wrapped([row.type for row in rows[1:]])
    params = sum((row.cost.params or 0) + (row.cost.statistics or 0) for row in rows)
    macs = sum(row.cost.macs or 0 for row in rows)
    facts = [f"{amount(params)} params"] if params else []
    facts += [f"{amount(macs)} MACs"] if macs else []
    if facts:
        lines.append(", ".join(facts))
    if first.top_shapes:
        lines.append(", ".join(dict.fromkeys(shape_label(shape) for shape in first.top_shapes)))
    states = [row.state for row in rows if row.state]
    frozen = bool(states) and all(state == FROZEN for state in states)
    learners = [row.state for row in rows if row.state and row.type != "BatchNorm"]
    if PARTLY in learners or (not frozen and FROZEN in learners):
        lines.insert(-1, "partly frozen")
    return Node(node_kind(first), first.name or f"({first.type})", tuple(lines), frozen, tuple(rows))


def _wrapped(words: Sequence[str], width: int = 30) -> list[str]:
    """Join words by plus signs and wrap them to lines."""
    lines = ["+ " + words[0]]
    for word in words[1:]:
        if len(lines[-1]) + len(word) + 3 <= width:
            lines[-1] += f" + {word}"
        else:
            lines.append(f"+ {word}")
    return lines


def shape_label(shape: Shape) -> str:
    """Format a shape for a box."""
    if shape is UNKNOWN:
        return "unknown shape"
    return " \u00d7 ".join("?" if size is None else str(size) for size in shape) or "scalar"


def _near_labels(graph: Diagram) -> Diagram:
    """Replace long arrows from data to losses by small boxes next to the loss."""
    ranks = [0] * len(graph.nodes)
    for edge in sorted(graph.edges, key=lambda edge: edge.target):
        ranks[edge.target] = max(ranks[edge.target], ranks[edge.source] + 1)
    far = [
        edge
        for edge in graph.edges
        if graph.nodes[edge.source].kind == "data"
        and graph.nodes[edge.target].kind in ("loss", "other", "unknown")
        and ranks[edge.target] - ranks[edge.source] > _FAR
    ]
    if not far:
        return graph
    copies: dict[int, list[Edge]] = {}
    for edge in far:
        copies.setdefault(edge.target, []).append(edge)
    nodes: list[Node] = []
    places: list[int] = []
    edges: list[Edge] = []
    for number, node in enumerate(graph.nodes):
        stubs = []
        for edge in copies.get(number, ()):
            stubs.append(len(nodes))
            nodes.append(Node("data", edge.blob, (f"from {graph.nodes[edge.source].title}",), False))
        places.append(len(nodes))
        edges += [Edge(stub, places[-1], nodes[stub].title) for stub in stubs]
        nodes.append(node)
    kept = (edge for edge in graph.edges if edge not in far)
    edges += [Edge(places[edge.source], places[edge.target], edge.blob) for edge in kept]
    return Diagram(graph.name, tuple(nodes), tuple(edges))
