"""GridSample and AffineGrid against ONNX Runtime, also halfway between elements, and their gradients."""

from __future__ import annotations

import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from fusion.onnx.graphs import normalize_graph, support
from fusion.onnx.graphs.read import from_model
from fusion.onnx.runtime import inference_session
from fusion.onnx.to_torch import OnnxNet
from fusion.onnx.to_torch.runtime_program import RuntimeProgram

sys.path.insert(0, str(Path(__file__).parents[3] / "fusion" / "onnx" / "graphs"))  # the other room's helper
from graphs import draw, model, node

pytest.importorskip("onnxruntime")
NEWER = {"bilinear": "linear", "bicubic": "cubic", "nearest": "nearest"}
MODES = list(product(NEWER, ("zeros", "border", "reflection"), (0, 1)))


def file(mode: str, padding: str, corners: int, *, opset: int, size: tuple[int, int] = (6, 7)) -> onnx.ModelProto:
    """A file of x and the places g."""
    values = {"mode": mode if opset < 20 else NEWER[mode], "padding_mode": padding, "align_corners": corners}
    found = model([node("GridSample", "x g", "y", **values)], shape=("N", 3, *size), opset=opset)
    found.graph.input.append(onnx.helper.make_tensor_value_info("g", onnx.TensorProto.FLOAT, ["N", 9, 8, 2]))
    return found


def places(corners: int, size: tuple[int, int], *, halves: bool) -> np.ndarray[Any, Any]:
    """Places on and around the map: at random, or on elements and halfway between them."""
    if not halves:
        return draw(2, 9, 8, 2)
    number = np.random.default_rng(0).integers(-20, 20, (2, 9, 8, 2)) * 0.5
    length = np.array(size[::-1])
    found = 2 * number / np.maximum(length - 1, 1) - 1 if corners else (2 * number + 1) / length - 1
    return found.astype(np.float32)


@pytest.mark.parametrize("size", [(6, 7), (4, 4), (1, 5)])
@pytest.mark.parametrize("halves", [False, True])
@pytest.mark.parametrize("opset", [16, 22])
@pytest.mark.parametrize(("mode", "padding", "corners"), MODES)
def test_values(mode: str, padding: str, corners: int, opset: int, halves: bool, size: tuple[int, int]) -> None:
    made, x, g = (
        file(mode, padding, corners, opset=opset, size=size),
        draw(2, 3, *size),
        places(corners, size, halves=halves),
    )
    found = OnnxNet(normalize_graph(from_model(made)))(torch.from_numpy(x), torch.from_numpy(g))
    (expected,) = inference_session(made.SerializeToString()).run(None, {"x": x, "g": g})
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-5)  # type: ignore[union-attr]


@pytest.mark.parametrize(("mode", "padding", "corners"), MODES)
def test_gradients_of_the_map_and_the_places(mode: str, padding: str, corners: int) -> None:
    net = OnnxNet(normalize_graph(from_model(file(mode, padding, corners, opset=16))))
    given = [torch.from_numpy(array).requires_grad_() for array in (draw(2, 3, 6, 7), draw(2, 9, 8, 2) * 0.3)]
    factor = torch.from_numpy(draw(2, 3, 9, 8, seed=3)).double()
    slopes = torch.autograd.grad((net(*given) * factor).sum(), given)
    assert slopes[0].abs().sum() > 0
    assert bool(slopes[1].abs().sum() > 0) == (mode != "nearest")
    for index, slope in enumerate(slopes):
        step = torch.from_numpy(draw(*slope.shape, seed=4)) * 1e-4
        ends = []
        for sign in (1, -1):
            moved = [x + sign * step if at == index else x for at, x in enumerate(given)]
            ends.append(float((net(*moved) * factor).sum().detach()))
        assert float((slope * step).sum()) == pytest.approx((ends[0] - ends[1]) / 2, rel=0.05, abs=2e-4)


def test_volumes_are_refused() -> None:
    made = model([node("GridSample", "x g", "y")], {"g": draw(2, 3, 3, 3, 3)}, shape=(2, 3, 4, 4, 4), opset=20)
    (row,) = support(normalize_graph(from_model(made))).unsupported
    assert "an input of 5 axes" in row.reasons


def test_places_for_one_image_keep_the_batch() -> None:
    made = model([node("GridSample", "x g", "y")], {"g": draw(1, 9, 8, 2)}, shape=(1, 3, 6, 7))
    graph, x = normalize_graph(from_model(made)), draw(2, 3, 6, 7)
    assert graph.batch == 1
    expected = [inference_session(made.SerializeToString()).run(None, {"x": row[None]})[0] for row in x]
    np.testing.assert_allclose(
        OnnxNet(graph)(torch.from_numpy(x)).numpy(), np.concatenate(expected), rtol=1e-5, atol=1e-5
    )


def turned(corners: int, batch: int | str, size: tuple[int, int] = (5, 6)) -> onnx.ModelProto:
    """Maps moved by matrices that are computed from them, as in a spatial transformer by torch's exporter."""
    constants = {"w": draw(6, 3 * size[0] * size[1]) * 0.1, "b": [1.0, 0, 0, 0, 1, 0], "t": np.array([-1, 2, 3]),
                 "s": np.array([batch, 3, *size]) if batch != "N" else np.array([0])}  # fmt: skip
    nodes = [node("Flatten", "x", "f"), node("Gemm", "f w b", "m", transB=1), node("Reshape", "m t", "theta"),
             node("Shape", "x", "shape"), node("AffineGrid", f"theta {'shape' if batch == 'N' else 's'}", "g",
                                               align_corners=corners),
             node("GridSample", "x g", "y", align_corners=corners)]  # fmt: skip
    return model(nodes, constants, shape=(batch, 3, *size), opset=20)


@pytest.mark.parametrize("batch", ["N", 1])
@pytest.mark.parametrize("corners", [0, 1])
def test_maps_moved_by_matrices(corners: int, batch: int | str) -> None:
    made, x = turned(corners, batch), draw(3, 3, 5, 6)
    graph = normalize_graph(from_model(made))
    assert graph.batch is None
    expected = np.concatenate([inference_session(made.SerializeToString()).run(None, {"x": row[None]})[0] for row in x])
    net = OnnxNet(graph)
    assert len(list(net.parameters())) == 2
    for found in (net(torch.from_numpy(x)), RuntimeProgram(graph)(torch.from_numpy(x))):
        np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-5, atol=1e-5)  # type: ignore[union-attr]


def test_matrices_of_maps_of_one_row_are_refused_where_torch_differs() -> None:
    assert support(normalize_graph(from_model(turned(1, 1, size=(1, 6))))).unsupported
    assert not support(normalize_graph(from_model(turned(0, 1, size=(1, 6))))).unsupported
