"""Operator by operator against ONNX Runtime: what the list of known operators promises, it keeps."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from fusion.onnx.graphs import normalize_graph
from fusion.onnx.graphs.read import from_model
from fusion.onnx.to_torch import OnnxNet

sys.path.insert(0, str(Path(__file__).parents[3] / "fusion" / "onnx" / "graphs"))  # the other room's helper
from graphs import draw, model, node

ort = pytest.importorskip("onnxruntime")
_UNARY = """
Abs Atan Ceil Celu Cos Elu Erf Exp Floor HardSigmoid HardSwish LeakyRelu LogSoftmax Neg Reciprocal Relu Round
Selu Sigmoid Sign Sin Softmax Softplus Softsign Tan Tanh
"""
UNARY = _UNARY.split()
REDUCED = [f"Reduce{name}" for name in ("L1", "L2", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")]
AXES = {"a": np.array([1, 3])}
FLAGS = [node("Greater", "x h", "c"), node("Less", "x l", "e")]

OTHERS: dict[str, tuple[list[onnx.NodeProto], dict[str, Any]]] = {
    "ReduceLogSum": ([node("Abs", "x", "b"), node("ReduceLogSum", "b a", "y")], AXES),
    "Sqrt, Log": ([node("Abs", "x", "a"), node("Sqrt", "a", "b"), node("Log", "b", "y")], {}),
    "Acos, Asin": ([node("Tanh", "x", "a"), node("Acos", "a", "b"), node("Asin", "a", "c"),
                    node("Sub", "b c", "y")], {}),
    "Pow": ([node("Abs", "x", "a"), node("Pow", "a p", "y")], {"p": draw(8)}),
    "And, Or, Xor, Not": ([*FLAGS, node("And", "c e", "f"), node("Or", "c e", "g"), node("Xor", "f g", "i"),
                           node("Not", "i", "j"), node("Cast", "j", "y", to=1)], {"h": 0.5, "l": 0.8}),
    "Where": ([*FLAGS, node("Where", "c x l", "y")], {"h": 0.5, "l": 0.8}),
    "ArgMax": ([node("Round", "x", "r"), node("ArgMax", "r", "a", axis=2, select_last_index=1),
                node("Cast", "a", "y", to=1)], {}),
    "GatherElements": ([node("ArgMin", "x", "a", axis=2), node("GatherElements", "x a", "y", axis=2)], {}),
    "TopK": ([node("TopK", "x k", "v i"), node("Relu", "v", "y")], {"k": np.array([3])}),
    "Gather": ([node("Gather", "x i", "y", axis=1)], {"i": np.array([2, 0])}),
    "Slice": ([node("Slice", "x b e a s", "y")],
              {"b": np.array([-1, 1]), "e": np.array([-100, 2**62]), "a": np.array([3, 2]), "s": np.array([-1, 2])}),
    "Tile": ([node("Tile", "x r", "y")], {"r": np.array([1, 2, 1, 1])}),
    "Einsum": ([node("Einsum", "x w", "y", equation="bchw,cd->bdhw")], {"w": draw(3, 5)}),
    "ConvTranspose": ([node("ConvTranspose", "x w", "y", strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1])],
                      {"w": draw(3, 4, 3, 3)}),
    "Conv of groups": ([node("Conv", "x w", "y", group=3, dilations=[2, 2], strides=[1, 2], pads=[1, 0, 2, 1])],
                       {"w": draw(3, 1, 3, 3)}),
    "Conv over one axis": ([node("Reshape", "x s", "r"), node("Conv", "r w", "c"),
                            node("BatchNormalization", "c t t t v", "y")],
                           {"s": np.array([0, 3, 64]), "w": draw(4, 3, 3), "t": draw(4), "v": np.abs(draw(4)) + 1}),
    "PRelu": ([node("PRelu", "x s", "y")], {"s": draw(3, 1, 1)}),
    "LRN": ([node("LRN", "x", "y", size=3)], {}),
    "InstanceNormalization": ([node("InstanceNormalization", "x s s", "y")], {"s": draw(3)}),
    "LayerNormalization without shift": ([node("LayerNormalization", "x s", "y")], {"s": draw(8)}),
    "AveragePool, ceil": ([node("AveragePool", "x", "y", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1],
                                ceil_mode=1, count_include_pad=1)], {}),
    "MaxPool, ceil": ([node("MaxPool", "x", "y", kernel_shape=[3, 3], strides=[3, 3], pads=[0, 0, 1, 1],
                            ceil_mode=1)], {}),
    "Pad reflect": ([node("Pad", "x p", "y", mode="reflect")], {"p": np.array([0, 0, 1, 1, 0, 0, 1, 1])}),
    "Pad negative": ([node("Pad", "x p", "y")], {"p": np.array([0, 0, -1, 1, 0, 0, 1, -1])}),
    "Resize cubic": ([node("Resize", "x - s", "y", mode="cubic")], {"s": [1.0, 1.0, 2.0, 2.0]}),
    "Resize with corners": ([node("Resize", "x - s", "y", mode="linear",
                                  coordinate_transformation_mode="align_corners")],
                            {"s": [1.0, 1.0, 2.0, 2.0]}),
    "Resize nearest": ([node("Resize", "x - s", "y", mode="nearest")], {"s": [1.0, 1.0, 2.0, 3.0]}),
    "DepthToSpace": ([node("Concat", "x x x x", "c", axis=1), node("DepthToSpace", "c", "y", blocksize=2)], {}),
    "DepthToSpace CRD": ([node("Concat", "x x x x", "c", axis=1), node("DepthToSpace", "c", "y", blocksize=2,
                                                                               mode="CRD")], {}),
    "SpaceToDepth": ([node("SpaceToDepth", "x", "y", blocksize=2)], {}),
    "Flatten to a row": ([node("Flatten", "x", "y", axis=0)], {}),
    "Mod": ([node("Mod", "x z", "y", fmod=1)], {"z": 0.7}),
    "Expand": ([node("Shape", "x", "s"), node("Expand", "k s", "e"), node("Add", "x e", "y")], {"k": draw(1, 3, 1, 1)}),
}  # fmt: skip
FILES = {
    **{op: model([node(op, "x", "y")]) for op in UNARY},
    **{op: model([node(op, "x a", "y", keepdims=0)], AXES) for op in REDUCED},
    **{
        op: model([node(op, "x z", "y")], {"z": draw(1, 3, 1, 1)})
        for op in ("Add", "Div", "Max", "Mean", "Min", "Mul", "Sub")
    },
    **{name: model(nodes, constants) for name, (nodes, constants) in OTHERS.items()},
}


@pytest.mark.parametrize("name", FILES)
def test_an_operator(name: str) -> None:
    module = OnnxNet(normalize_graph(from_model(FILES[name])), frozen=True)
    assert not list(module.parameters())
    x = draw(3, 3, 8, 8)
    found = module(torch.from_numpy(x)).numpy()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(FILES[name].SerializeToString(), options, ["CPUExecutionProvider"])
    (expected,) = session.run(None, {"x": x})
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-5 * max(1e-3, np.abs(expected).max())
