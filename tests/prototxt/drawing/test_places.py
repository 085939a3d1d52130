"""Where boxes lie and what stands in them: symmetric nets are drawn symmetrically, and each line says what it should."""

# ruff: noqa: E501 - tables of texts

from __future__ import annotations

import json
import re
import warnings
from itertools import pairwise

import pytest

from prototxt.drawing.layout import DiagramLayout, lay_out, text_width
from prototxt.drawing.nodes import Diagram, Edge, Node, diagram_of, node_kind, shape_label
from prototxt.drawing.page import to_html
from prototxt.drawing.rank_nodes import rank_boxes
from prototxt.drawing.svg import to_svg
from prototxt.schema.load import load_net
from prototxt.shapes import UNKNOWN
from prototxt.summary.net_summary import list_net
from prototxt.text.parser import parse


def laid(count: int, edges: list[tuple[int, int]], names: str = "") -> DiagramLayout:
    nodes = tuple(Node("other", names[index : index + 1] or "x", ("line",), False) for index in range(count))
    return lay_out(Diagram("g", nodes, tuple(Edge(a, b, "e") for a, b in edges)))


def centres(layout: DiagramLayout) -> list[float]:
    return [box.x + box.width / 2 for box in layout.boxes]


@pytest.mark.parametrize("children", [2, 3, 4, 5])
def test_a_box_is_centred_over_those_that_read_it_and_under_those_it_reads(children: int) -> None:
    last = children + 1
    edges = [(0, child) for child in range(1, last)] + [(child, last) for child in range(1, last)]
    xs = centres(laid(children + 2, edges))
    middle = (min(xs) + max(xs)) / 2
    assert xs[0] == pytest.approx(middle)
    assert xs[last] == pytest.approx(middle)
    row = xs[1:last]
    assert [x - middle for x in row] == pytest.approx([middle - x for x in reversed(row)])


def test_two_layers_of_a_tree() -> None:
    xs = centres(laid(7, [(0, 1), (0, 2), (1, 3), (1, 4), (2, 5), (2, 6)]))
    assert xs[1] == pytest.approx((xs[3] + xs[4]) / 2)
    assert xs[2] == pytest.approx((xs[5] + xs[6]) / 2)
    assert xs[0] == pytest.approx((xs[1] + xs[2]) / 2)
    steps = {round(b - a, 6) for a, b in pairwise(sorted(xs[3:]))}
    assert len(steps) == 1, "neighbours of one kind are equally far apart"


def test_a_chain_is_straight_and_goes_down() -> None:
    layout = laid(5, [(0, 1), (1, 2), (2, 3), (3, 4)])
    assert len({round(x, 6) for x in centres(layout)}) == 1
    tops = [box.y for box in layout.boxes]
    assert tops == sorted(tops)
    assert len({round(b - a, 6) for a, b in pairwise(tops)}) == 1
    assert layout.width == pytest.approx(layout.boxes[0].width)
    assert layout.boxes[0].x == pytest.approx(0)
    assert layout.boxes[0].y == pytest.approx(0)


def test_a_long_arrow_passes_beside_the_boxes_between() -> None:
    layout = laid(4, [(0, 1), (1, 2), (2, 3), (0, 3)])
    xs = centres(layout)
    assert xs[1] == pytest.approx(xs[2])
    assert xs[0] == pytest.approx(xs[3])
    assert layout.width > layout.boxes[0].width


def test_rows_follow_the_longest_way() -> None:
    order = rank_boxes(5, [(0, 1), (1, 2), (0, 2), (2, 4), (3, 4)])
    row_of = {vertex: number for number, row in enumerate(order.rows) for vertex in row}
    assert [row_of[vertex] for vertex in (0, 1, 2, 4)] == [0, 1, 2, 3]
    assert row_of[3] < row_of[4]
    assert order.real == 5


def test_crossings_that_need_not_be_are_none() -> None:
    layout = laid(6, [(0, 3), (1, 2), (2, 5), (3, 4)])
    xs = centres(layout)
    assert (xs[0] < xs[1]) == (xs[3] < xs[2]) == (xs[4] < xs[5])


def test_boxes_are_as_wide_as_their_text_and_at_least_64() -> None:
    narrow = laid(1, []).boxes[0]
    assert narrow.width == 64
    wide = lay_out(Diagram("g", (Node("other", "t" * 40, ("line",), False),), ())).boxes[0]
    assert wide.width > text_width("t" * 40, 12)
    frozen = lay_out(Diagram("g", (Node("other", "t" * 40, ("line",), True),), ())).boxes[0]
    assert frozen.width == pytest.approx(wide.width + 20)
    taller = lay_out(Diagram("g", (Node("other", "t", ("line",) * 3, False),), ())).boxes[0]
    assert taller.height > narrow.height
    assert [text_width(text, 10) for text in ("a", "A", "il")] == pytest.approx([6.2, 7.0, 7.6])


def diagram(text: str) -> Diagram:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return diagram_of(list_net(load_net(parse(text), strict=False), "TEST"))


INPUT = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 4 } } }\n'


def ip(rates: str, after: str = "") -> str:
    params = " ".join(f"param {{ lr_mult: {rate} }}" for rate in rates)
    return (
        INPUT
        + f'layer {{ name: "i" type: "InnerProduct" bottom: "x" top: "i" {params} inner_product_param {{ num_output: 2 }} }}\n'
        + after
    )


SCALE = 'layer { name: "s" type: "Scale" bottom: "i" top: "i" %s }\n'
NORM = 'layer { name: "n" type: "BatchNorm" bottom: "i" top: "i" %s }\n'


@pytest.mark.parametrize(("text", "frozen", "partly"), [
    (ip(""), False, False), (ip("00"), True, False), (ip("01"), False, True), (ip("0"), False, True),
    (ip("00", SCALE % ""), False, True), (ip("00", SCALE % "param { lr_mult: 0 }"), True, False), (ip("", SCALE % "param { lr_mult: 0 }"), False, True),
    (ip("00", NORM % "batch_norm_param { use_global_stats: true }"), True, False), (ip("00", NORM % ""), False, True), (ip("", NORM % ""), False, False),
])  # fmt: skip
def test_frozen_boxes_and_partly_frozen_ones(text: str, frozen: bool, partly: bool) -> None:
    node = diagram(text).nodes[1]
    assert (node.frozen, "partly frozen" in node.lines) == (frozen, partly)
    assert node.lines[-1] == "1 \u00d7 2"
    drawing = to_svg(diagram(text))
    assert (">frozen</text>" in drawing) == frozen
    assert (">frozen</span>" in re.sub(r"</svg>frozen", "</svg>>frozen", to_html(diagram(text), "", []))) == frozen


def test_the_lines_of_a_box() -> None:
    node = diagram(ip("", NORM % "" + 'layer { name: "r" type: "ReLU" bottom: "i" top: "i" }')).nodes[1]
    assert node.lines == ("InnerProduct 2 outputs", "+ BatchNorm + ReLU", "15 params, 8 MACs", "1 \u00d7 2")
    long = ip("", "".join(f'layer {{ name: "r{i}" type: "Dropout" bottom: "i" top: "i" }}\n' for i in range(4)))
    assert diagram(long).nodes[1].lines[1:3] == ("+ Dropout + Dropout + Dropout", "+ Dropout")
    assert (shape_label(()), shape_label((1, None)), shape_label(UNKNOWN)) == ("scalar", "1 \u00d7 ?", "unknown shape")


def test_labels_are_drawn_beside_a_loss_only_if_it_is_far() -> None:
    data = INPUT.replace('top: "x"', 'top: "x" top: "y"').replace("dim: 4 }", "dim: 4 } shape { dim: 1 }")
    for count in range(8):
        body = "".join(
            f'layer {{ name: "p{i}" type: "Power" bottom: "{f"p{i - 1}" if i else "x"}" top: "p{i}" }}\n'
            for i in range(count)
        )
        loss = (
            f'layer {{ name: "l" type: "SoftmaxWithLoss" bottom: "{f"p{count - 1}" if count else "x"}" bottom: "y" }}'
        )
        found = diagram(data + body + loss)
        stubs = [node for node in found.nodes if node.lines == ("from x",)]
        assert len(stubs) == (count >= FAR), count
        assert len(found.edges) == count + 2


FAR = 3  # layers between data and loss from which on the label's arrow is a box


@pytest.mark.parametrize(("kind", "family"), [
    ("Convolution", "convolution"), ("InnerProduct", "dense"), ("Pooling", "pooling"), ("Concat", "joining"), ("HingeLoss", "loss"), ("SmoothL1LossOHEM", "loss"),
])  # fmt: skip
def test_families(kind: str, family: str) -> None:
    (_, row) = list_net(
        load_net(parse(INPUT + f'layer {{ name: "n" type: "{kind}" bottom: "x" top: "n" }}')), "TEST"
    ).rows
    assert node_kind(row) == family


def test_the_facts_of_a_layer_on_the_page() -> None:
    text = ip("", NORM % "").replace('type: "InnerProduct"', 'type: "InnerProduct" param { name: "w" }')
    page = to_html(diagram(text), "", [])
    (data,) = re.findall(r'<script id="layers" type="application/json">(.*?)</script>', page, re.DOTALL)
    (layers,) = json.loads(data)  # so short a net has no overview
    entry = layers[1]
    assert entry["title"] == "i"
    assert [row["name"] for row in entry["rows"]] == ["i", "n"]
    facts = dict(map(tuple, entry["rows"][0]["facts"]))
    assert facts == {
        "type": "InnerProduct", "does": "2 outputs", "bottom": "x  1x4", "top": "i  1x2", "blob 0": "2x4", "blob 1": "2", "parameters": "10",
        "MACs": "8", "memory": "8 B", "training": "learns", "shared": "w",
    }  # fmt: skip
    assert dict(map(tuple, entry["rows"][1]["facts"]))["parameters"] == "5"
    assert "innerproduct" in entry["search"]
    assert "frozen" not in entry["search"]
