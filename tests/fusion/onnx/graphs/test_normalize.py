"""A graph as a whole: what folds, what opens, what is refused by name, and the weights and layers that it has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from graphs import draw, model, node
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from fusion.errors import OnnxError
from fusion.onnx.graphs import normalize_graph
from fusion.onnx.graphs.cast_to_float32 import to_float32
from fusion.onnx.graphs.cut import classifier_input, cut, find_value
from fusion.onnx.graphs.graph import attributes, to_model
from fusion.onnx.graphs.initializers import graph_weights, is_weight, statistics
from fusion.onnx.graphs.layer_graph import layer_graph
from fusion.onnx.graphs.read import from_model, read_graph
from fusion.onnx.graphs.support import _differs, check_support, support
from fusion.onnx.to_torch import OnnxNet
from prototxt.schema.load import load_net
from prototxt.text.parser import parse


def plain(nodes: list[onnx.NodeProto], constants: dict[str, Any] | None = None, **options: Any) -> Any:
    return normalize_graph(from_model(model(nodes, constants, **options)))


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        ({"value": helper.make_tensor("t", TensorProto.INT32, [2], [1, 2])}, np.int32),
        ({"value_float": 1.5}, np.float32),
        ({"value_floats": [1.5, 2.5]}, np.float32),
        ({"value_int": 3}, np.int64),
        ({"value_ints": [3, 4]}, np.int64),
        ({"value_strings": ["a"]}, np.str_),
    ],
)
def test_constants_of_every_kind(value: dict[str, Any], dtype: type[Any]) -> None:
    graph = plain([node("Constant", "", "c", **value), node("Relu", "x", "y")], outputs=("c", "y"))
    assert np.issubdtype(graph.constants["c"].dtype, dtype)
    expected = next(iter(value.values()))
    assert graph.constants["c"].tolist() == ([1, 2] if hasattr(expected, "dims") else expected)


def test_names_that_are_replaced_are_remembered() -> None:
    graph = plain([node("Identity", "x", "a"), node("Relu", "a", "b"), node("Identity", "b", "y")])
    assert (graph.aliases, graph.outputs) == ({"a": "x", "y": "b"}, ("b",))
    assert [find_value(graph, name) for name in ("a", "y", "b", "/b", "z")] == ["x", "b", "b", None, None]
    slashed = plain([node("Relu", "x", "/net/a"), node("Tanh", "/net/a", "y")])
    assert [find_value(slashed, name) for name in ("net/a", "/net/a", "y")] == ["/net/a", "/net/a", "y"]


@pytest.mark.parametrize(
    ("shape", "batch", "note"),
    [
        (("N", 3, 8, 8), None, None),
        ((4, 3, 8, 8), None, "the batch, 4 in the file, is open"),
        ((1, 3, 8, 8), None, "the batch, 1 in the file, is open"),
    ],
)
def test_the_batch(shape: tuple[Any, ...], batch: int | None, note: str | None) -> None:
    graph = plain([node("Relu", "x", "y")], shape=shape)
    assert (graph.batch, graph.inputs, graph.shapes["y"]) == (batch, {"x": (None, 3, 8, 8)}, (None, 3, 8, 8))
    assert list(graph.notes) == ([note] if note else [])


def test_a_batch_that_an_output_does_not_have_stays() -> None:
    graph = plain([node("ReduceMean", "x a", "y", keepdims=0)], {"a": np.array([0])}, shape=(4, 3))
    assert (graph.batch, graph.shapes["y"]) == (4, (3,))
    assert graph.notes[-1] == "the batch stays 4, because of the output 'y': longer ones run in pieces"
    two = model([node("Add", "x z", "y")], shape=(4, 3))
    two.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 3]))
    fixed = normalize_graph(from_model(two))
    assert (fixed.batch, fixed.notes[-1]) == (4, "the batch stays 4, because its inputs differ in their first axis")


@pytest.mark.parametrize(
    ("given", "shape"),
    [((7, 3, 8, 9), (None, 3, 8, 9)), ((7, None, 8, 9), (None, 3, 8, 9)), ((7, 3, None, 9), (None, 3, None, 9)),
     ((7, 4, 8, 9), None), ((7, 3, 8), None), ((7, 3, 8, 9, 1), None)],
)  # fmt: skip
def test_sizes_that_a_file_leaves_open(given: Any, shape: Any) -> None:
    open_sizes = from_model(model([node("Relu", "x", "y")], shape=("N", 3, "h", "w")))
    if shape is not None:
        filled = normalize_graph(open_sizes, {"x": given})
        assert (filled.inputs, filled.notes, filled.batch) == ({"x": shape}, (), None)
    else:
        shown = "x".join(map(str, given[1:]))
        with pytest.raises(OnnxError, match=rf"its input 'x' takes 3x\?x\? per sample, not {shown}"):
            normalize_graph(open_sizes, {"x": given})


def test_folding_stops_where_a_value_is_random_or_cannot_be_computed() -> None:
    graph = plain([node("RandomNormalLike", "c", "r"), node("Add", "x r", "y")], {"c": np.ones(8)})
    assert [item.op_type for item in graph.nodes] == ["RandomNormalLike", "Add"]
    wrong = plain([node("Add", "a b", "c"), node("Add", "x c", "y")], {"a": np.ones(2), "b": np.ones(3)})
    assert wrong.unfit == {"c", "y"}


def test_outputs_that_are_read_and_not_computed() -> None:
    names = "x a b m v"
    constants = {name: np.ones(3) for name in "abmv"}
    graph = plain(
        [node("BatchNormalization", names, "y mean", training_mode=1)], constants, outputs=("y", "mean"), opset=13
    )
    assert graph.partial == {"y"}


def test_the_reasons_and_their_table() -> None:
    nodes = [node("Relu", "x", "a"), node("Relu", "a", "b"), node("LRN", "b", "c", size=2),
             node("Own", "c", "d", domain="me"), node("Compress", "d k", "y")]  # fmt: skip
    file = model(nodes, {"k": np.array([1, 0])})
    file.opset_import.append(helper.make_opsetid("me", 1))
    graph = normalize_graph(from_model(file))
    assert support(graph).table().splitlines() == [
        "operator  nodes  can be run",
        "--------  -----  -------------------------------------------------",
        "Compress      1  an input of type int64; no converter (y)",
        "LRN           1  an even size, which ONNX Runtime does not run (c)",
        "me::Own       1  the domain 'me' is not ONNX's own (d)",
        "Relu          2  yes",
    ]
    with pytest.raises(
        OnnxError, match=r"(?s)3 kinds of its operators cannot be run:\n    LRN \(1x, first 'c'\): an even size"
    ):
        check_support(graph)
    check_support(cut(graph, ["b"]))
    with pytest.raises(OnnxError, match=r"one of its operators cannot be run: LRN \(1x"):
        check_support(cut(graph, ["c"]))


def test_parts_of_a_graph() -> None:
    file = model([node("Add", "x z", "a"), node("Add", "a k", "b"), node("Relu", "b", "y")], {"k": np.ones(8)})
    file.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", 3, 8, 8]))
    graph = normalize_graph(from_model(file))
    part = cut(graph, ["b"], ["a"])
    assert ([item.op_type for item in part.nodes], part.inputs, part.outputs) == (
        ["Add"],
        {"a": (None, 3, 8, 8)},
        ("b",),
    )
    assert list(part.constants) == ["k"]
    assert cut(graph, ["y"], ["b"]).constants == {}
    assert list(cut(graph).inputs) == ["x", "z"]
    with pytest.raises(OnnxError, match="'y' also depends on the input 'z', not on x alone"):
        cut(graph, [], ["x"])
    with pytest.raises(OnnxError, match=r"there is no value 'q'\n  hint: values are: y \(3x8x8\), b \(3x8x8\), a"):
        cut(graph, ["q"])


@pytest.mark.parametrize(
    ("settings", "ends", "says"),
    [
        ('file: "net.onnx"', 'bottom: "x" top: "y"', None),
        ('file: "net.onnx"', 'bottom: "x" bottom: "x" top: "y"', "layer 'l' has 2 bottoms, its file 1 inputs: x"),
        ('file: "net.onnx"', 'bottom: "x"', "layer 'l' has 0 tops, its file 1 outputs: y"),
        ('file: "net.onnx" output: "a" output: "y"', 'bottom: "x" top: "a" top: "y"', None),
        ('file: "none.onnx"', 'bottom: "x" top: "y"', "layer 'l': No such file or directory"),
        ("", 'bottom: "x" top: "y"', "layer 'l': onnx_param.file is missing"),
    ],
)
def test_the_graph_of_a_layer(
    settings: str, ends: str, says: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(model([node("Relu", "x", "a"), node("Tanh", "a", "y")], shape=("N", 3, "h", 8)), "net.onnx")
    layer = load_net(parse(f'layer {{ name: "l" type: "Onnx" {ends} onnx_param {{ {settings} }} }}')).layer[0]
    if says is None:
        assert layer_graph(layer, [(2, 3, 5, 8)]).inputs == {"x": (None, 3, 5, 8)}
        assert layer_graph(layer).inputs == {"x": (None, 3, None, 8)}
    else:
        with pytest.raises(OnnxError, match=says):
            layer_graph(layer)


def test_which_constants_are_weights() -> None:
    one, two = np.ones(1, np.float32), np.ones(2, np.float32)
    assert [is_weight(op, one) for op in ("Conv", "Gemm", "Mul", "Clip")] == [True, True, False, False]
    assert [is_weight(op, two) for op in ("Mul", "Clip", "Pow")] == [True, False, False]
    names = {name: np.ones(3) for name in "abmv"}
    graph = plain([node("BatchNormalization", "x a b m v", "n"), node("Mul", "n s", "k"), node("Add", "k a3", "y")],
                  {**names, "s": np.array([2.0]), "a3": np.ones((3, 1, 1))})  # fmt: skip
    assert list(graph_weights(graph)) == ["a", "b", "m", "v", "a3"]
    assert statistics(graph) == {"m", "v"}


def test_other_precisions_are_found_wherever_they_are() -> None:
    half = helper.make_tensor("t", TensorProto.FLOAT16, [1], np.ones(1, np.float16))
    cases = [
        (model([node("Relu", "x", "y")]), []),
        (
            model([node("Cast", "x", "h", to=TensorProto.DOUBLE), node("Cast", "h", "y", to=TensorProto.FLOAT)]),
            ["float64"],
        ),
        (model([node("Constant", "", "c", value=half), node("Relu", "x", "y")]), ["float16"]),
    ]
    typed = model([node("Relu", "x", "y")])
    typed.graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    cases.append((typed, ["float64"]))
    both = model([node("Constant", "", "c", value=half), node("Cast", "x", "y", to=TensorProto.DOUBLE)])
    cases.append((both, ["float16", "float64"]))
    for file, kinds in cases:
        notes: list[str] = []
        found = to_float32(file, notes)
        assert notes == ([f"its {' and '.join(kinds)} values are computed in float32"] if kinds else [])
        assert (found is file) is (not kinds)
        assert to_float32(found) is found or "float16" in kinds


def test_a_cast_to_half_rounds_and_goes_back() -> None:
    found = to_float32(model([node("Cast", "x", "h", to=TensorProto.FLOAT16), node("Relu", "h", "y")]))
    assert [(item.op_type, list(item.input), list(item.output)) for item in found.graph.node] == [
        ("Cast", ["x"], ["h:half"]), ("Cast", ["h:half"], ["h"]), ("Relu", ["h"], ["y"]),
    ]  # fmt: skip
    assert [item.attribute[0].i for item in found.graph.node[:2]] == [TensorProto.FLOAT16, TensorProto.FLOAT]


def test_nodes_keep_their_order_as_far_as_they_can() -> None:
    nodes = [node("Add", "b a", "y"), node("Relu", "x", "a"), node("Tanh", "a", "b"), node("Neg", "x", "z")]
    graph = from_model(model(nodes, outputs=("y", "z")))
    assert [item.op_type for item in graph.nodes] == ["Relu", "Tanh", "Add", "Neg"]
    apart = [node("Add", "b a", "y"), node("Relu", "x", "a"), node("Tanh", "x", "b")]
    assert [item.op_type for item in from_model(model(apart)).nodes] == ["Relu", "Tanh", "Add"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "the file is empty"),
        (b"\x89PNG\r\n\x1a\n", "not an ONNX file"),
        (b"\x08\x08\x3a\xff", "is no readable ONNX file"),
    ],
)
def test_files_that_are_none(content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(OnnxError, match=says):
        read_graph(tmp_path / "a.onnx")


@pytest.mark.parametrize("way", ["w v", "v v", "v w", "v u", "u u"])
def test_weights_that_are_shared_by_another_name_are_multiplied_once(way: str) -> None:
    first, second = way.split()
    nodes = [node("Identity", "w", "v"), node("Identity", "v", "u"),
             node("Gemm", f"x {first}", "a", alpha=2.0), node("Gemm", f"a {second}", "y", alpha=2.0)]  # fmt: skip
    graph = plain(nodes, {"w": np.array([[1.0, 2.0], [3.0, 4.0]])}, shape=("N", 2))
    assert [graph.constants[item.input[1]].tolist() for item in graph.nodes] == [[[2, 6], [4, 8]]] * 2


def test_weights_that_are_read_once_keep_their_name() -> None:
    for name in ("w", "v"):
        nodes = [node("Identity", "w", "v")] * (name == "v") + [node("Gemm", f"x {name}", "y", alpha=2.0)]
        graph = plain(nodes, {"w": np.ones((2, 2))}, shape=("N", 2))
        assert list(graph.nodes[0].input) == ["x", "w"]


def test_values_of_unknown_shape_and_type() -> None:
    graph = plain([node("Own", "x", "y", domain="me")])
    result = to_model(graph).graph.output[0].type.tensor_type
    assert (result.elem_type, result.HasField("shape")) == (TensorProto.FLOAT, False)
    untyped = replace(from_model(model([node("Relu", "x", "y")])), types={})
    assert normalize_graph(untyped).types["y"] == TensorProto.FLOAT


def test_operators_that_onnx_defines_by_others_among_those_it_does_not() -> None:
    graph = from_model(model([node("Relu", "x", "a"), node("Shrink", "a", "y", lambd=0.5)]))
    assert {"Shrink", "Relu"} & {item.op_type for item in graph.nodes} == {"Relu"}


@pytest.mark.parametrize(("rows", "unfit"), [(1, set()), (2, set()), (3, set()), (5, {"y"})])
def test_a_node_is_unfit_only_if_it_fits_no_batch(rows: int, unfit: set[str]) -> None:
    graph = plain([node("Reshape", "x s", "y")], {"s": np.array([rows, -1])}, shape=("N", 7))
    assert graph.unfit == unfit


@pytest.mark.parametrize(
    ("op", "opset", "differs"),
    [("Relu", 11, False), ("Relu", 6, True), ("Gelu", 11, True), ("Resize", 11, True),
     ("Softmax", 11, True), ("Dropout", 10, True), ("MaxPool", 8, False), ("Clip", 6, True), ("Clip", 11, False)],
)  # fmt: skip
def test_what_may_mean_something_else_in_an_old_opset(op: str, opset: int, differs: bool) -> None:
    assert _differs(op, opset) is differs


@pytest.mark.parametrize(
    ("op", "found"), [("Relu", "f"), ("Flatten", "f"), ("Exp", None), ("Sigmoid", "f"), ("Neg", None)]
)
def test_what_may_follow_the_classifier(op: str, found: str | None) -> None:
    nodes = [node("Relu", "x", "f"), node("Gemm", "f k", "g"), node(op, "g", "y")]
    assert classifier_input(plain(nodes, {"k": np.ones((4, 5))}, shape=("N", 4))) == found


def test_constants_of_unknown_size_are_not_folded() -> None:
    graph = plain([node("NonZero", "c", "n"), node("Relu", "x", "y")], {"c": np.array([0.0, 1.0])}, outputs=("n", "y"))
    assert ("n" in graph.constants, [item.op_type for item in graph.nodes]) == (False, ["NonZero", "Relu"])


def inputs(file: onnx.ModelProto, **shapes: Any) -> Any:
    """The graph of a file with more inputs."""
    for name, dims in shapes.items():
        file.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, dims))
    return normalize_graph(from_model(file))


def test_the_batch_of_several_inputs() -> None:
    add = [node("Add", "x z", "y")]
    graph = inputs(model(add, shape=(4, 3)), z=["N", 3])
    assert (graph.batch, graph.notes) == (None, ("the batch, 4 in the file, is open",))
    assert graph.inputs == {"x": (None, 3), "z": (None, 3)}
    graph = inputs(model(add, shape=(4, 3)), z=[])
    assert (graph.batch, graph.inputs, graph.shapes["z"]) == (None, {"x": (None, 3), "z": ()}, ())
    graph = inputs(model([node("Sum", "x z w", "y")], shape=("N", 3)), z=[4, 3], w=[1, 3])
    assert (graph.batch, graph.inputs) == (4, {"x": (None, 3), "z": (4, 3), "w": (1, 3)})
    assert graph.shapes["y"] == (None, 3)


def test_constants_of_a_fixed_batch_keep_their_first_axis() -> None:
    nodes = [node("ReduceMean", "x a", "m", keepdims=0), node("Add", "x k", "s"), node("Add", "s m", "y")]
    graph = plain([*nodes, node("Identity", "m", "z")], {"a": np.array([0]), "k": np.ones((4, 3))}, shape=(4, 3),
                  outputs=("y", "z"))  # fmt: skip
    assert (graph.batch, graph.shapes["k"], graph.shapes["s"], graph.shapes["m"]) == (4, (4, 3), (None, 3), (3,))


@pytest.mark.parametrize(("op", "batch"), [("Min", 1), ("Max", 4)])
def test_sizes_that_are_the_same_for_other_batches_than_the_one_of_the_file(op: str, batch: int) -> None:
    """The smaller of the batch and 2 is 2 for most batches, but not for one, nor the larger of it and 3 for many."""
    nodes = [
        node("Shape", "x", "n", end=1),
        node(op, "n bound", "m"),
        node("Cast", "m", "f", to=1),
        node("Mul", "x f", "y"),
    ]
    graph = plain(nodes, {"bound": np.array([2 if op == "Min" else 3])}, shape=(batch, 3))
    assert graph.batch == batch
    assert graph.notes[-1].startswith(f"the batch stays {batch}, because of node 'm' ({op})")
    assert graph.constants["f"].tolist() == [batch]
    same = plain(nodes, {"bound": np.array([2 if op == "Min" else 3])}, shape=(2 if op == "Min" else 3, 3))
    assert same.batch in (2, 3)


@pytest.mark.parametrize(("op", "number", "size"), [("Min", 2, None), ("Max", 64, None), ("Mul", 0, 0)])
def test_a_slice_by_what_is_computed_from_an_open_batch(op: str, number: int, size: int | None) -> None:
    nodes = [node("Shape", "x", "n", end=1), node(op, "n k", "m"), node("Slice", "x o m", "s"), node("Relu", "s", "y")]
    graph = normalize_graph(from_model(model(nodes, {"k": np.array([number]), "o": np.array([0])}, shape=("N", 3))))
    assert graph.shapes["y"] == (size, 3)


@pytest.mark.parametrize("op", ["Constant", "Shape", "Size", "Identity", "Neg", "Reshape"])
def test_operators_of_other_domains_are_not_folded(op: str) -> None:
    values = {"value_int": 3} if op == "Constant" else {}
    names = {"Constant": "", "Neg": "k", "Reshape": "x k"}.get(op, "x")
    file = model([node(op, names, "c", domain="me", **values), node("Relu", "c", "y")], {"k": np.array([2, -1])})
    file.opset_import.append(helper.make_opsetid("me", 1))
    graph = normalize_graph(from_model(file))
    assert [(item.domain, item.op_type) for item in graph.nodes] == [("me", op), ("", "Relu")]
    assert (graph.aliases, graph.newer, list(graph.nodes[0].input)) == ({}, frozenset(), names.split())


def test_remarks_on_nodes_go() -> None:
    item = node("Relu", "x", "y", doc_string="of the exporter")
    item.metadata_props.add(key="a", value="b")
    (found,) = plain([item]).nodes
    assert (found.doc_string, len(found.metadata_props)) == ("", 0)


def test_only_small_values_are_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fusion.onnx.graphs.normalize._FOLDED", 6)
    nodes = [node("Neg", "a", "c"), node("Neg", "b", "d"), node("Relu", "x", "y")]
    graph = plain(nodes, {"a": np.ones((2, 3)), "b": np.ones((7, 1))}, outputs=("c", "d", "y"))
    assert [item.output[0] for item in graph.nodes] == ["d", "y"]
    assert graph.constants["c"].tolist() == [[-1, -1, -1]] * 2


def test_sizes_in_parts_stay_to_be_computed_and_fixed_ones_do_not() -> None:
    nodes = [node("Shape", "x", "s"), node("Split", "s", "n c", num_outputs=2), node("Slice", "s one two", "w")]
    graph = plain(nodes, {"one": np.array([1]), "two": np.array([2])}, shape=("N", 3), outputs=("n", "c", "w"))
    assert graph.constants["w"].tolist() == [3]
    assert [item.op_type for item in graph.nodes] == ["Shape", "Split"]
    assert graph.unfit == frozenset()


def test_valid_nodes_that_the_inference_refuses_are_not_unfit() -> None:
    nodes = [node("Cast", "x", "b", to=TensorProto.BOOL), node("ReduceMax", "b a", "y", keepdims=0)]
    assert plain(nodes, {"a": np.array([1])}).unfit == frozenset()
    assert (
        plain([node("Split", "x", "y z w", axis=1, num_outputs=3)], shape=("N", 4), outputs=("y", "w")).unfit == set()
    )


def test_a_node_against_the_specification_is_named() -> None:
    wrong = [node("Conv", "x", "y", auto_pad="SAME_UPPER", name="first")]
    with pytest.raises(OnnxError, match=r"node 'first' \(Conv\) does not follow ONNX's specification"):
        plain(wrong)


@pytest.mark.parametrize("settings", ['file: "net.onnx"', 'file: "net.onnx" input: "a"'])
def test_bottoms_fill_only_the_inputs_of_the_file(
    settings: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    nodes = [node("Conv", "x k", "a"), node("Add", "a z", "y")]
    file = model(nodes, {"k": np.ones((4, 3, 1, 1))}, shape=("N", 3, "h", 8))
    file.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", 4, 5, 8]))
    if "input" in settings:
        del file.graph.input[1]
        file.graph.node[1].input[1] = "a"
    onnx.save(file, "net.onnx")
    ends = 'bottom: "x" top: "y"' if "input" in settings else 'bottom: "x" bottom: "z" top: "y"'
    layer = load_net(parse(f'layer {{ name: "l" type: "Onnx" {ends} onnx_param {{ {settings} }} }}')).layer[0]
    if "input" in settings:
        assert layer_graph(layer, [(2, 4, 5, 8)]).inputs == {"a": (None, 4, None, 8)}
    else:
        found = layer_graph(layer, [(2, 3, 5, 8), (2, 4, 5, 8)])
        assert found.inputs == {"x": (None, 3, 5, 8), "z": (None, 4, 5, 8)}


@pytest.mark.parametrize("version", [10, 11])
def test_the_coordinates_of_old_files(version: int) -> None:
    inputs = "x s" if version == 10 else "x r s"
    scales = {"s": np.array([1, 1, 2, 2], np.float32), "r": np.zeros(0, np.float32)}
    graph = from_model(model([node("Resize", inputs, "y", mode="nearest")], scales, opset=version))
    (resize,) = (item for item in graph.nodes if item.op_type == "Resize")
    places = {name: attributes(resize).get(name) for name in ("coordinate_transformation_mode", "nearest_mode")}
    assert (list(places.values()) == ["asymmetric", "floor"]) is (version == 10)
    assert (graph.opset, graph.notes) == (17, (f"opset {version} was converted to 17",))


def test_the_long_name_of_the_standard_domain() -> None:
    file = model([node("Relu", "x", "y", domain="ai.onnx")])
    file.opset_import[0].domain = "ai.onnx"
    graph = from_model(file)
    assert (graph.opset, graph.imports, graph.nodes[0].domain) == (20, {}, "")


def test_a_cast_to_double_stays_one_node_and_branches_are_found() -> None:
    wide = to_float32(model([node("Cast", "x", "h", to=TensorProto.DOUBLE), node("Relu", "h", "y")]))
    assert attributes(wide.graph.node[0]) == {"to": TensorProto.FLOAT}
    assert [list(item.output) for item in wide.graph.node] == [["h"], ["y"]]
    drawn = to_float32(model([node("RandomNormal", "", "y", dtype=TensorProto.FLOAT16, shape=[2])]))
    assert [list(item.output) for item in drawn.graph.node] == [["y"]]
    double = helper.make_tensor("k", TensorProto.DOUBLE, [2], [1.5, 2.5])
    body = [node("Add", "x k", "o")]
    branch = helper.make_graph(body, "branch", [], [helper.make_tensor_value_info("o", 1, None)], [double])
    notes: list[str] = []
    nested = to_float32(model([node("If", "c", "y", then_branch=branch, else_branch=branch)]), notes)
    assert notes == ["its float64 values are computed in float32"]
    for item in nested.graph.node[0].attribute:
        assert [tensor.data_type for tensor in item.g.initializer] == [TensorProto.FLOAT]


@pytest.mark.parametrize(
    ("opset", "item", "notes"),
    [
        (12, node("Relu", "x", "y"), ("opset 12 was converted to 17",)),
        (13, node("Relu", "x", "y"), ()),
        (7, node("PRelu", "x k", "y"), ("opset 7 was converted to 17",)),
        (6, node("PRelu", "x k", "y"),
         ("opset 6 stays, because onnx cannot convert it to 17: PRelu meant one slope per channel then",)),
    ],
)  # fmt: skip
def test_old_files_are_converted_where_onnx_can(opset: int, item: onnx.NodeProto, notes: tuple[str, ...]) -> None:
    file = model([item], {"k": np.ones((3, 1, 1))}, opset=opset)
    file.ir_version = 4
    graph = from_model(file)
    assert (graph.notes, file.ir_version) == (notes, 4)
    assert graph.opset == (6 if opset == 6 else 13 if opset == 13 else 17)


def test_files_that_hold_no_net_or_sparse_weights() -> None:
    for clear in ("node", "output"):
        file = model([node("Relu", "x", "y")])
        file.graph.ClearField(clear)  # type: ignore[arg-type]
        with pytest.raises(OnnxError, match="this ONNX file holds no net"):
            from_model(file)
    file = model([node("Relu", "x", "y")])
    file.graph.sparse_initializer.add()
    with pytest.raises(OnnxError, match="its weights are sparse tensors"):
        from_model(file)
    file = model([node("Add", "x k", "y")], {"k": np.ones(8)})
    file.graph.initializer[0].raw_data = b"123"
    with pytest.raises(OnnxError, match=r"tensor 'k' of shape \(8,\) is damaged"):
        from_model(file)


@pytest.mark.parametrize("name", ["x", "k"])
def test_a_node_does_not_compute_an_input_or_a_weight(name: str) -> None:
    with pytest.raises(OnnxError, match=f"two nodes or tensors are called '{name}'"):
        from_model(model([node("Relu", "x", name), node("Add", "x k", "y")], {"k": np.ones(8)}))


def test_outputs_of_a_file_may_be_its_inputs_and_weights() -> None:
    graph = from_model(model([node("Relu", "x", "y")], {"k": np.ones(8)}, outputs=("y", "x", "k")))
    assert graph.outputs == ("y", "x", "k")


def test_types_that_torch_lacks_are_named() -> None:
    def reasons(*nodes: onnx.NodeProto) -> dict[str, tuple[str, ...]]:
        return {row.name: row.reasons for row in support(plain(list(nodes))).unsupported}

    half = [node("Cast", "x", "h", to=TensorProto.FLOAT16), node("Cast", "h", "y", to=TensorProto.FLOAT)]
    assert reasons(*half) == {}
    unsigned = [node("Cast", "x", "u", to=TensorProto.UINT16), node("Mul", "u u", "m"), node("Sub", "m u", "y")]
    assert reasons(*unsigned) == {"Cast": ("values of type uint16",), "Sub": ("values of type uint16",)}
    assert reasons(node("SequenceConstruct", "x x", "y")) == {
        "SequenceConstruct": ("values of type sequence or the like", "no converter")
    }


def test_an_input_of_unknown_type_is_not_taken_for_a_float() -> None:
    graph = plain([node("Own", "x", "i", domain="me"), node("Gather", "x i", "y")])
    reasons = {row.name: row.reasons for row in support(graph).unsupported}
    assert reasons == {
        "me::Own": ("the domain 'me' is not ONNX's own",),
        "Gather": ("its inputs do not fit each other",),
    }


def test_one_slope_per_channel_of_old_files_is_found_among_other_nodes() -> None:
    graph = from_model(model([node("Relu", "x", "r"), node("PRelu", "r k", "y")], {"k": np.ones(3)}, opset=6))
    assert (graph.opset, "PRelu meant one slope per channel then" in graph.notes[0]) == (6, True)


def test_where_the_first_node_that_cannot_run_is() -> None:
    nodes = [node("LRN", "x", "a", size=4, name="first"), node("LRN", "a", "b", size=5), node("LRN", "b", "y", size=2)]
    (row,) = support(plain(nodes)).unsupported
    assert (row.name, row.count, row.where) == ("LRN", 3, "first")
    assert row.reasons == ("an even size, which ONNX Runtime does not run",)


def test_a_node_that_waits_twice_comes_once() -> None:
    nodes = [node("Add", "b a", "y"), node("Relu", "b", "a"), node("Tanh", "x", "b")]
    assert [item.op_type for item in from_model(model(nodes)).nodes] == ["Tanh", "Relu", "Add"]


def test_a_graph_as_a_model_names_its_versions() -> None:
    nodes = [node("Gelu", "x", "g"), node("Own", "g", "o", domain="me"), node("Add", "o k", "y")]
    file = model(nodes, {"k": np.array(2.5)})
    file.opset_import.append(helper.make_opsetid("me", 7))
    graph = normalize_graph(from_model(file))
    written = to_model(graph)
    assert {item.domain: item.version for item in written.opset_import} == {"": 17, "me": 7, "caffe_fusion": 1}
    assert (written.graph.name, to_model(replace(graph, name="")).graph.name) == ("small", "net")
    assert (written.ir_version, list(written.graph.initializer[0].dims)) == (8, [])
    assert [info.name for info in written.graph.value_info] == ["g"]


def test_long_messages_of_onnx_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("a" * 300 + "\nmore")

    monkeypatch.setattr("fusion.onnx.graphs.read.version_converter.convert_version", fail)
    graph = from_model(model([node("Relu", "x", "y")], opset=12))
    assert graph.notes == ("opset 12 stays, because onnx cannot convert it to 17: " + "a" * 120,)
    assert graph.opset == 12
    monkeypatch.setattr("fusion.onnx.graphs.read.read_mapped", fail)
    (tmp_path / "n.onnx").write_bytes(b"\x08\x08")
    with pytest.raises(OnnxError) as caught:
        read_graph(tmp_path / "n.onnx")
    assert f"this is no readable ONNX file: {'a' * 200}\n" in str(caught.value)


@pytest.mark.parametrize(("version", "arrays"), [(12, False), (13, True)])
def test_weights_are_mapped_unless_onnx_must_change_the_model(version: int, arrays: bool, tmp_path: Path) -> None:
    file = model([node("Relu", "x", "f"), node("Gemm", "f w", "y")], {"w": np.ones((256, 64))}, opset=version,
                 shape=("N", 256))  # fmt: skip
    for name in ("net.ONNX", "net.bin"):
        (tmp_path / name).write_bytes(file.SerializeToString())
        graph = read_graph(tmp_path / name)
        assert bool(graph.files) is (arrays and name == "net.ONNX")
        assert graph.constants["w"].shape == (256, 64)


def test_what_becomes_constant_by_rewriting_is_folded() -> None:
    """torch's exporter writes a bias of zeros as a CastLike, expanded to the number of filters."""
    nodes = [node("Shape", "w", "s"), node("Gather", "s i", "n"), node("CastLike", "zero x", "z"),
             node("Expand", "z n", "b"), node("Conv", "x w b", "y")]  # fmt: skip
    constants = {"w": np.ones((4, 3, 1, 1)), "i": np.array([0]), "zero": np.array([2])}
    graph = plain(nodes, constants)
    assert [node.op_type for node in graph.nodes] == ["Conv"]
    assert (graph.constants["b"].dtype, graph.constants["b"].tolist()) == (np.float32, [2.0] * 4)
    # A bias of zeros is none of the net's parameters; one that the file stores may learn.
    assert plain(nodes, {**constants, "zero": np.array([0])}).nodes[0].input == ["x", "w"]
    stored = plain([node("Conv", "x w b", "y")], {"w": constants["w"], "b": np.zeros(4)})
    assert stored.nodes[0].input == ["x", "w", "b"]


@pytest.mark.parametrize(
    ("scopes", "classes", "path"),
    [
        (["", "layer1", "layer1.0", "layer1.0.relu", "relu_3"],
         ["n.Net", "torch.nn.modules.container.Sequential", "n.Block", "torch.nn.modules.activation.ReLU", "relu"],
         "/layer1/0/relu"),
        (["", "layer1", "layer1.0", "add_7"],
         ["n.Net", "torch.nn.modules.container.Sequential", "n.Block", "add"], "/layer1/0/add"),
        (["", "flatten"], ["n.Net", "flatten"], "/flatten"),
        (["", "flatten"], ["n.Net", "block", "flatten"], "given"),  # lists that do not belong together
        (["hook", "sym_size"], ["hook", "sym_size"], "given"),
        ([], [], "given"),
    ],
)  # fmt: skip
def test_nodes_have_the_names_of_their_modules(scopes: list[str], classes: list[str], path: str) -> None:
    first = node("Relu", "x", "y", name="given")
    for key, value in (("name_scopes", scopes), ("class_hierarchy", classes)):
        if value:
            first.metadata_props.add(key=f"pkg.torch.onnx.{key}", value=str(value))
    assert plain([first]).nodes[0].name == path


def test_a_parameter_in_another_shape_keeps_its_name() -> None:
    nodes = [node("Reshape", "slope s", "val_1"), node("PRelu", "x val_1", "y")]
    constants = {"slope": np.array([0.1, 0.2, 0.3]), "s": np.array([3, 1, 1])}
    graph = plain(nodes, constants)
    assert list(graph.nodes[0].input) == ["x", "slope"]
    assert {name: array.shape for name, array in graph_weights(graph).items()} == {"slope": (3, 1, 1)}
    # Read in both shapes, it stays as it is stored.
    both = plain([*nodes, node("Mul", "y slope", "z")], constants, outputs=("z",), shape=("N", 3, 8, 3))
    assert both.constants["slope"].shape == (3,)


@pytest.mark.parametrize(
    ("split", "sizes"), [(np.array(3), [3, 3, 2]), (np.array([5, 3]), [5, 3]), (np.array(8), [8]), (None, [1] * 8)]
)
def test_a_sequence_of_parts_becomes_a_split(split: Any, sizes: list[int]) -> None:
    """torch's exporter writes `chunk` as SplitToSequence, of which SequenceAt reads the parts."""
    names = "x" if split is None else "x k"
    nodes = [node("SplitToSequence", names, "s", axis=-1), node("SequenceAt", "s last", "a"), node("Relu", "a", "y")]
    graph = plain(nodes, {"last": np.array(-1), **({} if split is None else {"k": split})})
    assert [each.op_type for each in graph.nodes] == ["Split", "Relu"]
    assert graph.constants[graph.nodes[0].input[1]].tolist() == sizes
    assert (graph.nodes[1].input[0], graph.shapes["y"]) == (graph.nodes[0].output[-1], (None, 3, 8, sizes[-1]))


def test_a_sequence_that_is_read_as_a_whole_stays() -> None:
    nodes = [node("SplitToSequence", "x", "s", axis=3), node("SequenceAt", "s i", "a"),
             node("ConcatFromSequence", "s", "y", axis=1)]  # fmt: skip
    graph = plain(nodes, {"i": np.array(0)}, outputs=("a", "y"))
    assert [each.op_type for each in graph.nodes] == ["SplitToSequence", "SequenceAt", "ConcatFromSequence"]
    squeezed = plain([node("SplitToSequence", "x", "s", keepdims=0, axis=3), node("SequenceAt", "s i", "y")],
                     {"i": np.array(0)})  # fmt: skip
    assert squeezed.nodes[0].op_type == "SplitToSequence"


@pytest.mark.parametrize("op", ["Gemm", "MatMul"])
def test_a_dense_layer_without_weights_is_no_net(op: str) -> None:
    with pytest.raises(OnnxError):
        check_support(plain([node(op, "x", "y")]))


@pytest.mark.parametrize(
    ("places", "batch"),
    [
        (np.arange(12).reshape(1, 3, 4), None),
        (np.arange(12)[::-1].reshape(1, 3, 4), 1),
        (np.arange(12).reshape(3, 4).T.reshape(1, 4, 3), 1),
        (np.arange(8).reshape(1, 2, 4), 1),
    ],
)
def test_the_strides_of_a_tensor_that_are_its_own_open_the_batch(
    places: np.ndarray[Any, Any], batch: int | None
) -> None:
    """Exporters flatten a tensor and gather its values one by one, where torch changes strides alone."""
    nodes = [node("ReduceMean", "x", "m", keepdims=0, axes=[3]), node("Reshape", "m flat", "r"),
             node("Gather", "r places", "g"), node("Relu", "g", "y")]  # fmt: skip
    made = model(nodes, {"flat": np.array([-1]), "places": places}, shape=(1, 3, 4, 2), opset=17)
    graph = normalize_graph(from_model(made))
    assert graph.batch == batch
    x = draw(3, 3, 4, 2)
    expected = np.concatenate([ReferenceEvaluator(made).run(None, {"x": x[i : i + 1]})[0] for i in range(3)])
    np.testing.assert_allclose(OnnxNet(graph)(torch.from_numpy(x)).numpy(), expected, rtol=1e-6)
