"""The rules that bring nodes to the plain form, one by one: what each makes of a node, and when it leaves it alone."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from graphs import model, node

from fusion.onnx.graphs import normalize_graph
from fusion.onnx.graphs.batch_reshape import _common, _resolved, static_reshape
from fusion.onnx.graphs.canonicalize import _first_output, canonical_nodes
from fusion.onnx.graphs.constants import Facts
from fusion.onnx.graphs.cut import classifier_input, feature_values, image_entries, list_features, scores_value
from fusion.onnx.graphs.graph import attributes, known_sizes, prune, to_model
from fusion.onnx.graphs.lower_opset import lower_node
from fusion.onnx.graphs.read import from_model
from fusion.onnx.graphs.shape_probe import Probe, evaluate, scaled, shape_of
from fusion.onnx.graphs.summary import overview_text
from fusion.onnx.graphs.support import _limits, _resize_limits

Shape = tuple[int | None, ...] | None


def probe(batch: int = 2, /, **shapes: Shape) -> Probe:
    found = Probe(batch)
    for name, dims in shapes.items():
        found.types[name] = onnx.TensorProto.FLOAT
        if dims is not None:
            found.shapes[name] = dims
    return found


def facts(shape: Shape = None, uses: dict[str, int] | None = None, **constants: Any) -> Facts:
    """The value x of this shape after the batch of 2 or 3, and constants."""
    probes = tuple(probe(batch, x=None if shape is None else (batch, *shape)) for batch in (2, 3))
    found = Facts({}, probes, 17, Counter(uses or {}))
    for name, value in constants.items():
        found.know(name, np.asarray(value))
    return found


def written(nodes: list[onnx.NodeProto] | None) -> list[tuple[str, dict[str, Any]]] | None:
    return None if nodes is None else [(item.op_type, attributes(item)) for item in nodes]


RESHAPE = node("Reshape", "x s", "y")


@pytest.mark.parametrize(
    ("dims", "sizes", "zeros", "found"),
    [
        ((2, 3, 4), [2, 12], False, (2, 12)),
        ((2, 3, 4), [0, -1], False, (2, 12)),
        ((2, 3, 4), [-1, 0], False, (8, 3)),
        ((2, 3, 4), [0, 0, 2, -1], False, (2, 3, 2, 2)),
        ((2, 1, 4), [1, -1], False, (1, 8)),
        ((2, 3, 4), [1, 2, 3, 0], False, None),
        ((2, None, 4), [2, 0, 4], False, None),
        ((None, 3, 4), [0, 12], False, None),
        ((None, 3, 4), [5, 12], False, (5, 12)),
        ((2, None, 4), [2, -1], False, None),
        ((2, 3, 4), [5, -1], False, None),
        ((2, 0, 4), [0, -1], True, None),
        ((2, 0, 4), [2, 0, 4], True, (2, 0, 4)),
        ((2, 0, 4), [0, 0, 4], False, (2, 0, 4)),
        (None, [2, 12], False, None),
        ((2, 3, 4), None, False, None),
        ((2, 3, 4), [[0, 12]], False, (2, 12)),
        ((2, 3, 4), [0, 12], True, (0, 12)),
        ((2, None, 4), [0, 12], False, (2, 12)),
    ],
)
def test_the_sizes_that_a_target_stands_for(dims: Shape, sizes: list[int] | None, zeros: bool, found: Shape) -> None:
    one = probe(x=dims)
    if sizes is not None:
        one.values["s"] = np.array(sizes)
    assert _resolved(RESHAPE, one, zeros) == found


@pytest.mark.parametrize(
    ("resolved", "dims", "found"),
    [
        ([(2, 12), (3, 12)], [(2, 3, 4), (3, 3, 4)], [0, 12]),
        ([(8, 3), (12, 3)], [(2, 3, 4), (3, 3, 4)], [-1, 3]),
        ([(6, 4), (6, 4)], [(2, 3), (3, 3)], [6, 4]),
        ([(8, 2, 3), (12, 3, 2)], [(2, 3), (3, 3)], None),
        ([(8, 4), (12, 6)], [(2, 3), (3, 3)], None),  # two sizes follow the batch
        ([(4, 2), (6, 3)], [(1, 2), (1, 3)], [-1, 0]),
        ([(2, 0), (3, 0)], [(2, 3), (3, 3)], None),  # a size of 0 would be that of the input
        ([(0, 4), (1, 4)], [(0, 4), (1, 4)], [0, 4]),
        ([(2, 12), (2, 12, 1)], [(2, 3), (3, 3)], None),
        ([(2, 12), None], [(2, 3), (3, 3)], None),
        ([(2, 12), (3, 12)], [(2, 3), None], [-1, 12]),
        ([(12, 2), (12, 3)], [(2,), (3,)], [12, -1]),
    ],
)
def test_one_target_for_all_batches(resolved: list[Shape], dims: list[Shape], found: list[int] | None) -> None:
    assert _common(resolved, dims) == found  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("shape", "sizes", "found"),
    [
        ((3, 4), [5, 12], [0, 12]),
        ((3, 4), [-1, 12], [0, 12]),
        ((3, 4), [60], [-1]),
        ((3, 4), [15, 4], [-1, 4]),
        ((3, 4), [3, 20], None),
        ((3, 4), [0, 0, 2, 2], [0, 3, 2, 2]),
    ],
)
def test_a_batch_in_a_target_is_opened(shape: tuple[int, ...], sizes: list[int], found: list[int] | None) -> None:
    known = facts(shape)
    known.declared = probe(5, x=(5, *shape))
    known.know("s", np.array(sizes))
    nodes = static_reshape(RESHAPE, known, known.declared)
    assert (nodes is None) is (found is None)
    if nodes is not None:
        assert known.constants[nodes[0].input[1]].tolist() == found


def test_sizes_that_do_not_follow_the_batch_stay_and_others_on_another_axis_do_not() -> None:
    known = facts()
    known.declared = probe(5, x=(4, 6))
    for one in known.probes:
        one.shapes["x"] = (4, 6)
    known.know("s", np.array([3, -1]))
    (kept,) = static_reshape(RESHAPE, known, known.declared) or ()
    assert known.constants[kept.input[1]].tolist() == [3, 8]
    for one in known.probes:
        one.shapes["x"] = (one.batch, 2 * one.batch)
    assert static_reshape(RESHAPE, known, known.declared) is None
    for one in known.probes:
        one.shapes["x"] = (4, 2 * one.batch, 3)
    assert static_reshape(RESHAPE, known, known.declared) is None


AXES = np.array([1, -1])


@pytest.mark.parametrize(
    ("item", "constants", "found"),
    [
        (node("ReduceMax", "x a", "y", keepdims=0), {"a": AXES}, [("ReduceMax", {"axes": [1, -1], "keepdims": 0})]),
        (node("ReduceMax", "x a", "y"), {"a": AXES}, [("ReduceMax", {"axes": [1, -1], "keepdims": 1})]),
        (node("ReduceMax", "x", "y", keepdims=0), {}, [("ReduceMax", {"keepdims": 0})]),
        (node("ReduceMax", "x -", "y"), {}, [("ReduceMax", {"keepdims": 1})]),
        (node("ReduceMax", "x a", "y", noop_with_empty_axes=1), {"a": AXES[:0]}, [("Identity", {})]),
        (node("ReduceMax", "x", "y", noop_with_empty_axes=1), {}, [("Identity", {})]),
        (node("ReduceMax", "x a", "y"), {}, None),
        (node("Resize", "x - s", "y", antialias=0, keep_aspect_ratio_policy="stretch", mode="linear"), {},
         [("Resize", {"mode": "linear"})]),
        (node("Resize", "x - s", "y", mode="linear"), {}, [("Resize", {"mode": "linear"})]),
        (node("Resize", "x - s", "y", antialias=1), {}, None),
        (node("Resize", "x - s", "y", keep_aspect_ratio_policy="not_larger"), {}, None),
        (node("AveragePool", "x", "y", kernel_shape=[2, 2], dilations=[1, 1]), {},
         [("AveragePool", {"kernel_shape": [2, 2]})]),
        (node("AveragePool", "x", "y", kernel_shape=[2, 2], dilations=[1, 2]), {}, None),
        (node("Gelu", "x", "y", approximate="tanh"), {}, [("Gelu", {"approximate": "tanh"})]),
        (node("Relu", "x", "y"), {}, [("Relu", {})]),
        (node("Nonsense", "x", "y"), {}, None),
        (node("Split", "x", "a b", axis=1, num_outputs=2), {}, [("Split", {"axis": 1})]),
        (node("Split", "x", "a b", axis=0, num_outputs=2), {}, None),
        (node("Split", "x", "a b", num_outputs=2), {}, None),
        (node("Split", "x s", "a b", axis=1), {}, [("Split", {"axis": 1})]),
        (node("Cast", "x", "y", to=7, saturate=1), {}, [("Cast", {"to": 7})]),
        (node("Cast", "x", "y", to=7, saturate=0), {}, None),
        (node("Pad", "x p - a", "y"), {"p": AXES}, None),
        (node("Pad", "x p - a", "y"), {"a": AXES}, None),
    ],
)  # fmt: skip
def test_newer_operators_in_those_of_opset_17(
    item: onnx.NodeProto, constants: dict[str, Any], found: list[Any] | None
) -> None:
    assert written(lower_node(item, facts((4, 6), **constants), 20)) == found
    assert lower_node(item, facts(), 17) == [item], "older files are left alone"


@pytest.mark.parametrize(
    ("inputs", "pads"),
    [
        ("x p - a", [0, 1, 0, 0, 2, 0]),
        ("x p v a", [0, 1, 0, 0, 2, 0]),
        ("x p", None),
        ("x p v", None),
        ("x p v -", None),
    ],
)
def test_pads_of_some_axes_become_pads_of_all(inputs: str, pads: list[int] | None) -> None:
    known = facts((4, 6), p=np.array([1, 2]), a=np.array([1]), v=np.float32(7))
    (found,) = lower_node(node("Pad", inputs, "y", mode="reflect"), known, 20) or ()
    assert (found.op_type, attributes(found)) == ("Pad", {"mode": "reflect"})
    given = [name.strip("-") for name in inputs.split()]
    assert list(found.input) == ([*given[:3]] if pads is None else ["x", found.input[1], *given[2:3]])
    if pads is not None:
        assert known.constants[found.input[1]].tolist() == pads


@pytest.mark.parametrize(
    ("mode", "size", "values", "pads"),
    [
        ("SAME_UPPER", (5, 6), {"kernel_shape": [2, 3]}, [0, 1, 1, 1]),
        ("SAME_LOWER", (5, 6), {"kernel_shape": [2, 3]}, [1, 1, 0, 1]),
        ("SAME_UPPER", (5, 6), {"kernel_shape": [3, 3], "strides": [2, 3]}, [1, 0, 1, 0]),
        ("SAME_UPPER", (5, 6), {"kernel_shape": [2, 2], "dilations": [3, 2]}, [1, 1, 2, 1]),
        ("SAME_UPPER", (4, 4), {"kernel_shape": [1, 1], "strides": [2, 2]}, [0, 0, 0, 0]),
        ("VALID", (5, 6), {"kernel_shape": [2, 3], "pads": [1, 1, 1, 1]}, None),
        ("SAME_UPPER", (None, 6), {"kernel_shape": [2, 3]}, "kept"),
        ("SAME_UPPER", (5, None), {"kernel_shape": [2, 3]}, "kept"),
        ("NOTSET", (5, 6), {"kernel_shape": [2, 3], "pads": [1, 2, 3, 4]}, [1, 2, 3, 4]),
    ],
)
def test_pads_that_keep_the_size(mode: str, size: Any, values: dict[str, Any], pads: Any) -> None:
    (found,) = canonical_nodes(node("AveragePool", "x", "y", auto_pad=mode, **values), facts((3, *size)))
    expected = {"kernel_shape": values["kernel_shape"]} if pads is None else {**values, "pads": pads}
    if pads == "kept" or mode == "NOTSET":
        expected = {"auto_pad": mode, **values}
    assert attributes(found) == expected


def test_the_kernel_of_a_convolution_is_that_of_its_weight() -> None:
    known = facts((3, 5, 5), w=np.zeros((2, 3, 2, 4), np.float32))
    (found,) = canonical_nodes(node("Conv", "x w", "y", auto_pad="SAME_UPPER"), known)
    assert attributes(found) == {"pads": [0, 1, 1, 2]}
    assert canonical_nodes(node("Conv", "x k", "y", auto_pad="SAME_UPPER"), known)[0].attribute[0].name == "auto_pad"


@pytest.mark.parametrize(
    ("shape", "item", "constants", "found"),
    [
        ((3, 8, 8), node("Resize", "x - s", "y"), {"s": [1, 1, 2, 0.5]}, {"scales": [2.0, 0.5]}),
        ((3, 8, 8), node("Resize", "x - s", "y"), {"s": [1, 2, 2, 2]}, None),
        ((3, 8, 8), node("Resize", "x - s", "y"), {"s": [2, 1, 2, 2]}, None),
        ((3, 8, 8), node("Resize", "x - s", "y", axes=[-1]), {"s": [2]}, {"scales": [1.0, 2.0]}),
        ((3, 8, 8), node("Resize", "x - s", "y"), {}, None),
        ((3, 8, 8), node("Resize", "x - - z", "y", axes=[2, 3]), {"z": np.array([4, 5])}, {"sizes": [4, 5]}),
        ((3, 8, 8), node("Resize", "x - - z", "y", axes=[3]), {"z": np.array([5])}, {"sizes": [8, 5]}),
        ((3, None, 8), node("Resize", "x - - z", "y", axes=[3]), {"z": np.array([5])}, None),
        ((3, 8, 8), node("Resize", "x - - z", "y", axes=[1, 2]), {"z": np.array([3, 5])}, {"sizes": [5, 8]}),
        ((3, 8, 8), node("Resize", "x - - z", "y", axes=[1, 2]), {"z": np.array([4, 5])}, None),
        (None, node("Resize", "x - s", "y"), {"s": [1, 1, 2, 2]}, None),
    ],
)
def test_sizes_or_factors_of_the_spatial_axes(
    shape: Shape, item: onnx.NodeProto, constants: dict[str, Any], found: dict[str, Any] | None
) -> None:
    given = {name: np.asarray(value, np.float32 if name == "s" else np.int64) for name, value in constants.items()}
    (result,) = canonical_nodes(item, facts(shape, **given))
    if found is None:
        assert result == item
    else:
        assert (result.domain, list(result.input), attributes(result)) == ("caffe_fusion", ["x"], found)


def test_sizes_that_follow_the_batch_are_no_attribute() -> None:
    known = facts((3, 8, 8))
    for one in known.probes:
        one.know("z", np.array([one.batch, 3, 4, 4]))
    assert attributes(canonical_nodes(node("Resize", "x - - z", "y"), known)[0]) == {"sizes": [4, 4]}
    known.probes[1].values["z"] = np.array([3, 3, 4, 5])
    assert canonical_nodes(node("Resize", "x - - z", "y"), known)[0].domain == ""
    half = facts((3, 8, 8), s=np.array([1, 1, 2, 2], np.float32))
    del half.probes[1].shapes["x"]
    assert canonical_nodes(node("Resize", "x - s", "y"), half)[0].domain == "", "not known for each batch"


W, B = np.arange(6, dtype=np.float32).reshape(2, 3), np.array([1, 2, 3], np.float32)


@pytest.mark.parametrize(
    ("values", "bias", "rows", "vector"),
    [
        ({}, B, W.T, B),
        ({"transB": 1}, B[:2], W, B[:2]),
        ({"alpha": 2.0, "beta": 0.5}, B, W.T * 2, B / 2),
        ({}, B[:1], W.T, [1, 1, 1]),
        ({}, B[None], W.T, B),
        ({}, None, W.T, None),
        ({}, np.stack([B, B]), None, None),
        ({}, B[:2], None, None),
        ({"transA": 1}, B, None, None),
        ({}, B[None, None], None, None),
        ({"alpha": 2.0}, B, W.T * 2, B),
        ({"beta": 3.0}, B[:1], W.T, [3, 3, 3]),
    ],
)
def test_a_dense_layer_has_rows_of_weights(values: dict[str, Any], bias: Any, rows: Any, vector: Any) -> None:
    given = {"w": W} if bias is None else {"w": W, "b": bias}
    known = facts((2,), {"w": 1, "b": 1}, **given)
    item = node("Gemm", "x w" if bias is None else "x w b", "y", **values)
    (found,) = canonical_nodes(item, known)
    if rows is None:
        assert found == item
        return
    assert (list(found.input), attributes(found)) == (list(item.input), {"transB": 1})
    np.testing.assert_array_equal(known.constants["w"], rows)
    assert vector is None or known.constants["b"].tolist() == list(vector)


def test_a_weight_that_others_read_too_keeps_its_value() -> None:
    known = facts((2,), {"w": 2, "b": 2}, w=W, b=B)
    (found,) = canonical_nodes(node("Gemm", "x w b", "y"), known)
    assert list(found.input) == ["x", "w:rows", "b"], "the bias is the same"
    np.testing.assert_array_equal(known.constants["w"], W)
    np.testing.assert_array_equal(known.constants["w:rows"], W.T)
    (again,) = canonical_nodes(node("Gemm", "x w b", "z", beta=2.0), known)
    assert list(again.input) == ["x", "w:rows_2", "b:rows"]


def test_pixels_and_channels_change_places() -> None:
    known = facts((12, 4, 6))
    nodes = canonical_nodes(node("DepthToSpace", "x", "y", blocksize=2), known)
    assert [known.constants[nodes[index].input[1]].tolist() for index in (0, 2)] == [[0, 2, 2, 3, 4, 6], [0, 3, 8, 12]]
    assert attributes(nodes[1]) == {"perm": [0, 3, 4, 1, 5, 2]}
    known = facts((3, 4, 6))
    nodes = canonical_nodes(node("SpaceToDepth", "x", "y", blocksize=2), known)
    assert [known.constants[nodes[index].input[1]].tolist() for index in (0, 2)] == [[0, 3, 2, 2, 3, 2], [0, 12, 2, 3]]
    assert attributes(nodes[1]) == {"perm": [0, 3, 5, 1, 2, 4]}
    for op in ("DepthToSpace", "SpaceToDepth"):
        for shape in (None, (None, 4, 6), (12, None, 6), (12, 4, None)):
            item = node(op, "x", "y", blocksize=2)
            assert canonical_nodes(item, facts(shape)) == [item]
    crd = node("DepthToSpace", "x", "y", blocksize=2, mode="CRD")
    assert canonical_nodes(crd, facts((12, 4, 6))) == [crd]


@pytest.mark.parametrize(
    ("item", "uses", "outputs"),
    [
        (node("MaxPool", "x", "y i", kernel_shape=[2, 2]), {}, ["y"]),
        (node("MaxPool", "x", "y i", kernel_shape=[2, 2]), {"i": 1}, ["y", "i"]),
        (node("BatchNormalization", "x a b c d", "y m v"), {"m": 1}, ["y"]),
        (node("LayerNormalization", "x a", "y m v", stash_type=1), {}, ["y"]),
        (node("LayerNormalization", "x a", "y m v"), {"v": 1}, ["y", "m", "v"]),
        (node("LayerNormalization", "x a", "y m v"), {"m": 1}, ["y", "m"]),
        (node("Dropout", "x", "y m"), {}, ["y"]),
        (node("Dropout", "x", "y m"), {"m": 1}, ["y", "m"]),
    ],
)
def test_outputs_that_nobody_reads_go(item: onnx.NodeProto, uses: dict[str, int], outputs: list[str]) -> None:
    (found,) = canonical_nodes(item, facts((3, 8, 8), uses))
    assert list(found.output) == outputs
    assert "stash_type" not in attributes(found)


@pytest.mark.parametrize(
    ("inputs", "values", "constants", "ratio"),
    [
        ("x", {}, {}, 0.5),
        ("x", {"ratio": 0.25}, {}, 0.25),
        ("x r", {}, {"r": 0.75}, 0.75),
        ("x r", {}, {}, 0.0),
        ("x r t", {}, {"r": 0.75, "t": True}, 0.75),
        ("x r t", {"seed": 1}, {"r": 0.75, "t": False}, 0.75),
        ("x r t", {"seed": 1}, {"r": 0.0, "t": True}, 0.0),
        ("x r t", {"seed": 1}, {"r": 0.75, "t": True}, None),
        ("x r t", {}, {"r": 0.75}, None),
    ],
)
def test_the_ratio_of_dropout(
    inputs: str, values: dict[str, Any], constants: dict[str, Any], ratio: float | None
) -> None:
    known = facts((3,), **{name: np.array(value) for name, value in constants.items()})
    item = node("Dropout", inputs, "y", **values)
    (found,) = canonical_nodes(item, known)
    if ratio is None:
        assert found == item
    else:
        assert (found.domain, list(found.input), attributes(found)) == ("caffe_fusion", ["x"], {"ratio": ratio})
    assert bool(known.notes) is (inputs == "x r" and not constants)


def test_what_two_batches_have_in_common() -> None:
    known = facts((3, None))
    assert known.dims("x") == (None, 3, None)
    known.probes[1].shapes["x"] = (3, 4)
    assert known.dims("x") is None, "another rank"
    assert known.dims("z") is None
    assert [known.add("c", 1), known.add("c", 2), known.add("c", 3)] == ["c", "c_2", "c_3"]


@pytest.mark.parametrize(
    ("shapes", "axis", "sound"),
    [
        ([(2, 3, 4), (2, 5, 4)], 1, True), ([(2, 3, 4), (2, 3, 5)], 1, False), ([(2, 3, 4), (2, 3, 5)], -1, True),
        ([(2, 3, 4), (2, 5, 5)], -1, False), ([(2, 3, 4), (3, 3, 4)], 0, True), ([(2, 3, 4), (3, 3, 5)], 0, False),
        ([(2, 3, None), (2, 5, 4)], 1, True), ([(2, 3, 4), (2, 5, 4)], -2, True), ([(2, 3, 4), (2, 5, 6)], -2, False),
    ],
)  # fmt: skip
def test_values_that_can_be_joined(shapes: list[Shape], axis: int, sound: bool) -> None:
    one = probe(a=shapes[0], b=shapes[1])
    assert one.infer(node("Concat", "a b", "y", axis=axis), 17, {}) is sound


def test_shapes_of_own_operators_and_parts_of_shapes() -> None:
    one = probe(x=(2, 3, 8, None))
    resize = node("Resize", "x", "y", scales=[1.5, 2.0], domain="caffe_fusion")
    assert one.infer(resize, 17, {})
    assert one.shapes["y"] == (2, 3, 12, None)
    assert one.infer(node("Resize", "x", "z", sizes=[4, 5], domain="caffe_fusion"), 17, {})
    assert one.shapes["z"] == (2, 3, 4, 5)
    assert one.infer(node("Dropout", "x", "d m", domain="caffe_fusion"), 17, {})
    assert (one.shapes["d"], one.shapes["m"], one.types["m"]) == ((2, 3, 8, None),) * 2 + (onnx.TensorProto.BOOL,)
    assert (scaled(10, 0.7), scaled(3, 1.0), scaled(5, 1.5)) == (7, 3, 7)
    parts = [({}, None), ({"start": 0, "end": 2}, [2, 3]), ({"start": 1, "end": -1}, [3, 8]), ({"end": 1}, [2])]
    for values, sizes in parts:
        found = shape_of(node("Shape", "x", "s", **values), one)
        assert (None if found is None else found.tolist()) == sizes
    assert shape_of(node("Size", "z", "s"), one) == 120
    assert shape_of(node("Shape", "unknown", "s"), one) is None


def test_only_nodes_that_are_needed_stay_in_their_order() -> None:
    nodes = [node("Relu", "x", "a"), node("Tanh", "x", "b"), node("Neg", "a", "c"), node("Abs", "b", "d")]
    assert [item.op_type for item in prune(nodes, ["c"])] == ["Relu", "Neg"]
    assert [item.op_type for item in prune(nodes, ["d", "a"])] == ["Relu", "Tanh", "Abs"]


CLASSIFIER = [
    node("Conv", "x w", "c"), node("Relu", "c", "r"), node("GlobalAveragePool", "r", "g"), node("Flatten", "g", "f"),
    node("Gemm", "f k", "s"), node("Softmax", "s", "y"),
]  # fmt: skip
CONSTANTS = {"w": np.ones((4, 3, 3, 3)), "k": np.ones((4, 5)), "unused": np.ones(3)}


def test_a_graph_as_a_model_and_as_a_page() -> None:
    graph = normalize_graph(from_model(model(CLASSIFIER, CONSTANTS)))
    assert (scores_value(graph), classifier_input(graph), image_entries(graph)) == ("s", "f", {"x": "x"})
    assert feature_values(graph)[0] == ("y", (None, 5))
    assert list_features(graph, 2) == "y (5), s (5) and 4 more"
    assert list_features(graph, 6) == "y (5), s (5), f (4), g (4x1x1), r (4x6x6), c (4x6x6)"
    written = to_model(graph)
    assert [item.name for item in written.graph.node] == [f"n{n}_{item.op_type}" for n, item in enumerate(CLASSIFIER)]
    assert [tensor.name for tensor in written.graph.initializer] == ["w", "k"]
    (x,) = written.graph.input
    assert [dim.dim_param or dim.dim_value for dim in x.type.tensor_type.shape.dim] == ["N", 3, 8, 8]
    assert {info.name for info in written.graph.value_info} == {"c", "r", "g", "f", "s"}
    assert overview_text(graph, 2).splitlines() == [
        "ONNX net 'small', 2 weights, 128 values",
        "input   x  Nx3x8x8",
        "output  y  Nx5",
        "cut     f",
        "values to cut at, output side first:",
        "  y  Nx5",
        "  s  Nx5",
        "  and 4 more",
        "operators: all can be run",
        *overview_text(graph).splitlines()[12:],
    ]


def test_where_a_classifier_is_not_certain() -> None:
    two = [node("Relu", "x", "a"), node("Add", "a x", "y")]
    assert classifier_input(normalize_graph(from_model(model(two)))) is None
    direct = [node("Flatten", "x", "f"), node("Gemm", "f k", "y")]
    assert classifier_input(normalize_graph(from_model(model(direct, {"k": np.ones((192, 5))})))) == "f"
    first = [node("Conv", "x w", "y")]
    assert classifier_input(normalize_graph(from_model(model(first, {"w": np.ones((4, 3, 3, 3))})))) is None
    odd = [node("Conv", "x w", "c"), node("Tanh", "c", "y")]
    assert classifier_input(normalize_graph(from_model(model(odd, {"w": np.ones((4, 3, 3, 3))})))) is None


def test_channels_last_enter_behind_their_transpose() -> None:
    turned = node("Transpose", "x", "t", perm=[0, 3, 1, 2])
    graph = normalize_graph(from_model(model([turned, node("Relu", "t", "y")], shape=("N", 8, 8, 3))))
    assert image_entries(graph) == {"x": "t"}
    other = node("Transpose", "x", "t", perm=[0, 2, 1, 3])
    graph = normalize_graph(from_model(model([other, node("Relu", "t", "y")], shape=("N", 8, 8, 3))))
    assert image_entries(graph) == {"x": "x"}
    both = [turned, node("Relu", "t", "y"), node("Neg", "x", "z")]
    graph = normalize_graph(from_model(model(both, shape=("N", 8, 8, 3), outputs=("y", "z"))))
    assert image_entries(graph) == {"x": "x"}


@pytest.mark.parametrize(
    ("item", "dims", "reasons"),
    [
        (
            node("Conv", "x w", "y", auto_pad="SAME_UPPER"),
            (None, 3, 8, 8),
            ["auto_pad SAME where the size of its input"],
        ),
        (node("Conv", "x w", "y", auto_pad="NOTSET"), (None, 3, 8, 8), []),
        (node("DepthToSpace", "x", "y", blocksize=2), (None, 4, 8, 8), ["mode DCR where the size of its input"]),
        (node("DepthToSpace", "x", "y", blocksize=2, mode="CRD"), (None, 4, 8, 8), []),
        (node("Reshape", "x s", "y", allowzero=1), (None, 4), ["a size of 0 computed at run time"]),
        (node("Reshape", "x s", "y", allowzero=0), (None, 4), []),
        (node("Reshape", "x s", "y"), (None, 4), []),
        (node("Relu", "x", "y", allowzero=1), (None, 4), []),
        (node("MaxPool", "x", "y i", kernel_shape=[2, 2]), (None, 3, 8, 8), ["indices of the maxima"]),
        (node("MaxPool", "x", "y", kernel_shape=[2, 2], storage_order=1), (None, 3, 8, 8), ["indices of the maxima"]),
        (node("MaxPool", "x", "y", kernel_shape=[2, 2], storage_order=0), (None, 3, 8, 8), []),
        (node("Resize", "x s", "y"), (None, 3, 8, 8), ["sizes computed at run time, or of batch and channels"]),
        (node("LRN", "x", "y", size=4), (None, 3, 8, 8), ["an even size"]),
        (node("LRN", "x", "y", size=5), (None, 3, 8, 8), []),
        (node("RoiAlign", "x b i", "y", mode="max"), (None, 3, 8, 8), ["mode max"]),
        (node("RoiAlign", "x b i", "y", mode="avg"), (None, 3, 8, 8), []),
        (node("RoiAlign", "x b i", "y"), (None, 3, 8, 8), []),
    ],
)
def test_what_a_known_operator_cannot_do(item: onnx.NodeProto, dims: Shape, reasons: list[str]) -> None:
    graph: Any = SimpleNamespace(shapes={"x": dims})
    found = list(_limits(graph, item))
    assert len(found) == len(reasons)
    assert all(text.startswith(reason) for text, reason in zip(found, reasons, strict=True))


@pytest.mark.parametrize(
    ("values", "dims", "reasons"),
    [
        ({"scales": [2.0, 1.5]}, (None, 3, 8, 8), []),
        ({"coordinate_transformation_mode": "tf_crop_and_resize"}, (None, 3, 8, 8), ["it also crops"]),
        ({"coordinate_transformation_mode": "align_corners", "scales": [2.0, 1.5]}, (None, 3, 8, 8), []),
        ({"coordinate_transformation_mode": "align_corners", "scales": [2.0, 1.5]}, (None, 3, 8, 7),
         ["align_corners by factors"]),
        ({"coordinate_transformation_mode": "align_corners", "scales": [2.0, 1.5]}, (None, 3, None, 8),
         ["align_corners by factors"]),
        ({"coordinate_transformation_mode": "align_corners", "sizes": [3, 4]}, (None, 3, 8, 7), []),
        ({"antialias": 1}, (None, 3, 8, 8), ["antialias"]),
        ({"antialias": 0}, (None, 3, 8, 8), []),
    ],
)  # fmt: skip
def test_what_an_own_resize_cannot_do(values: dict[str, Any], dims: Shape, reasons: list[str]) -> None:
    graph: Any = SimpleNamespace(shapes={"x": dims})
    found = list(_resize_limits(graph, node("Resize", "x", "y"), values))
    assert [text[: len(reason)] for text, reason in zip(found, reasons, strict=True)] == reasons


def test_scores_lie_before_what_ends_a_net() -> None:
    ends = [node("Softmax", "s", "p"), node("ArgMax", "p", "i"), node("Cast", "i", "y", to=1)]
    whole = normalize_graph(from_model(model([*CLASSIFIER[:-1], *ends], CONSTANTS)))
    assert (scores_value(whole), classifier_input(whole)) == ("s", "f")
    biased = [node("Conv", "x w", "c"), node("GlobalAveragePool", "c", "g"), node("Flatten", "g", "f"),
              node("MatMul", "f k", "m"), node("Add", "m b", "y")]  # fmt: skip
    constants = {**CONSTANTS, "b": np.ones(5)}
    assert classifier_input(normalize_graph(from_model(model(biased, constants)))) == "f"
    names = [
        name for name, _ in feature_values(normalize_graph(from_model(model([*CLASSIFIER[:-1], *ends], CONSTANTS))))
    ]
    assert names[-6:] == ["p", "s", "f", "g", "r", "c"], "floats with a row per sample, the output's side first"
    assert "i" not in names, "whole numbers are no features"


@pytest.mark.parametrize(
    ("uses", "left"), [({}, False), ({"h": 1}, True), ({"c": 1}, True), ({"h": 1, "c": 2}, True), ({"y": 1}, False)]
)
def test_unread_outputs_are_left_out_together(uses: dict[str, int], left: bool) -> None:
    found = _first_output(node("Own", "x", "y h c"), facts((3,), uses))
    assert (found is None) is left
    assert found is None or list(found[0].output) == ["y"]
    assert _first_output(node("Own", "x", "y"), facts((3,))) is None
    assert _first_output(node("Own", "x", "y - c"), facts((3,), {"": 1})) is not None


def test_a_target_that_is_not_known_opens_no_batch() -> None:
    for shape, sizes in (((3, 4), None), ((3, None), [5, 12]), (None, [5, 12])):
        known = facts(shape)
        known.declared = probe(5, x=(5, 3, 4))
        if sizes is not None:
            known.know("s", np.array(sizes))
        assert static_reshape(RESHAPE, known, known.declared) is None


def test_sizes_of_a_fixed_batch_are_taken_too() -> None:
    item = node("Resize", "x - - s", "y", mode="nearest")
    known = facts((3, 4, 4))
    single = Facts({}, known.probes[:1], 17, Counter())
    single.know("s", np.array([2, 3, 8, 6]))
    (found,) = canonical_nodes(item, single)
    assert attributes(found)["sizes"] == [8, 6]


@pytest.mark.parametrize(
    ("shapes", "axis", "joins"),
    [
        (((2, 3, 4), (2, 5, 4)), 1, True), (((2, 3, 4), (2, 5, 4)), -2, True), (((2, 3, 4), (2, 5, 6)), 1, False),
        (((2, 3, 4), (1, 3, 4)), 1, False), (((2, 3, 4), (2, 3, 6)), -1, True), (((2, 3, 4), (2, 3, 6)), 2, True),
        (((2, 3, 4), (2, 5, 6)), -1, False), (((2, None, 4), (2, 5, 6)), 2, True), (((2, 3, 4), (7, 3, 4)), 0, True),
        (((2, 3, 4), (7, 3, 5)), 0, False),
    ],
)  # fmt: skip
def test_inputs_of_a_concat_agree_on_all_other_axes(shapes: tuple[Shape, Shape], axis: int, joins: bool) -> None:
    known = probe(2, a=shapes[0], b=shapes[1])
    assert known.infer(node("Concat", "a b", "y", axis=axis), 17, {}) is joins


@pytest.mark.parametrize(
    ("dims", "sizes"),
    [((2, 3), (2, 3)), ((), ()), ((0, 1), (0, 1)), ((2, None), None), ((None, None), None), (None, None)],
)
def test_sizes_are_known_together(dims: Shape, sizes: Shape) -> None:
    assert known_sizes(dims) == sizes


def test_operators_of_other_domains_are_left_alone() -> None:
    for item in (
        node("MaxPool", "x", "y i", kernel_shape=[2, 2], auto_pad="VALID", domain="me"),
        node("Dropout", "x", "y", domain="me"),
        node("GlobalMaxPool", "x", "y", domain="me"),
    ):
        assert canonical_nodes(item, facts((3, 8, 8))) == [item]
        assert lower_node(item, facts((3, 8, 8)), 20) == [item]


def test_a_batch_normalization_has_a_note_only_if_it_was_exported_in_training() -> None:
    for training in (0, 1):
        known = facts((3, 8, 8))
        item = node("BatchNormalization", "x a b c d", "y", training_mode=training, epsilon=0.5, is_test=1, spatial=1)
        (found,) = canonical_nodes(item, known)
        assert attributes(found) == {"epsilon": 0.5}
        assert list(found.input) == ["x", "a", "b", "c", "d"]
        assert len(known.notes) == training
    known = facts((3, 8, 8))
    canonical_nodes(node("BatchNormalization", "x a b c d", "y"), known)
    assert not known.notes


def test_a_maximum_over_all_pixels_and_the_type_of_another_value() -> None:
    (found,) = canonical_nodes(node("GlobalMaxPool", "x", "y"), facts((3, 4, 5, 6)))
    assert (found.op_type, attributes(found)) == ("ReduceMax", {"axes": [2, 3, 4], "keepdims": 1})
    unknown = node("GlobalMaxPool", "x", "y")
    assert canonical_nodes(unknown, facts()) == [unknown]
    single = Facts({}, (probe(2, x=(2, 3)),), 17, Counter())
    single.probes[0].types["k"] = onnx.TensorProto.INT64
    (found,) = canonical_nodes(node("CastLike", "x k", "y"), single)
    assert (found.op_type, list(found.input), attributes(found)) == ("Cast", ["x"], {"to": onnx.TensorProto.INT64})
    unknown = node("CastLike", "x z", "y")
    assert canonical_nodes(unknown, single) == [unknown]


def test_inputs_that_a_layer_normalization_leaves_out_go() -> None:
    (found,) = canonical_nodes(node("LayerNormalization", "x a -", "y", axis=-1), facts((3, 8)))
    assert (list(found.input), attributes(found)) == (["x", "a"], {"axis": -1})


@pytest.mark.parametrize(
    ("inputs", "found"),
    [
        ("x -", None), ("x", None), ("x r s", None), ("x - e", None), ("x - e o", None),
        ("x - s q", {"scales": [2.0, 0.5]}), ("x c s", {"scales": [2.0, 0.5]}), ("x - - q", None),
    ],
)  # fmt: skip
def test_where_the_sizes_of_a_resize_come_from(inputs: str, found: dict[str, Any] | None) -> None:
    """The value r is computed, e is empty, and the sizes q change the channels."""
    scales = np.array([1, 1, 2, 0.5], np.float32)
    known = facts((3, 8, 8), s=scales, c=scales[:0], e=scales[:0], o=np.array([2, 3, 4, 5]))
    for one in known.probes:
        one.know("z", np.array([one.batch, 3, 4, 5]))
        one.know("q", np.array([one.batch, 6, 8, 8]))
    item = node("Resize", inputs, "y")
    (result,) = canonical_nodes(item, known)
    assert result == item if found is None else attributes(result) == found


def test_weights_in_other_precisions_and_empty_pictures() -> None:
    item = node("Gemm", "x w", "y")
    assert canonical_nodes(item, facts((2,), {"w": 1}, w=W.astype(np.float64))) == [item]
    assert canonical_nodes(item, facts((2,), {"w": 1})) == [item]
    left_out = canonical_nodes(node("Gemm", "x w -", "y"), facts((2,), {"w": 1}, w=W))
    assert list(left_out[0].input) == ["x", "w"]
    pool = node("AveragePool", "x", "y", auto_pad="SAME_UPPER", kernel_shape=[2, 3])
    assert attributes(canonical_nodes(pool, facts((3, 1, 1)))[0])["pads"] == [0, 1, 1, 1]
    partly = facts((3, 5, 5))
    for one in partly.probes:
        one.types["k"], one.shapes["k"] = 1, (2, 3, None, 4)
    conv = node("Conv", "x k", "y", auto_pad="SAME_UPPER")
    assert canonical_nodes(conv, partly) == [conv]


@pytest.mark.parametrize(("allowed", "found"), [(None, [0, 12]), (0, [0, 12]), (1, None)])
def test_zeros_in_a_target_mean_the_size_of_the_input_unless_allowed(allowed: int | None, found: Any) -> None:
    known = facts((3, 4), s=np.array([0, 12]))
    nodes = static_reshape(
        node("Reshape", "x s", "y", **({} if allowed is None else {"allowzero": allowed})), known, None
    )
    assert (nodes and known.constants[nodes[0].input[1]].tolist()) == found


def test_a_sample_that_divides_one_batch_only_opens_none() -> None:
    known = facts((3,), s=np.array([6, 2]))
    known.declared = probe(4, x=(4, 3))
    known.declared.know("s", np.array([6, 2]))
    assert static_reshape(RESHAPE, known, known.declared) is None


@pytest.mark.parametrize(("op", "version"), [("Mish", 18), ("Gelu", 20), ("GroupNormalization", 21),
                                             ("RMSNormalization", 23), ("Swish", 24)])  # fmt: skip
def test_the_first_version_of_newer_operators(op: str, version: int) -> None:
    (found,) = lower_node(node(op, "x", "y"), facts((4,)), version) or ()
    assert (found.op_type, found.domain) == (op, "caffe_fusion")
    if op == "GroupNormalization":
        assert lower_node(node(op, "x s b", "y"), facts((4,)), version - 1) is None, "it had one scale per group"


def test_opset_18_is_the_first_that_is_lowered() -> None:
    item = node("ReduceMax", "x a", "y")
    assert written(lower_node(item, facts((4, 6), a=AXES), 18)) == [("ReduceMax", {"axes": [1, -1], "keepdims": 1})]
    assert lower_node(item, facts((4, 6), a=AXES), 17) == [item]
    assert lower_node(node("Pad", "x p - a", "y"), facts(None, p=AXES, a=AXES[:1]), 18) is None
    assert lower_node(node("Split", "x", "a b", axis=1, num_outputs=2), facts(), 18) is None


def test_what_a_probe_follows() -> None:
    one = probe(x=(2, 3))
    one.know("short", np.arange(1024))
    one.know("long", np.arange(1025))
    assert ("short" in one.values, "long" in one.values, one.shapes["long"]) == (True, False, (1025,))
    assert one.types["short"] == onnx.TensorProto.INT64
    assert one.infer(node("Own", "x", "y", domain="me"), 17, {}), "support refuses it by name"
    assert "y" not in one.shapes
    assert not one.infer(node("Add", "x unknown", "y"), 17, {})
    assert one.infer(node("Clip", "x - x", "c"), 17, {}), "an input is left out"
    assert one.shapes["c"] == (2, 3)
    assert one.infer(node("Resize", "x - short", "y"), 17, {}) is False
    assert one.infer(node("Scaler", "x", "y", offset=[0.0], scale=[1.0], domain="ai.onnx.ml"), 17, {"ai.onnx.ml": 1})
    assert one.types["y"] == onnx.TensorProto.FLOAT
    assert one.infer(node("Mish", "unknown", "z", domain="caffe_fusion"), 17, {})
    assert "z" not in {*one.types, *one.shapes}


def test_a_node_that_is_evaluated() -> None:
    array = np.array([[1, 2], [3, 4]])
    found = evaluate(node("Sub", "a b", "y"), [array, np.array([1, 0])], 17)
    assert found is not None
    assert found[0].tolist() == [[0, 2], [2, 4]]
    assert evaluate(node("Clip", "a - b", "y"), [array, None, np.array(2)], 17)[0].tolist() == [[1, 2], [2, 2]]  # type: ignore[index]
    assert evaluate(node("Sub", "a b", "y", domain="me"), [array, array], 17) is None
    assert evaluate(node("Add", "a b", "y"), [array, np.arange(3)], 17) is None
    assert evaluate(node("Bernoulli", "a", "y"), [np.ones(2, np.float32)], 17) is None
    value = onnx.helper.make_tensor_value_info
    body = onnx.helper.make_graph([node("Neg", "i", "o")], "body", [value("i", 7, [2])], [value("o", 7, [2])])
    assert evaluate(node("Scan", "a", "y", body=body, num_scan_inputs=1), [array], 17) is None
