"""Corners in which converters compute something else, against ONNX Runtime; gradients; old and wide files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from fusion.errors import OnnxError
from fusion.onnx.graphs import normalize_graph, support
from fusion.onnx.graphs.read import from_model
from fusion.onnx.runtime import inference_session
from fusion.onnx.to_torch import OnnxNet

sys.path.insert(0, str(Path(__file__).parents[3] / "fusion" / "onnx" / "graphs"))  # the other room's helper
from graphs import draw, model, node

pytest.importorskip("onnxruntime")
PLACES = ["half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners"]
WINDOW = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [2, 1, 2, 2]}

CASES: dict[str, tuple[list[onnx.NodeProto], dict[str, Any]]] = {
    **{f"nearest, {place}, {way}": ([node("Resize", "x - s", "y", mode="nearest", nearest_mode=way,
                                          coordinate_transformation_mode=place)], {"s": [1.0, 1.0, 1.5, 0.5]})
       for place in PLACES[:3] for way in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")},
    **{f"{mode}, {place}": ([node("Resize", "x - - z", "y", mode=mode, coordinate_transformation_mode=place)],
                            {"z": np.array([2, 3, 13, 1])})
       for mode in ("linear", "cubic") for place in PLACES},
    "cubic of another coefficient": ([node("Resize", "x - s", "y", mode="cubic", cubic_coeff_a=-0.5,
                                           exclude_outside=1)], {"s": [1.0, 1.0, 0.75, 1.7]}),
    "a factor just under one": ([node("Resize", "x - s", "y", mode="linear")], {"s": [1.0, 1.0, 0.7, 0.875]}),
    "clip without lower bound": ([node("Clip", "x - h", "y")], {"h": 0.3}),
    "clip without upper bound": ([node("Clip", "x h", "y")], {"h": 0.3}),
    "average over much padding": ([node("AveragePool", "x", "y", **WINDOW)], {}),
    "average that counts padding": ([node("AveragePool", "x", "y", count_include_pad=1, **WINDOW)], {}),
    "maximum over much padding": ([node("MaxPool", "x", "y", **WINDOW)], {}),
    "slope of the last axis": ([node("PRelu", "x s", "y")], {"s": draw(8)}),
    "new axes from the end": ([node("Unsqueeze", "x a", "y")], {"a": np.array([-1, -2])}),
    "axes of both signs": ([node("ReduceMax", "x a", "y", keepdims=0)], {"a": np.array([1, -1])}),
    "negative axis to flatten": ([node("Flatten", "x", "y", axis=-3)], {}),
    "dense with a matrix": ([node("Flatten", "x", "f"), node("Gemm", "f w m", "y")],
                            {"w": draw(192, 4), "m": draw(2, 4)}),
    "selu of its own": ([node("Selu", "x", "y", alpha=2.0, gamma=3.0)], {}),
    "negative places": ([node("GatherElements", "x i", "y", axis=3)], {"i": np.full((2, 3, 8, 2), -2)}),
    "sequences reversed, the batch first": ([node("ReverseSequence", "x l", "y", batch_axis=0, time_axis=1)],
                                            {"l": np.array([3, 2])}),
    "sequences reversed, the time first": ([node("Transpose", "x", "t", perm=[3, 0, 1, 2]),
                                            node("ReverseSequence", "t l", "y")], {"l": np.array([1, 5])}),
    "determinants": ([node("Det", "x", "y")], {}),
    "norm of a map": ([node("GlobalLpPool", "x", "y", p=3)], {}),
    "sums from one end": ([node("CumSum", "x a", "y", reverse=1)], {"a": np.array(-1)}),
    "sums of those before": ([node("CumSum", "x a", "y", exclusive=1)], {"a": np.array(2)}),
    "upper triangle": ([node("Trilu", "x k", "y")], {"k": np.array(-2)}),
    "lower triangle": ([node("Trilu", "x k", "y", upper=0)], {"k": np.array(3)}),
    **{f"scatter elements, {way}": ([node("ScatterElements", "x i u", "y", axis=-1, reduction=way)],
                                    {"i": np.array([0, -1, 0, 3] * 12).reshape(2, 3, 2, 4), "u": draw(2, 3, 2, 4)})
       for way in ("add", "mul", "max", "min")},
    **{f"scatter slices, {way}": ([node("ScatterND", "x i u", "y", reduction=way)],
                                  {"i": np.array([[0, 1], [1, -1], [0, 1]]), "u": draw(3, 8, 8)})
       for way in ("add", "mul", "max", "min")},
    "places of a constant": ([node("NonZero", "k", "n"), node("Transpose", "n", "p", perm=[1, 0]),
                              node("Squeeze", "p o", "i"), node("Gather", "x i", "y", axis=2)],
                             {"k": [0.0, 1.0, 0.0, -2.0, 0.5, 0.0], "o": np.array([1])}),
    "uneven pads": ([node("ConvTranspose", "x w", "y", pads=[0, 1, 2, 0], strides=[2, 2])], {"w": draw(3, 2, 3, 3)}),
}  # fmt: skip


ATTENTION: dict[str, tuple[dict[str, Any], np.ndarray[Any, Any] | None]] = {
    "without mask": ({}, None),
    "causal": ({"is_causal": 1}, None),
    "added": ({}, draw(8, 8)),
    "added per head": ({"scale": 0.3, "softcap": 2.0}, draw(3, 8, 8)),
    "of truth values": ({}, np.tril(np.ones((8, 8), bool))),
    "of truth values per sample": ({}, draw(2, 1, 8, 8) > -0.5),
}


def expected(file: onnx.ModelProto, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    found: np.ndarray[Any, Any] = inference_session(file.SerializeToString()).run(None, {file.graph.input[0].name: x})[
        0
    ]
    return found


def defined(file: onnx.ModelProto, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """As ONNX's own reference has it, for what its runtime does not run."""
    found: np.ndarray[Any, Any] = ReferenceEvaluator(file).run(None, {file.graph.input[0].name: x})[0]
    return found


def check(file: onnx.ModelProto, x: np.ndarray[Any, Any]) -> None:
    module = OnnxNet(normalize_graph(from_model(file)), frozen=True)
    wanted = expected(file, x)
    found = module(torch.from_numpy(x)).numpy()
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= 1e-5 * max(1.0, np.abs(wanted).max())


@pytest.mark.parametrize("name", CASES)
def test_a_corner(name: str) -> None:
    nodes, constants = CASES[name]
    check(model(nodes, constants, shape=(2, 3, 8, 8)), draw(2, 3, 8, 8))


@pytest.mark.parametrize("name", CASES)
def test_its_gradient(name: str) -> None:
    nodes, constants = CASES[name]
    module = OnnxNet(normalize_graph(from_model(model(nodes, constants, shape=(2, 3, 8, 8)))), frozen=True)
    x = torch.from_numpy(draw(2, 3, 8, 8, seed=1)).requires_grad_()
    step = torch.from_numpy(draw(2, 3, 8, 8, seed=2)) * 1e-3
    weights = torch.from_numpy(draw(*module(x).shape, seed=3)).double()
    slope = torch.autograd.grad((module(x) * weights).sum(), x)[0]
    with torch.no_grad():
        ends = [float((module(x + sign * step) * weights).sum()) for sign in (1, -1)]
    assert float((slope * step).sum()) == pytest.approx((ends[0] - ends[1]) / 2, rel=0.02, abs=2e-4)
    assert slope.abs().sum() > 0


@pytest.mark.parametrize("opset", [23, 24])
@pytest.mark.parametrize("name", ATTENTION)
def test_attention(name: str, opset: int) -> None:
    values, mask = ATTENTION[name]
    inputs = "x x x" if mask is None else "x x x m"
    file = model([node("Attention", inputs, "y", **values)], shape=(2, 3, 8, 8), opset=opset)
    if mask is not None:
        file.graph.initializer.append(numpy_helper.from_array(mask, "m"))
    check(file, draw(2, 3, 8, 8))


@pytest.mark.parametrize("op", ["Upsample", "Resize"])
@pytest.mark.parametrize("mode", ["linear", "nearest"])
def test_old_files_place_elements_asymmetrically(op: str, mode: str) -> None:
    scales = [1.0, 1.0, 2.0, 2.0] if mode == "linear" else [1.0, 1.0, 1.5, 2.0]
    file = model([node(op, "x s", "y", mode=mode)], {"s": scales}, opset=9 if op == "Upsample" else 10)
    check(file, draw(2, 3, 8, 8))


@pytest.mark.parametrize("listed", [True, False])
def test_initializers_of_version_3(listed: bool) -> None:
    file = model([node("Conv", "x w", "y")], {"w": draw(2, 3, 1, 1)}, opset=8)
    file.ir_version = 3
    if listed:
        file.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [2, 3, 1, 1]))
    graph = normalize_graph(from_model(file))
    assert list(graph.inputs) == ["x"]
    assert graph.opset == 17
    check(file, draw(2, 3, 8, 8))


@pytest.mark.parametrize(
    ("kind", "dtype", "near"), [(TensorProto.DOUBLE, "f8", 1e-6), (TensorProto.FLOAT16, "f2", 2e-3)]
)
def test_other_precisions_are_computed_in_float32(kind: int, dtype: str, near: float) -> None:
    file = model([node("Conv", "x w", "c"), node("Cast", "c", "h", to=kind), node("Relu", "h", "y")],
                 {"w": draw(4, 3, 3, 3)})  # fmt: skip
    file.graph.initializer[0].CopyFrom(numpy_helper.from_array(draw(4, 3, 3, 3).astype(dtype), "w"))
    for value in (*file.graph.input, *file.graph.output):
        value.type.tensor_type.elem_type = kind
    graph = normalize_graph(from_model(file))
    assert any("are computed in float32" in note for note in graph.notes)
    module = OnnxNet(graph)
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
    x = draw(2, 3, 8, 8)
    found = module(torch.from_numpy(x)).detach().numpy()
    assert np.abs(found - defined(file, x.astype(dtype))).max() <= near * np.abs(found).max()
    assert (module(torch.from_numpy(x.astype(dtype))).detach().numpy() == found).all() or dtype == "f2"


def test_casts_to_half_round() -> None:
    file = model([node("Cast", "x", "h", to=TensorProto.FLOAT16), node("Cast", "h", "y", to=TensorProto.FLOAT)])
    module = OnnxNet(normalize_graph(from_model(file)), frozen=True)
    x = draw(2, 3, 8, 8) * 1e5
    assert (module(torch.from_numpy(x)).numpy() == expected(file, x)).all()


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ([node("Dropout", "x r t", "y", seed=1)], "its random numbers are given"),
        ([node("Add", "x m", "y")], "do not fit each other"),
        ([node("LRN", "x", "y", size=2)], "an even size"),
        ([node("GatherElements", "x x", "y")], "an input of type float"),
    ],
)  # fmt: skip
def test_what_would_fail_later_is_refused(nodes: list[onnx.NodeProto], reason: str) -> None:
    file = model(nodes, {"r": 0.5, "m": draw(5)})
    file.graph.initializer.append(numpy_helper.from_array(np.array(True), "t"))
    found = support(normalize_graph(from_model(file))).unsupported
    assert [any(reason in text for text in row.reasons) for row in found] == [True]


def test_inputs_that_differ_in_their_first_axis_stay_as_they_are() -> None:
    file = model([node("Gemm", "x w", "y", transA=1)], shape=(6, 3))
    file.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [6, 5]))
    file.graph.input[1].type.tensor_type.shape.dim[0].dim_value = 6
    check_pair(file, draw(6, 3), draw(6, 5))
    other = model([node("MatMul", "x w", "y")], shape=(4, 3))
    other.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [3, 5]))
    assert normalize_graph(from_model(other)).batch == 4
    check_pair(other, draw(4, 3), draw(3, 5))


def check_pair(file: onnx.ModelProto, x: np.ndarray[Any, Any], w: np.ndarray[Any, Any]) -> None:
    found = OnnxNet(normalize_graph(from_model(file)), frozen=True)(torch.from_numpy(x), torch.from_numpy(w)).numpy()
    (wanted,) = inference_session(file.SerializeToString()).run(None, {"x": x, "w": w})
    assert np.abs(found - wanted).max() <= 1e-5


def calls(name: str, *called: str) -> onnx.FunctionProto:
    nodes = [node(callee, "a", "b", domain="own") for callee in called] or [node("Relu", "a", "b")]
    for index, part in enumerate(nodes[:-1]):
        part.output[0] = nodes[index + 1].input[0] = f"v{index}"
    return helper.make_function("own", name, ["a"], ["b"], nodes, [helper.make_opsetid("", 20)])


@pytest.mark.parametrize(
    ("functions", "reason"),
    [
        ([calls("f", "f")], "its function 'f' calls itself"),
        ([calls("f", "g"), calls("g", "f")], "calls itself"),
        ([*(calls("f" if n == 40 else f"g{n}", f"g{n - 1}", f"g{n - 1}") for n in range(1, 41)), calls("g0")],
         "nodes; 262,144 are read at most"),
    ],
)  # fmt: skip
def test_functions_without_end(functions: list[onnx.FunctionProto], reason: str) -> None:
    file = model([node("f", "x", "y", domain="own")])
    file.functions.extend(functions)
    with pytest.raises(OnnxError, match=reason):
        from_model(file)


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ([node("Add", "x b", "a"), node("Relu", "a", "b"), node("Relu", "b", "y")], "depends on its own output"),
        ([node("Add", "x y", "y")], "depends on its own output"),
        ([node("Add", "x q", "y")], "reads 'q', which no node computes"),
        ([node("Relu", "x", "z")], "no node computes its output 'y'"),
        ([node("Relu", "x", "y"), node("Tanh", "x", "y")], "two nodes or tensors are called 'y'"),
        ([node("DepthToSpace", "x", "y")], "does not follow ONNX.s specification"),
    ],
)  # fmt: skip
def test_graphs_that_are_none(nodes: list[onnx.NodeProto], reason: str) -> None:
    with pytest.raises(OnnxError, match=reason):
        normalize_graph(from_model(model(nodes)))


def test_an_output_without_a_name() -> None:
    with pytest.raises(OnnxError, match=r"no node computes its output ''"):
        from_model(model([node("Relu", "x", "y")], outputs=("y", "")))


@pytest.mark.parametrize("opset", [9, 20])
def test_a_tensor_of_another_size(opset: int) -> None:
    file = model([node("Conv", "x w", "y")], {"w": draw(2, 3, 1, 1)}, opset=opset)
    file.graph.initializer[0].dims[0] = 1 << 40
    with pytest.raises(OnnxError, match="tensor 'w' of shape"):
        from_model(file)


@pytest.mark.parametrize("what", ["of a node", "of the graph", "of a domain"])
def test_a_name_that_is_no_text(what: str) -> None:
    file = model([node("Relu", "x", "y", name="right" if what == "of a node" else "r")])
    file.graph.name = "right" if what == "of the graph" else "net"
    file.opset_import.add(domain="right" if what == "of a domain" else "own", version=1)
    content = file.SerializeToString().replace(b"right", b"\xee\xa4\xff\x80z")
    with pytest.raises(OnnxError, match="is not in UTF-8"):
        from_model(onnx.ModelProto.FromString(content))
