"""QuantizeLinear and DequantizeLinear against ONNX Runtime: as fake quantization with gradients, and of weights."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from fusion.onnx.graphs import classifier_input, graph_weights, normalize_graph, support
from fusion.onnx.graphs.read import from_model
from fusion.onnx.runtime import inference_session
from fusion.onnx.to_torch import OnnxNet
from fusion.onnx.to_torch.runtime_program import RuntimeProgram

sys.path.insert(0, str(Path(__file__).parents[3] / "fusion" / "onnx" / "graphs"))  # the other room's helper
from graphs import draw, model, node

pytest.importorskip("onnxruntime")
X = draw(2, 3, 8, 8) * 2


def quantized(
    nodes: list[onnx.NodeProto], arrays: dict[str, Any], *, opset: int = 20, out: int = onnx.TensorProto.FLOAT
) -> onnx.ModelProto:
    """A file of x, `nodes` and y; arrays keep their types."""
    file = model(nodes, {}, opset=opset)
    file.graph.output[0].type.tensor_type.elem_type = out
    file.graph.initializer.extend(numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items())
    return file


def expected(file: onnx.ModelProto, x: np.ndarray[Any, Any] = X) -> np.ndarray[Any, Any]:
    found: np.ndarray[Any, Any] = inference_session(file.SerializeToString()).run(None, {"x": x})[0]
    return found


def settings(kind: type, axis: int | None) -> dict[str, np.ndarray[Any, Any]]:
    """A scale and zero point, or one per index of an axis, with which some elements leave the range."""
    count = () if axis is None else (X.shape[axis],)
    scale = (0.01 + np.abs(draw(*count, seed=5)) * 0.02).astype(np.float32)
    zero = np.resize(np.array([3, -7, 0] if kind is np.int8 else [120, 9, 131]), count or 1).reshape(count).astype(kind)
    return {"s": scale, "z": zero}


@pytest.mark.parametrize("opset", [13, 20, 23])
@pytest.mark.parametrize("axis", [None, 1, -1])
@pytest.mark.parametrize("kind", [np.int8, np.uint8])
def test_values(kind: type, axis: int | None, opset: int) -> None:
    arrays = settings(kind, axis)
    values = {} if axis is None else {"axis": axis}
    both = [node("QuantizeLinear", "x s z", "q", **values), node("DequantizeLinear", "q s z", "y", **values)]
    file = quantized(both, arrays, opset=opset)
    graph = normalize_graph(from_model(file))
    assert [made.op_type for made in graph.nodes] == ["FakeQuantize"]
    assert not graph_weights(graph)
    assert (OnnxNet(graph)(torch.from_numpy(X)).numpy() == expected(file)).all()
    assert (RuntimeProgram(graph)(torch.from_numpy(X)).numpy() == expected(file)).all()  # type: ignore[union-attr]
    number = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    first = quantized([node("QuantizeLinear", "x s z", "y", **values)], arrays, opset=opset, out=number)
    found = OnnxNet(normalize_graph(from_model(first)))(torch.from_numpy(X)).numpy()
    assert found.dtype == kind
    assert (found == expected(first)).all()
    assert {found.min(), found.max()} & {np.iinfo(kind).min, np.iinfo(kind).max}


def test_halves_are_rounded_to_even_numbers_and_uint8_is_the_default() -> None:
    x = np.array([[-0.5, 0.5, 1.5, 2.5, 254.5, 255.5, 300.0]], np.float32)
    file = quantized([node("QuantizeLinear", "x s", "y")], {"s": np.float32(1)}, out=onnx.TensorProto.UINT8)
    file.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 7]))
    found = OnnxNet(normalize_graph(from_model(file)))(torch.from_numpy(x)).numpy()
    assert found.dtype == np.uint8
    assert found.tolist() == expected(file, x).tolist() == [[0, 0, 2, 2, 254, 255, 255]]


def test_the_gradient_passes_within_the_range() -> None:
    both = [node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z", "y")]
    file = quantized(both, {"s": np.float32(0.01), "z": np.int8(20)})
    x = torch.tensor([[-1.49, -1.47, 0.0, 1.07, 1.09]], requires_grad=True)  # the range is -1.48 to 1.07
    net = OnnxNet(normalize_graph(from_model(file)))
    net(x).backward(torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]]))
    assert x.grad is not None
    assert x.grad.tolist() == [[0, 2, 3, 4, 0]]


def net_file(*, stored: bool, opset: int = 17) -> onnx.ModelProto:
    """Conv and Gemm between quantizations; `stored`: weights of whole numbers, as of finished nets, or float ones."""
    arrays = {"xs": np.float32(0.05), "xz": np.uint8(128), "ws": np.abs(draw(4)) * 0.02 + 0.01,
              "wz": np.zeros(4, np.int8), "ks": np.float32(0.02), "kz": np.int8(-3), "b": draw(4),
              "i": np.array([5, -9, 300], np.int32),
              "is": np.float32(0.001)}  # fmt: skip
    nodes = [node("QuantizeLinear", "x xs xz", "xq"), node("DequantizeLinear", "xq xs xz", "xd")]
    for name, shape, axis in (("w", (4, 3, 3, 3), {"axis": 0}), ("k", (3, 4), {})):
        if stored:
            arrays[f"{name}q"] = np.clip(draw(*shape) * 60, -128, 127).astype(np.int8)
        else:
            arrays[name] = draw(*shape)
            nodes.append(node("QuantizeLinear", f"{name} {name}s {name}z", f"{name}q", **axis))
        nodes.append(node("DequantizeLinear", f"{name}q {name}s {name}z", f"{name}d", **axis))
    nodes += [node("Conv", "xd wd b", "c"), node("QuantizeLinear", "c xs xz", "cq"),
              node("DequantizeLinear", "cq xs xz", "cd"), node("GlobalAveragePool", "cd", "g"),
              node("Flatten", "g", "f"), node("DequantizeLinear", "i is", "id"),
              node("Gemm", "f kd id", "y", transB=1)]  # fmt: skip
    return quantized(nodes, arrays, opset=opset)


@pytest.mark.parametrize("opset", [13, 17, 21])
@pytest.mark.parametrize("stored", [True, False])
def test_a_quantized_net_equals_the_file_and_its_weights_learn(stored: bool, opset: int) -> None:
    file = net_file(stored=stored, opset=opset)
    graph = normalize_graph(from_model(file))
    assert support(graph).unsupported == ()
    assert len(graph_weights(graph)) == 4
    assert "quantized weights are read as the float32 numbers that they stand for" in graph.notes
    assert classifier_input(graph) == "f"
    net = OnnxNet(graph)
    found = net(torch.from_numpy(X))
    np.testing.assert_allclose(found.detach().numpy(), expected(file), rtol=1e-5, atol=1e-5)  # type: ignore[union-attr]
    (found * torch.from_numpy(draw(2, 3, seed=1))).sum().backward()  # type: ignore[operator]
    assert len(list(net.parameters())) == 4
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in net.parameters())


def test_weights_of_whole_numbers_have_the_values_of_the_runtime() -> None:
    file = net_file(stored=True)
    file.graph.output.extend(onnx.ValueInfoProto(name=name) for name in ("wd", "kd", "id"))
    (_, *wanted) = inference_session(file.SerializeToString()).run(None, {"x": X})
    weights = graph_weights(normalize_graph(from_model(net_file(stored=True))))
    for name, array in zip(("wd", "kd", "id"), wanted, strict=True):
        assert np.array_equal(weights[name], array)


@pytest.mark.parametrize("values", [{}, {"axis": 1}])
def test_equal_settings_under_two_names_are_joined(values: dict[str, int]) -> None:
    """Also where the axis is not given: it is that of the channels."""
    nodes = [node("QuantizeLinear", "x s z", "q", **values), node("DequantizeLinear", "q t u", "y", **values)]
    arrays = settings(np.uint8, 1)
    file = quantized(nodes, {**arrays, "t": arrays["s"], "u": arrays["z"]})
    graph = normalize_graph(from_model(file))
    assert [made.op_type for made in graph.nodes] == ["FakeQuantize"]
    assert (OnnxNet(graph)(torch.from_numpy(X)).numpy() == expected(file)).all()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "other", [{"t": np.float32(0.03), "u": np.uint8(11)}, {"t": np.float32(0.02), "u": np.uint8(10)}]
)
def test_pairs_that_differ_in_one_setting_are_not_joined(other: dict[str, Any]) -> None:
    nodes = [node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q t u", "y")]
    file = quantized(nodes, {"s": np.float32(0.03), "z": np.uint8(10), **other})
    graph = normalize_graph(from_model(file))
    assert len(graph.nodes) == 2
    assert (OnnxNet(graph)(torch.from_numpy(X)).numpy() == expected(file)).all()  # type: ignore[union-attr]


def test_different_settings_are_not_joined() -> None:
    nodes = [node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q t z", "y")]
    file = quantized(nodes, {"s": np.float32(0.03), "t": np.float32(0.05), "z": np.uint8(10)})
    graph = normalize_graph(from_model(file))
    assert [made.op_type for made in graph.nodes] == ["QuantizeLinear", "DequantizeLinear"]
    assert (OnnxNet(graph)(torch.from_numpy(X)).numpy() == expected(file)).all()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("nodes", "arrays", "reason"),
    [
        ([node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z", "y")],
         {"s": np.float32(1), "z": np.int16(0)}, "its inputs do not fit each other"),
        ([node("QuantizeLinear", "x s z", "q", block_size=2), node("DequantizeLinear", "q s z", "y", block_size=2)],
         {"s": np.ones((2, 3, 4, 8), np.float32), "z": np.zeros((2, 3, 4, 8), np.int8)}, "no form in opset 17"),
        ([node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z", "y")],
         {"s": np.ones(4, np.float32), "z": np.zeros(4, np.int8)}, "not as many as its input has on their axis"),
        ([node("QuantizeLinear", "x s z", "q", axis=4), node("DequantizeLinear", "q s z", "y", axis=4)],
         {"s": np.ones(3, np.float32), "z": np.zeros(3, np.int8)}, "not as many as its input has on their axis"),
    ],
)  # fmt: skip
def test_what_is_refused(nodes: list[onnx.NodeProto], arrays: dict[str, Any], reason: str) -> None:
    found = support(normalize_graph(from_model(quantized(nodes, arrays, opset=21)))).unsupported
    assert any(reason in text for row in found for text in row.reasons), found
