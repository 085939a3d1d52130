"""Files with channels last whose images are scaled before the Transpose to channels first."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from graphs import draw, model, node
from onnx.reference import ReferenceEvaluator

from fusion.onnx.graphs import cut, normalize_graph
from fusion.onnx.graphs.cut import image_entries
from fusion.onnx.graphs.read import from_model
from fusion.onnx.to_torch import OnnxNet

TURNED = node("Transpose", "c", "t", perm=[0, 3, 1, 2])
X = draw(2, 5, 4, 3)


def scaled(*last: onnx.NodeProto, outputs: tuple[str, ...] = ("y",), **constants: Any) -> onnx.ModelProto:
    """Images of 5x4, [N, H, W, C]: (x * s - m) clipped from below, then nodes that read `c`."""
    nodes = [node("Mul", "x s", "a"), node("Sub", "m a", "b"), node("Max", "b k", "c"), *last]
    known = {"s": np.array(0.5), "m": draw(1, 1, 3), "k": draw(5, 4, 3) - 1, "w": draw(6, 3, 3, 3), **constants}
    return model(nodes, known, shape=("N", 5, 4, 3), outputs=outputs)


@pytest.mark.parametrize("change", [{}, {"m": draw(3)}, {"s": draw(1, 5, 4, 1)}, {"k": np.array([[[[-0.2]]]])}])
def test_the_transpose_comes_first_and_values_stay(change: dict[str, Any]) -> None:
    made = scaled(TURNED, node("Conv", "t w", "y"), **change)
    (expected,) = ReferenceEvaluator(made).run(None, {"x": X})
    graph = normalize_graph(from_model(made))
    assert [one.op_type for one in graph.nodes] == ["Transpose", "Mul", "Sub", "Max", "Conv"]
    entry = image_entries(graph)["x"]
    assert graph.shapes[entry] == (None, 3, 5, 4)
    assert graph.shapes["t"] == (None, 3, 5, 4)
    found = OnnxNet(graph)(torch.from_numpy(X))
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-5, atol=1e-6)
    rest = cut(graph, ["y"], [entry])
    images = torch.from_numpy(X.transpose(0, 3, 1, 2).copy())
    found = OnnxNet(rest)(images)
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("made", "kinds"),
    [
        (scaled(node("Transpose", "c", "y", perm=[0, 2, 1, 3])), ["Mul", "Sub", "Max", "Transpose"]),
        (scaled(TURNED, node("Relu", "t", "y"), node("Neg", "b", "z"), outputs=("y", "z")), None),
        (scaled(TURNED, node("Relu", "t", "y"), outputs=("y", "a")), None),
        (scaled(node("Softmax", "c", "d"), node("Transpose", "d", "y", perm=[0, 3, 1, 2])), None),
        (scaled(node("Add", "c x", "d"), node("Transpose", "d", "y", perm=[0, 3, 1, 2])), None),
        (scaled(node("Relu", "c", "y")), None),
    ],
)
def test_other_files_stay(made: onnx.ModelProto, kinds: list[str] | None) -> None:
    graph = normalize_graph(from_model(made))
    assert image_entries(graph) == {"x": "x"}
    assert [one.op_type for one in graph.nodes] == (kinds or [one.op_type for one in made.graph.node])
