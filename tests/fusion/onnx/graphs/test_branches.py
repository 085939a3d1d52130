"""If with a condition that is known before the graph runs: its branch takes its place."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from graphs import draw, model, node
from onnx import TensorProto, helper, numpy_helper

from fusion.errors import OnnxError
from fusion.onnx.graphs import graph_weights, normalize_graph, support
from fusion.onnx.graphs.read import from_model
from fusion.onnx.runtime import inference_session
from fusion.onnx.to_torch import OnnxNet

pytest.importorskip("onnxruntime")


def branch(nodes: list[onnx.NodeProto], output: str, **arrays: np.ndarray[Any, Any]) -> onnx.GraphProto:
    constants = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    return helper.make_graph(nodes, "branch", [], [helper.make_tensor_value_info(output, 1, None)], constants)


def choice(condition: str, then: onnx.GraphProto, other: onnx.GraphProto, output: str = "y") -> onnx.NodeProto:
    return helper.make_node("If", [condition], [output], then_branch=then, else_branch=other)


def axis_is_one(axis: int) -> list[onnx.NodeProto]:
    """As scripted modules ask for it; the answer is `c`."""
    return [node("Shape", "x", "s"), node("Gather", f"s a{axis}", "g"), node("Equal", "g one", "c")]


SIZES = {"a0": np.array(0), "a1": np.array(1), "one": np.array(1)}
PLAIN = branch([node("Relu", "x", "r")], "r")
REDUCED = branch([node("ReduceMax", "x ax", "q", keepdims=0)], "q", ax=np.array([1]))


def check(file: onnx.ModelProto, x: np.ndarray[Any, Any]) -> OnnxNet:
    net = OnnxNet(normalize_graph(from_model(file)))
    found = net(torch.from_numpy(x))
    (expected,) = inference_session(file.SerializeToString()).run(None, {"x": x})
    assert isinstance(found, torch.Tensor)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-5, atol=1e-6)
    return net


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("batch", ["N", 1])
def test_a_branch_is_chosen_by_a_size(channels: int, batch: int | str) -> None:
    file = model([*axis_is_one(1), choice("c", REDUCED, PLAIN)], SIZES, shape=(batch, channels, 4, 5))
    assert normalize_graph(from_model(file)).batch is None
    check(file, draw(3 if batch == "N" else 1, channels, 4, 5))


@pytest.mark.parametrize("condition", [True, False])
def test_weights_of_both_kinds_in_a_branch(condition: bool) -> None:
    """Those of the branch, and those of the graph that it reads, also where another node reads them as they are."""
    inside = branch([node("Gemm", "f w b", "m", alpha=0.5)], "m", b=draw(4))
    other = branch([node("Neg", "f", "m")], "m")
    nodes = [node("Flatten", "x", "f"), choice("t", inside, other, "z"), node("ReduceSum", "z a", "s"),
             node("MatMul", "f w", "p"), node("Add", "s p", "y")]  # fmt: skip
    file = model(nodes, {"w": draw(6, 4), "a": np.array([1])}, shape=("N", 6))
    file.graph.initializer.append(numpy_helper.from_array(np.array(condition), "t"))
    net = check(file, draw(2, 6))
    assert sum(parameter.numel() for parameter in net.parameters()) == (24 + 24 + 4 if condition else 24)


def test_branches_within_branches_and_names_that_occur_twice() -> None:
    inner = choice("c", REDUCED, branch([node("Tanh", "v", "q")], "q"), "i")
    outer = branch([node("Exp", "x", "v"), inner], "i")
    other = branch([node("Sin", "x", "v"), node("Cos", "v", "q")], "q")
    nodes = [*axis_is_one(1), node("Not", "c", "d"), choice("d", outer, PLAIN, "u"), choice("c", PLAIN, other, "w"),
             node("Add", "u w", "y")]  # fmt: skip
    check(model(nodes, SIZES, shape=("N", 3, 4, 5)), draw(2, 3, 4, 5))


def test_a_value_that_only_a_branch_reads() -> None:
    nodes = [*axis_is_one(1), node("Exp", "x", "e"), choice("c", PLAIN, branch([node("Identity", "e", "q")], "q"))]
    check(model(nodes, SIZES, shape=("N", 3, 2, 2)), draw(2, 3, 2, 2))


def test_a_branch_by_the_batch() -> None:
    nodes = [*axis_is_one(0), choice("c", PLAIN, branch([node("Neg", "x", "q")], "q"))]
    with pytest.raises(OnnxError, match=r"node 'y' \(If\) takes another branch for some batches than"):
        normalize_graph(from_model(model(nodes, SIZES, shape=("N", 3, 2, 2))))
    for batch in (1, 4):
        file = model(nodes, SIZES, shape=(batch, 3, 2, 2))
        graph = normalize_graph(from_model(file))
        assert graph.batch == batch
        check(file, draw(batch, 3, 2, 2))


def test_a_branch_by_a_value_is_refused() -> None:
    nodes = [node("ReduceMax", "x", "m", keepdims=0), node("Greater", "m h", "c"), choice("c", PLAIN, PLAIN)]
    (row,) = support(normalize_graph(from_model(model(nodes, {"h": 0.5})))).unsupported
    assert row.reasons[0] == "its branches are graphs of their own, chosen at run time"


def test_the_branch_of_a_constant_keeps_its_names() -> None:
    inside = branch([node("Conv", "x k", "v"), node("Relu", "v", "q")], "q", k=draw(2, 3, 1, 1))
    file = model([choice("t", inside, PLAIN)])
    file.graph.initializer.append(numpy_helper.from_array(np.array([True]), "t"))
    graph = normalize_graph(from_model(file))
    assert list(graph_weights(graph)) == ["k"]
    assert [made.output[0] for made in graph.nodes] == ["v", "q"]
    assert graph.types["q"] == TensorProto.FLOAT
