"""The overview of a long net: branches, blocks and their repetitions are one box each, and nothing is lost."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path

from hypothesis import given, settings, strategies as st

from prototxt.drawing.folded_diagram import FoldedDiagram, fold_diagram
from prototxt.drawing.nodes import Diagram, Edge, Node, diagram_of
from prototxt.drawing.page import to_html
from prototxt.schema.load import load_net
from prototxt.schema.partial_load import load_partial
from prototxt.summary.net_summary import list_net
from prototxt.text.parser import parse


def conv(name: str, bottom: str, size: int = 1) -> str:
    body = f"convolution_param {{ num_output: 2 kernel_size: {size} pad: {size // 2} bias_term: false }}"
    return f'layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}" {body} }}\n'


def residual(name: str, bottom: str) -> str:
    text = conv(f"{name}_a", bottom) + conv(f"{name}_b", f"{name}_a", 3)
    return text + f'layer {{ name: "{name}" type: "Eltwise" bottom: "{bottom}" bottom: "{name}_b" top: "{name}" }}\n'


DATA = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 2 dim: 4 dim: 4 } } }\n'


def diagram(text: str) -> Diagram:
    return diagram_of(list_net(load_net(parse(text)), "TEST"))


def folded(text: str) -> FoldedDiagram:
    found = fold_diagram(diagram(text))
    assert found is not None
    return found


def titles(found: FoldedDiagram) -> list[str]:
    return [node.title for node in found.diagram.nodes]


def chain(blocks: int, prefix: str = "") -> str:
    names = ["data", *(f"{prefix}res{number}" for number in range(blocks))]
    return "".join(residual(name, bottom) for bottom, name in pairwise(names))


def test_repeated_blocks_are_one_box() -> None:
    found = folded(DATA + chain(8) + conv("last", "res7", 3))
    assert titles(found) == ["data", "res0 … res7", "last"]
    assert found.members == ((0,), tuple(range(1, 25)), (25,))
    box = found.diagram.nodes[1]
    assert box.kind == "folded"
    # per block 2 * 2 weights of the first convolution and 2 * 2 * 9 of the second, each at 16 positions
    assert box.lines == (
        "8 blocks of 3 boxes", "Convolution 1x1, 2 outputs", "Convolution 3x3 pad 1, 2 outputs", "Eltwise SUM",
        "320 params, 5.12 k MACs", "1 × 2 × 4 × 4",
    )  # fmt: skip
    assert [(edge.source, edge.target, edge.blob) for edge in found.diagram.edges] == [(0, 1, "data"), (1, 2, "res7")]


def test_another_form_ends_a_repetition() -> None:
    other = (
        conv("wide_a", "res3", 3) + 'layer { name: "wide" type: "Eltwise" bottom: "res3" bottom: "wide_a" top: "wide" }'
    )
    rest = "".join(residual(f"x{n}", "wide" if n == 4 else f"x{n - 1}") for n in range(4, 9))
    found = folded(DATA + chain(4) + other + rest)
    assert titles(found) == ["data", "res0 … res3", "wide", "x4 … x8"]
    assert found.diagram.nodes[2].lines[:2] == ("2 boxes", "Convolution 3x3 pad 1, 2 outputs")


def test_pairs_of_single_boxes_repeat() -> None:
    names = ["data", *(f"{kind}{n}" for n in range(13) for kind in ("wide", "thin"))]
    text = "".join(conv(name, bottom, 3 if name[0] == "w" else 1) for bottom, name in pairwise(names))
    found = folded(DATA + text)
    assert titles(found) == ["data", "thin0 … thin12"]
    assert found.diagram.nodes[1].lines[0] == "13 blocks of 2 boxes"


def test_branches_of_one_prefix_are_one_box() -> None:
    text = DATA + chain(4, "odd/") + chain(5, "even/")
    text += 'layer { name: "both" type: "Concat" bottom: "odd/res3" bottom: "even/res4" top: "both" }\n' + conv(
        "fc", "both"
    )
    found = folded(text)
    assert titles(found) == ["data", "odd", "even", "both", "fc"]
    assert [len(members) for members in found.members] == [1, 12, 15, 1, 1]
    assert sorted((edge.source, edge.target) for edge in found.diagram.edges) == [
        (0, 1),
        (0, 2),
        (1, 3),
        (2, 3),
        (3, 4),
    ]


def test_a_branch_to_which_an_arrow_returns_stays_apart() -> None:
    text = (
        DATA + chain(8, "odd/") + conv("between", "odd/res7") + conv("odd/late", "between") + conv("even/x", "odd/late")
    )
    found = folded(text + conv("even/y", "even/x", 3))
    assert titles(found) == ["data", "odd/res0 … odd/res7", "between", "odd/late", "even"]


def test_short_nets_and_those_without_blocks_have_none() -> None:
    assert fold_diagram(diagram(DATA + chain(7))) is None
    nodes = tuple(Node("other", f"n{number}", (f"form {number}",), False) for number in range(40))
    assert fold_diagram(Diagram("g", nodes, tuple(Edge(n, n + 1, "e") for n in range(39)))) is None


def test_a_large_block_stays_apart() -> None:
    """Of 26 boxes, around which one arrow leads: as one box they would hide the net."""
    nodes = tuple(Node("other", f"n{number}", (f"form {number}",), False) for number in range(26))
    edges = (*(Edge(n, n + 1, "e") for n in range(25)), Edge(0, 25, "skip"))
    assert fold_diagram(Diagram("g", nodes, edges)) is None


@st.composite
def graphs(draw: st.DrawFn) -> Diagram:
    count = draw(st.integers(25, 40))
    form = st.sampled_from("abc")
    nodes = tuple(
        Node("other", f"{draw(st.sampled_from(['', 'p/', 'q/']))}{n}", (draw(form),), False) for n in range(count)
    )
    far = draw(st.sets(st.tuples(st.integers(0, count - 1), st.integers(1, 6)), max_size=12))
    edges = {(n, n + 1) for n in range(count - 1)} | {(n, n + by) for n, by in far if n + by < count}
    return Diagram("g", nodes, tuple(Edge(a, b, "e") for a, b in sorted(edges)))


@given(graphs())
@settings(max_examples=80)
def test_every_box_and_arrow_is_in_the_overview(drawn: Diagram) -> None:
    found = fold_diagram(drawn)
    if found is None:
        return
    assert sorted(number for members in found.members for number in members) == list(range(len(drawn.nodes)))
    home = {number: index for index, members in enumerate(found.members) for number in members}
    between = {(home[edge.source], home[edge.target]) for edge in drawn.edges}
    assert {(edge.source, edge.target) for edge in found.diagram.edges} == {(a, b) for a, b in between if a != b}
    assert all(edge.source < edge.target for edge in found.diagram.edges)


def test_the_page_has_both_drawings() -> None:
    page = to_html(diagram(DATA + chain(8) + conv("last", "res7", 3)))
    assert page.count('<g class="world"') == 2
    whole, overview = json.loads(re.search(r'type="application/json">(.*?)</script>', page, re.DOTALL)[1])  # type: ignore[index]
    assert [len(whole), len(overview)] == [26, 3]
    assert overview[1]["boxes"] == list(range(1, 25))
    assert "res5_b" in overview[1]["search"]
    assert overview[1]["rows"][0]["facts"][0] == ["holds", "8 blocks of 3 boxes, 24 layers"]
    assert 'data-do="fold"' in page
    assert 'data-do="fold"' not in to_html(diagram(DATA + chain(2)))


def test_resnet_152(reference: Path) -> None:
    path = reference / "corpus" / "deep-residual-networks__ResNet-152-deploy.prototxt"
    found = fold_diagram(diagram_of(list_net(load_partial(path).net, "TEST")))
    assert found is not None
    assert titles(found)[3:11] == [
        "res2a", "res2b … res2c", "res3a", "res3b1 … res3b7", "res4a", "res4b1 … res4b35", "res5a", "res5b … res5c"
    ]  # fmt: skip
    assert len(found.members) == 14
