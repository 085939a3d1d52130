"""Pictures of nets: every box and arrow once, nothing overlaps, arrows go down, and the files are well-formed."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import subprocess
import warnings
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings, strategies as st

from prototxt.drawing.dot import to_dot
from prototxt.drawing.layout import DiagramLayout, lay_out
from prototxt.drawing.nodes import Diagram, Edge, Node, diagram_of
from prototxt.drawing.page import to_html
from prototxt.drawing.rank_nodes import rank_boxes
from prototxt.drawing.svg import to_svg
from prototxt.schema.load import load_net
from prototxt.schema.partial_load import load_partial
from prototxt.summary.net_summary import list_net
from prototxt.text.parser import parse

NET = """name: "a <net> & \\"more\\""
layer { name: "data" type: "Input" top: "data" top: "label"
  input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } shape { dim: 1 } } }
layer { name: "p/c" type: "Convolution" bottom: "data" top: "p/c" param { lr_mult: 0 } param { lr_mult: 0 }
  convolution_param { num_output: 4 kernel_size: 3 pad: 1 } }
layer { name: "p/bn" type: "BatchNorm" bottom: "p/c" top: "p/c" batch_norm_param { use_global_stats: true } }
layer { name: "p/relu" type: "ReLU" bottom: "p/c" top: "p/c" }
layer { name: "p/pool" type: "Pooling" bottom: "p/c" top: "p/pool" pooling_param { kernel_size: 1 } }
layer { name: "sum" type: "Eltwise" bottom: "p/c" bottom: "p/pool" top: "sum" }
layer { name: "odd" type: "Mystery" bottom: "sum" top: "odd" }
layer { name: "ip" type: "InnerProduct" bottom: "sum" top: "ip" inner_product_param { num_output: 2 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" }
"""


def graph(text: str = NET) -> Diagram:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return diagram_of(list_net(load_net(parse(text), strict=False), "TEST"))


def check(layout: DiagramLayout, drawn: Diagram) -> None:
    """No two boxes overlap, every arrow goes down, and all lies on the paper."""
    for one, other in combinations(layout.boxes, 2):
        apart_x = one.x + one.width <= other.x or other.x + other.width <= one.x
        apart_y = one.y + one.height <= other.y or other.y + other.height <= one.y
        assert apart_x or apart_y
    for edge in drawn.edges:
        source, target = layout.boxes[edge.source], layout.boxes[edge.target]
        assert source.y + source.height < target.y
    for box in layout.boxes:
        assert box.x >= -0.1
        assert box.x + box.width <= layout.width + 0.1
        assert box.y + box.height <= layout.height


def test_in_place_layers_are_folded() -> None:
    found = graph()
    assert [node.title for node in found.nodes] == ["data", "p/c", "p/pool", "sum", "odd", "ip", "label", "loss"]
    conv = found.nodes[1]
    assert conv.lines[:2] == ("Convolution 3x3 pad 1, 4 outputs", "+ BatchNorm + ReLU")
    assert conv.frozen
    assert not found.nodes[5].frozen
    assert [node.kind for node in found.nodes] == [
        *("data", "convolution", "pooling", "joining", "unknown", "dense", "data", "loss"),
    ]
    edges = {(found.nodes[edge.source].title, found.nodes[edge.target].title, edge.blob) for edge in found.edges}
    assert ("p/c", "sum", "p/c") in edges
    assert ("label", "loss", "label") in edges, "a label from far away is shown beside its loss"
    assert ("data", "loss", "label") not in edges


def test_svg_is_well_formed_and_whole() -> None:
    drawn = graph()
    text = to_svg(drawn, "a note & more")
    root = ElementTree.fromstring(text)
    space = "{http://www.w3.org/2000/svg}"
    boxes = [part for part in root.iter(f"{space}g") if "data-n" in part.attrib]
    arrows = [part for part in root.iter(f"{space}path") if part.get("class") == "edge"]
    assert (len(boxes), len(arrows)) == (len(drawn.nodes), len(drawn.edges))
    assert "http" not in text.replace("http://www.w3.org/2000/svg", ""), "nothing is fetched"
    assert "snow" not in text
    check(lay_out(drawn), drawn)


def test_frames_are_drawn_where_no_stranger_stands() -> None:
    layout = lay_out(graph())
    assert [name for name, _ in layout.frames] == ["p"]


def test_page_is_one_file() -> None:
    page = to_html(graph('name: "</script><b>" layer { name: "</script>" type: "Input" top: "x" }'), "n", ["1 < 2"])
    assert page.count("</script>") == 2
    assert not re.search(r"(src|href)\s*=", page)
    assert "<summary>1 not known</summary><div>1 &lt; 2</div>" in page
    HTMLParser().feed(page)


def test_page_script_parses(tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("no JavaScript engine to check the script with")
    script = Path(to_html.__code__.co_filename).with_name("page.js")
    subprocess.run([node, "--check", script], check=True)


def test_page_runs_its_own_script_only() -> None:
    page = to_html(graph())
    script = page.rpartition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert f'<meta http-equiv="Content-Security-Policy" content="{policy}">' in page


def test_dot() -> None:
    text = to_dot(graph())
    assert text.startswith('digraph "a <net> & \\"more\\"" {')
    assert text.count(" -> ") == len(graph().edges)
    assert 'n1 [label="p/c\\nConvolution' in text


def test_empty_and_damaged_nets() -> None:
    for text in ("", 'layer { name: "\\377" type: "Input" top: "x" }', 'layer { name: "\\001" }'):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            drawn = diagram_of(list_net(load_partial(parse(text)).net, "TEST"))
        ElementTree.fromstring(to_svg(drawn))
        to_html(drawn).encode()
        to_dot(drawn).encode()


@st.composite
def graphs(draw: st.DrawFn) -> Diagram:
    count = draw(st.integers(1, 14))
    nodes = tuple(Node("other", "x" * draw(st.integers(1, 30)), ("line",), False) for _ in range(count))
    pairs = draw(st.sets(st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)), max_size=30))
    return Diagram("g", nodes, tuple(Edge(a, b, "e") for a, b in sorted(pairs) if a < b))


@given(graphs())
@settings(max_examples=150)
def test_any_graph_is_laid_out(drawn: Diagram) -> None:
    layout = lay_out(drawn)
    check(layout, drawn)
    order = rank_boxes(len(drawn.nodes), [(edge.source, edge.target) for edge in drawn.edges])
    assert sorted(vertex for row in order.rows for vertex in row) == list(range(sum(map(len, order.rows))))


def test_public_nets(reference: Path) -> None:
    for path in sorted((reference / "corpus").glob("*.p*t*"))[::2]:
        drawn = diagram_of(list_net(load_partial(path).net, "TEST"))
        layout = lay_out(drawn)
        if len(drawn.nodes) < 150:
            check(layout, drawn)
        ElementTree.fromstring(to_svg(drawn))
