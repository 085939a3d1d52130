"""ONNX graphs as Caffe nets: each operator against ONNX Runtime, and what a Caffe engineer expects to find."""

from __future__ import annotations

import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from fusion.conversion.caffe_nets import to_caffe
from fusion.errors import OnnxError
from fusion.nets.build import build, params, restrict_to_blobs
from fusion.nets.weights import load_weights
from fusion.onnx.graphs import normalize_graph
from fusion.onnx.graphs.read import from_model
from fusion.onnx.runtime import inference_session
from fusion.onnx.to_caffe import CaffeNet, convert_graph
from fusion.onnx.to_caffe.net_writer import NetWriter, RefusedError
from prototxt.schema.forks import has_fields

sys.path.insert(0, str(Path(__file__).parents[3] / "fusion" / "onnx" / "graphs"))  # the other room's helper
from graphs import draw, model, node

pytest.importorskip("onnxruntime")
Nodes = list[onnx.NodeProto]
W = draw(4, 3, 3, 3)
POSITIVE = np.abs(draw(3)) + 0.5
UNEVEN = [0, 1, 2, 3]  # top, left, bottom, right


def shape(*sizes: int) -> np.ndarray[Any, Any]:
    return np.array(sizes, np.int64)


# The nodes from x (N, 3, 8, 9) to y, and their constants.
CASES: dict[str, tuple[Nodes, dict[str, Any]]] = {
    "convolution": ([node("Conv", "x w b", "y", pads=[1, 2, 1, 2], strides=[2, 1], dilations=[1, 2])],
                    {"w": W, "b": draw(4)}),
    "convolution in groups": ([node("Conv", "x w", "y", group=3)], {"w": draw(6, 1, 3, 1)}),
    "uneven pads": ([node("Conv", "x w", "y", pads=UNEVEN)], {"w": W}),
    "uneven pads, stride 2": ([node("Conv", "x w", "y", pads=UNEVEN, strides=[2, 2])], {"w": W}),
    "more pads before": ([node("Conv", "x w", "y", pads=[2, 3, 0, 1], strides=[2, 3])], {"w": W}),
    "pads as in TensorFlow": ([node("Conv", "x w", "y", auto_pad="SAME_UPPER", strides=[2, 2])], {"w": W}),
    "deconvolution": ([node("ConvTranspose", "x w b", "y", pads=[1, 1, 1, 1], strides=[2, 2], group=3)],
                      {"w": draw(3, 2, 4, 4), "b": draw(6)}),
    "deconvolution, as usual": ([node("ConvTranspose", "x w", "y")], {"w": draw(3, 2, 3, 2)}),
    "deconvolution with uneven pads": ([node("ConvTranspose", "x w", "y", pads=[0, 1, 2, 0], strides=[2, 2])],
                                       {"w": draw(3, 2, 3, 3)}),
    "deconvolution with one more row": ([node("ConvTranspose", "x w", "y", pads=[1, 1, 1, 1], strides=[2, 2],
                                              output_padding=[1, 0])], {"w": draw(3, 2, 3, 3)}),
    "pads of their own": ([node("Pad", "x p", "y")], {"p": shape(0, 0, 1, 0, 0, 0, 2, 3)}),
    "maximum, rounded down": ([node("MaxPool", "x", "y", kernel_shape=[3, 3], strides=[2, 2])], {}),
    "maximum, rounded up": ([node("MaxPool", "x", "y", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)], {}),
    "maximum, one side rounded": ([node("MaxPool", "x", "y", kernel_shape=[2, 3], strides=[2, 2])], {}),
    "maximum, padded": ([node("MaxPool", "x", "y", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])], {}),
    "maximum, uneven pads": ([node("MaxPool", "x", "y", kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1])], {}),
    "maximum, a window in the pads": ([node("MaxPool", "x", "y", kernel_shape=[3, 2], strides=[2, 1],
                                            pads=[0, 0, 2, 0], ceil_mode=1)], {}),
    "average": ([node("AveragePool", "x", "y", kernel_shape=[2, 3], strides=[2, 1])], {}),
    "average, padded": ([node("AveragePool", "x", "y", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])], {}),
    "average, pads counted": ([node("AveragePool", "x", "y", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1],
                                    count_include_pad=1)], {}),
    "average, uneven pads": ([node("AveragePool", "x", "y", kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1])],
                             {}),
    "average, uneven pads counted": ([node("AveragePool", "x", "y", kernel_shape=[3, 3], strides=[2, 2],
                                           pads=[0, 0, 1, 1], count_include_pad=1)], {}),
    "global average": ([node("GlobalAveragePool", "x", "y")], {}),
    "global maximum": ([node("GlobalMaxPool", "x", "y")], {}),
    "mean of height and width": ([node("ReduceMean", "x a", "y", keepdims=0)], {"a": shape(2, 3)}),
    "mean of all": ([node("ReduceMean", "x a", "y", keepdims=1)], {"a": shape(1, 2, 3)}),
    "mean of height and width, kept": ([node("ReduceMean", "x a", "y")], {"a": shape(-1, -2)}),
    "maximum of height and width": ([node("ReduceMax", "x a", "y", keepdims=0)], {"a": shape(2, 3)}),
    "magnitudes": ([node("ReduceL1", "x a", "y")], {"a": shape(3, 2)}),
    "sum of the last axis": ([node("ReduceSum", "x a", "y", keepdims=0)], {"a": shape(-1)}),
    "squares": ([node("ReduceSumSquare", "x a", "y", keepdims=0)], {"a": shape(-2, -1)}),
    "dense": ([node("Flatten", "x", "f"), node("Gemm", "f w b", "y", transB=1)], {"w": draw(5, 216), "b": draw(5)}),
    "dense, other order": ([node("Flatten", "x", "f"), node("Gemm", "f w", "y")], {"w": draw(216, 5)}),
    "dense, one bias for all": ([node("Flatten", "x", "f"), node("Gemm", "f w b", "y", transB=1)],
                                {"w": draw(5, 216), "b": draw(1)}),
    "dense, a row as bias": ([node("Flatten", "x", "f"), node("Gemm", "f w b", "y", transB=1)],
                             {"w": draw(5, 216), "b": draw(1, 5)}),
    "dense, two products": ([node("Flatten", "x", "f"), node("Gemm", "f w b", "g", transB=1, alpha=2.0, beta=0.5),
                             node("MatMul", "g v", "y")], {"w": draw(5, 216), "b": draw(5), "v": draw(5, 2)}),
    "dense along the last axis": ([node("MatMul", "x w", "p"), node("Add", "p b", "y")],
                                  {"w": draw(9, 5), "b": draw(5)}),
    "a bias of a convolution": ([node("Conv", "x w", "c"), node("Add", "c b", "y")], {"w": W, "b": draw(4, 1, 1)}),
    "a second bias": ([node("Conv", "x w b", "c"), node("Add", "c d", "y")],
                      {"w": W, "b": draw(4), "d": draw(4, 1, 1)}),
    "less a bias": ([node("Conv", "x w", "c"), node("Sub", "c b", "y")], {"w": W, "b": draw(4, 1, 1)}),
    "a bias less the value": ([node("Conv", "x w", "c"), node("Sub", "b c", "y")], {"w": W, "b": draw(4, 1, 1)}),
    "a bias along the width": ([node("Conv", "x w", "c"), node("Add", "c b", "y")], {"w": W, "b": draw(7)}),
    "batch normalization": ([node("BatchNormalization", "x s b m v", "y", epsilon=0.1)],
                            {"s": draw(3), "b": draw(3, seed=1), "m": draw(3, seed=2), "v": POSITIVE}),
    "LRN": ([node("LRN", "x", "y", size=3, alpha=0.5, beta=0.6, bias=2.0)], {}),
    "rectified": ([node("Conv", "x w", "c"), node("Relu", "c", "y")], {"w": W}),
    "leaky": ([node("LeakyRelu", "x", "y", alpha=0.3)], {}),
    "ELU": ([node("Elu", "x", "y", alpha=0.7)], {}),
    "ELU, as usual": ([node("Elu", "x", "y")], {}),
    "leaky, as usual": ([node("LeakyRelu", "x", "y")], {}),
    "hard sigmoid, as usual": ([node("HardSigmoid", "x", "y")], {}),
    "LRN, as usual": ([node("LRN", "x", "y", size=5)], {}),
    "a slope per channel": ([node("PRelu", "x s", "y")], {"s": draw(3, 1, 1)}),
    "a slope per channel, with a batch of one": ([node("PRelu", "x s", "y")], {"s": draw(1, 3, 1, 1)}),
    "one slope": ([node("PRelu", "x s", "y")], {"s": draw(1)}),
    "clipped to 6": ([node("Clip", "x l h", "y")], {"l": 0.0, "h": 0.6}),
    "clipped to a range": ([node("Clip", "x l h", "y")], {"l": -0.5, "h": 0.25}),
    "clipped without end": ([node("Clip", "x l h", "y")], {"l": 0.0, "h": np.inf}),
    "clipped without begin": ([node("Clip", "x l h", "y")], {"l": -np.inf, "h": 0.5}),
    "clipped from below": ([node("Clip", "x l", "y")], {"l": 0.0}),
    "clipped from above": ([node("Clip", "x - h", "y")], {"h": 0.4}),
    "sigmoid": ([node("Sigmoid", "x", "y")], {}),
    "tanh": ([node("Tanh", "x", "y")], {}),
    "softplus": ([node("Softplus", "x", "y")], {}),
    "hard sigmoid": ([node("HardSigmoid", "x", "y", alpha=0.3, beta=0.4)], {}),
    "hard swish": ([node("HardSwish", "x", "y")], {}),
    "swish": ([node("Sigmoid", "x", "s"), node("Mul", "x s", "y")], {}),
    "softmax of channels": ([node("Softmax", "x", "y", axis=1)], {}),
    "softmax of the last axis": ([node("Softmax", "x", "y")], {}),
    "logarithm of softmax of the last axis": ([node("LogSoftmax", "x", "y")], {}),
    "softmax of rows": ([node("Softmax", "x", "y", axis=2)], {}),
    "dropout": ([node("Dropout", "x", "y")], {}),
    "logarithm of softmax": ([node("LogSoftmax", "x", "y", axis=1)], {}),
    "magnitudes, roots and powers": ([node("Abs", "x", "a"), node("Sqrt", "a", "r"), node("Pow", "r p", "y")],
                                     {"p": 3.0}),
    "reciprocal and negative": ([node("Exp", "x", "e"), node("Reciprocal", "e", "r"), node("Neg", "r", "n"),
                                 node("Neg", "n", "q"), node("Log", "q", "y")], {}),
    "sum and difference": ([node("Relu", "x", "r"), node("Sub", "x r", "d"), node("Add", "d x", "y")], {}),
    "quotient": ([node("Exp", "x", "e"), node("Div", "x e", "y")], {}),
    "maximum of two": ([node("Neg", "x", "n"), node("Max", "x n", "y")], {}),
    "sum of three": ([node("Relu", "x", "r"), node("Neg", "x", "n"), node("Sum", "x r n", "y")], {}),
    "a factor and a shift": ([node("Mul", "x f", "m"), node("Add", "m s", "y")], {"f": 3.0, "s": -0.5}),
    "a number by the value": ([node("Exp", "x", "e"), node("Div", "f e", "y")], {"f": 3.0}),
    "a number less the value": ([node("Sub", "f x", "y")], {"f": 3.0}),
    "factors of channels": ([node("Mul", "x f", "y")], {"f": draw(3, 1, 1)}),
    "divisors of channels": ([node("Div", "x f", "y")], {"f": draw(1, 3, 1, 1)}),
    "shifts of rows": ([node("Add", "x f", "y")], {"f": draw(8, 1)}),
    "shifts of every place": ([node("Sub", "x f", "y")], {"f": draw(1, 3, 8, 9)}),
    "factors of rows and columns": ([node("Mul", "x f", "y")], {"f": draw(8, 9)}),
    "shifts of channels and rows, after a convolution": ([node("Conv", "x w", "c"), node("Add", "c f", "y")],
                                                         {"w": W, "f": draw(4, 6, 1)}),
    "one more for all, with more axes": ([node("Add", "x f", "y")], {"f": draw(1, 1, 1, 1)}),
    "shifts of channels and columns": ([node("Add", "x f", "y")], {"f": draw(3, 1, 9)}),
    "squeeze and excitation": ([node("GlobalAveragePool", "x", "p"), node("Sigmoid", "p", "s"),
                                node("Mul", "s x", "y")], {}),
    "divided by another": ([node("GlobalAveragePool", "x", "p"), node("Exp", "p", "s"), node("Div", "x s", "y")], {}),
    "shifted by another": ([node("GlobalAveragePool", "x", "p"), node("Add", "p x", "y")], {}),
    "less than another": ([node("GlobalAveragePool", "x", "p"), node("Sub", "p x", "y")], {}),
    "factors of rows from a value": ([node("Conv", "x w", "c"), node("Mul", "x c", "y")], {"w": draw(3, 3, 1, 9)}),
    "one factor for all channels": ([node("GlobalAveragePool", "x", "p"), node("ReduceMean", "p a", "m"),
                                     node("Mul", "m p", "y")], {"a": shape(1, 2, 3)}),
    "factors of more channels than pixels": ([node("AveragePool", "x", "a", kernel_shape=[8, 8]),
                                              node("GlobalAveragePool", "a", "p"), node("Mul", "a p", "y")], {}),
    "centred channels": ([node("GlobalAveragePool", "x", "p"), node("Sub", "x p", "y")], {}),
    "divided by their mean": ([node("Exp", "x", "e"), node("GlobalAveragePool", "e", "p"), node("Div", "e p", "y")],
                              {}),
    "scaled beside itself": ([node("Conv", "x w", "c"), node("Mul", "c f", "m"), node("Add", "m c", "y")],
                             {"w": W, "f": draw(4, 1, 1)}),
    "shifted beside itself": ([node("Conv", "x w", "c"), node("Add", "c f", "m"), node("Mul", "m c", "y")],
                              {"w": W, "f": draw(4, 1, 1)}),
    "subtracted beside itself": ([node("Conv", "x w", "c"), node("Sub", "f c", "m"), node("Mul", "m c", "y")],
                                 {"w": W, "f": draw(4, 1, 1)}),
    "rectified beside itself": ([node("Conv", "x w", "c"), node("Max", "c z", "m"), node("Add", "m c", "y")],
                                {"w": W, "z": 0.0}),
    "normalized beside itself": ([node("Conv", "x w", "c"), node("BatchNormalization", "c s b m v", "n"),
                                  node("Relu", "n", "r"), node("Add", "n r", "q"), node("Add", "q c", "y")],
                                 {"w": draw(3, 3, 3, 3), "s": draw(3), "b": draw(3, seed=1), "m": draw(3, seed=2),
                                  "v": POSITIVE}),
    "joined": ([node("Relu", "x", "r"), node("Concat", "x r", "y", axis=1)], {}),
    "joined along the width": ([node("Relu", "x", "r"), node("Concat", "r x", "y", axis=-1)], {}),
    "parts": ([node("Split", "x n", "a b c", axis=2), node("Concat", "c a", "y", axis=2)], {"n": shape(3, 4, 1)}),
    "a part": ([node("Slice", "x s e a", "y")], {"s": shape(1, -3), "e": shape(2, 9), "a": shape(1, 3)}),
    "parts of all axes": ([node("Slice", "x s e", "y")], {"s": shape(0, 1, 2, 3), "e": shape(2**31 - 1, 3, 2**40, -1)}),
    "a part, by steps of one": ([node("Slice", "x s e - t", "y")],
                                {"s": shape(0, 1), "e": shape(2**31 - 1, 3), "t": shape(1, 1)}),
    "the last columns": ([node("Gather", "x i", "y", axis=-1)], {"i": shape(-2, -1)}),
    "all channels": ([node("Gather", "x i", "y", axis=1)], {"i": shape(0, 1, 2)}),
    "the last channel": ([node("Gather", "x i", "y", axis=1)], {"i": np.array(-1)}),
    "one channel": ([node("Gather", "x i", "y", axis=1)], {"i": np.array(1)}),
    "two channels": ([node("Gather", "x i", "y", axis=1)], {"i": shape(1, 2)}),
    "shuffled channels": ([node("Concat", "x x", "c", axis=1), node("Reshape", "c s", "r"),
                           node("Transpose", "r", "t", perm=[0, 2, 1, 3, 4]), node("Reshape", "t z", "y")],
                          {"s": shape(-1, 2, 3, 8, 9), "z": shape(-1, 6, 8, 9)}),
    "flat": ([node("Reshape", "x s", "y")], {"s": shape(0, -1)}),
    "without an axis": ([node("ReduceMean", "x a", "m", keepdims=1), node("Squeeze", "m b", "y")],
                        {"a": shape(2, 3), "b": shape(3)}),
    "repeated pixels": ([node("Resize", "x - s", "y", mode="nearest", nearest_mode="floor",
                              coordinate_transformation_mode="asymmetric")], {"s": [1.0, 1.0, 2.0, 3.0]}),
    "repeated pixels, half": ([node("Resize", "x - s", "y", mode="nearest")], {"s": [1.0, 1.0, 2.0, 2.0]}),
    "repeated pixels, thrice": ([node("Resize", "x - s", "y", mode="nearest", nearest_mode="round_prefer_ceil",
                                      coordinate_transformation_mode="pytorch_half_pixel")],
                                {"s": [1.0, 1.0, 3.0, 1.0]}),
    "interpolated between corners": ([node("Resize", "x - - z", "y", mode="linear", axes=[2, 3],
                                           coordinate_transformation_mode="align_corners")],
                                     {"z": shape(15, 22)}),
}  # fmt: skip


def converted(nodes: Nodes, constants: dict[str, Any], **settings: Any) -> tuple[CaffeNet, onnx.ModelProto]:
    file = model(nodes, constants, **{"shape": ("N", 3, 8, 9), **settings})
    graph = from_model(file)
    return convert_graph(normalize_graph(graph), outputs=graph.outputs), file


def computed(made: CaffeNet, x: np.ndarray[Any, Any], phase: str = "TEST") -> dict[str, torch.Tensor]:
    net = build(made.net, phase, shapes={"x": x.shape}, seed=0)
    report = load_weights(net, made.weights)
    assert not report.missing
    assert not report.unused
    return {name: value.detach() for name, value in net({"x": torch.from_numpy(x)}).items()}


@pytest.mark.parametrize("name", CASES)
def test_an_operator_gives_the_numbers_of_onnx_runtime(name: str) -> None:
    nodes, constants = CASES[name]
    made, file = converted(nodes, constants)
    x = draw(2, 3, 8, 9, seed=9)
    (expected,) = inference_session(file.SerializeToString()).run(None, {"x": x})
    assert list(computed(made, x)) == ["y"]
    found = computed(made, x)["y"].numpy()
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


def kinds(made: CaffeNet) -> list[str]:
    return [layer.type for layer in made.net.layer]


def test_only_what_needs_a_fork_is_noted_as_one() -> None:
    forks = {}
    for name, (nodes, constants) in CASES.items():
        made, file = converted(nodes, constants)
        own = {layer.type for layer in made.net.layer if has_fields(layer)}
        assert sum("BVLC Caffe has no" in note for note in made.notes) == len(own), name
        if own:
            forks[name] = own
            with pytest.raises(OnnxError, match=f"only forks of Caffe have: {next(iter(own))}"):
                convert_graph(normalize_graph(from_model(file)), only_bvlc=True)
            assert any(note.startswith(f"BVLC Caffe has no {next(iter(own))}; forks have it: ") for note in made.notes)
    assert forks == {"shuffled channels": {"Permute"}, "interpolated between corners": {"Interp"}}


def test_layers_are_those_of_the_module() -> None:
    """Names as torch's exporter writes them: a block of a convolution, batch normalization, ReLU and a shortcut."""
    nodes = [
        node("Conv", "x layer1.0.conv1.weight", "/layer1/layer1.0/conv1/Conv_output_0", pads=[1, 1, 1, 1]),
        node("BatchNormalization", "/layer1/layer1.0/conv1/Conv_output_0 layer1.0.bn1.weight layer1.0.bn1.bias "
             "layer1.0.bn1.running_mean layer1.0.bn1.running_var", "n"),
        node("Relu", "n", "/layer1/layer1.0/relu/Relu_output_0"),
        node("Add", "/layer1/layer1.0/relu/Relu_output_0 x", "/layer1/layer1.0/Add_output_0"),
        node("Relu", "/layer1/layer1.0/Add_output_0", "/layer1/layer1.0/relu_1/Relu_output_0"),
        node("Flatten", "/layer1/layer1.0/relu_1/Relu_output_0", "f"),
        node("Gemm", "f fc.weight fc.bias", "y", transB=1),
    ]  # fmt: skip
    scale, shift, mean, variance = draw(3), draw(3, seed=1), draw(3, seed=2), POSITIVE
    weights = {"layer1.0.conv1.weight": draw(3, 3, 3, 3), "layer1.0.bn1.weight": scale, "layer1.0.bn1.bias": shift,
               "layer1.0.bn1.running_mean": mean, "layer1.0.bn1.running_var": variance,
               "fc.weight": draw(5, 216), "fc.bias": draw(5)}  # fmt: skip
    made, _ = converted(nodes, weights)
    assert [(layer.name, layer.type, *layer.bottom, *layer.top) for layer in made.net.layer] == [
        ("x", "Input", "x"),
        ("layer1/0/conv1", "Convolution", "x", "layer1/0/conv1"),
        ("layer1/0/bn1", "BatchNorm", "layer1/0/conv1", "layer1/0/conv1"),
        ("layer1/0/bn1/scale", "Scale", "layer1/0/conv1", "layer1/0/conv1"),
        ("layer1/0/relu", "ReLU", "layer1/0/conv1", "layer1/0/conv1"),
        ("layer1/0", "Eltwise", "layer1/0/conv1", "x", "layer1/0"),
        ("layer1/0/relu_1", "ReLU", "layer1/0", "layer1/0/relu_1"),
        ("f", "Flatten", "layer1/0/relu_1", "f"),
        ("fc", "InnerProduct", "f", "y"),
    ]
    stored = made.weights
    np.testing.assert_array_equal(stored["layer1/0/conv1"][0], weights["layer1.0.conv1.weight"])
    for blob, array in zip(stored["layer1/0/bn1"], (mean, variance, np.ones(1)), strict=True):
        np.testing.assert_array_equal(blob, array)
    for blob, array in zip(stored["layer1/0/bn1/scale"], (scale, shift), strict=True):
        np.testing.assert_array_equal(blob, array)
    assert list(made.net.layer[0].input_param.shape[0].dim) == [1, 3, 8, 9]
    assert [layer.name for layer in made.net.layer if layer.param] == []  # all of it can be trained


def test_constants_of_the_graph_are_frozen_and_parameters_of_the_module_learn() -> None:
    nodes = [node("Mul", "x gate.factor", "m"), node("Mul", "m c", "y")]
    made, _ = converted(nodes, {"gate.factor": draw(3, 1, 1), "c": draw(3, 1, 1)})
    rates = {layer.name: [param.lr_mult for param in layer.param] for layer in made.net.layer}
    assert rates == {"x": [], "m": [], "y": [0.0]}
    frozen = {"repeated pixels": "Deconvolution", "repeated pixels, half": "Deconvolution",
              "pads of their own": "Convolution", "average, padded": "Scale"}  # fmt: skip
    for name, kind in frozen.items():
        layers = [layer for layer in converted(*CASES[name])[0].net.layer if layer.type == kind]
        assert [[param.lr_mult for param in layer.param] for layer in layers] == [[0.0]], name


def test_settings_of_training_are_kept() -> None:
    factors = {"s": draw(3), "b": draw(3), "m": draw(3), "v": POSITIVE}
    nodes = [node("BatchNormalization", "x s b m v", "n", momentum=0.75), node("Relu", "n", "r"),
             node("Dropout", "r p", "d"), node("BatchNormalization", "d s b m v", "y")]  # fmt: skip
    layers = {layer.name: layer for layer in converted(nodes, {**factors, "p": 0.25})[0].net.layer}
    assert layers["n"].batch_norm_param.moving_average_fraction == 0.75
    assert layers["y"].batch_norm_param.moving_average_fraction == pytest.approx(0.9)
    assert layers["y"].batch_norm_param.eps == pytest.approx(1e-5)
    assert layers["d"].dropout_param.dropout_ratio == 0.25
    assert (list(layers["d"].bottom), list(layers["d"].top)) == (["n"], ["n"])


def test_names_of_modules() -> None:
    """A module at the top is not the net, a function keeps its name, and numbers tell layers of one name apart."""
    nodes = [node("Relu", "x", "/act/Relu_output_0", name="/act/Relu"), node("Neg", "/act/Relu_output_0", "a"),
             node("Relu", "a", "b", name="/act/Relu_1"), node("Neg", "b", "c", name="/Neg"),
             node("Neg", "c", "d", name="/Neg_1"), node("Neg", "d", "e", name="node_7"),
             node("Neg", "e", "y", name="/a/b/b.0/Neg")]  # fmt: skip
    made, _ = converted(nodes, {})
    assert [layer.name for layer in made.net.layer] == ["x", "act", "a", "act_2", "Neg", "Neg_1", "e", "a/b/0"]


def test_repeated_modules_share_their_parameters() -> None:
    """Each blob of them; statistics do not learn, and constants stay frozen."""
    nodes = [node("BatchNormalization", "x b.weight b.bias b.running_mean b.running_var", "n"),
             node("Relu", "n", "r"),
             node("BatchNormalization", "r b.weight b.bias b.running_mean b.running_var", "m"),
             node("Mul", "m /scale.weight", "p"), node("Neg", "p", "q"), node("Mul", "q /scale.weight", "s"),
             node("Conv", "s c.weight", "y")]  # fmt: skip
    constants = {"b.weight": draw(3), "b.bias": draw(3, seed=1), "b.running_mean": draw(3, seed=2),
                 "b.running_var": POSITIVE, "/scale.weight": draw(3, 1, 1), "c.weight": draw(2, 3, 1, 1)}  # fmt: skip
    made, _ = converted(nodes, constants)
    found = {
        layer.name: [(param.name, param.lr_mult, param.decay_mult) for param in layer.param]
        for layer in made.net.layer
        if layer.name in made.weights
    }
    statistics = [(f"b.{index}", 0, 1) for index in range(3)]
    factors = [(f"b.scale.{index}", 1, 1) for index in range(2)]
    assert found == {
        "b": statistics, "b/scale": factors, "b_2": statistics, "b_2/scale": factors,
        "/scale": [("/scale.scale.0", 0, 0)], "/scale_2": [("/scale.scale.0", 0, 0)], "c": [],
    }  # fmt: skip


def test_unread_parts_are_silenced() -> None:
    made, _ = converted(*CASES["parts"])
    assert [list(layer.bottom) for layer in made.net.layer if layer.type == "Silence"] == [["a/1"]]


def test_a_bias_joins_the_layer_below() -> None:
    assert kinds(converted(*CASES["a bias of a convolution"])[0]) == ["Input", "Convolution"]
    assert kinds(converted(*CASES["less a bias"])[0]) == ["Input", "Convolution"]
    assert kinds(converted(*CASES["dense along the last axis"])[0]) == ["Input", "InnerProduct"]
    assert kinds(converted(*CASES["a bias along the width"])[0]) == ["Input", "Convolution", "Bias"]
    read_twice = [node("Conv", "x w", "c"), node("Add", "c b", "d"), node("Add", "c d", "y")]
    assert kinds(converted(read_twice, {"w": W, "b": draw(4, 1, 1)})[0]) == ["Input", "Convolution", "Bias", "Eltwise"]
    frozen = [node("Resize", "x - s", "r", mode="nearest"), node("Add", "r b", "y")]
    assert kinds(converted(frozen, {"s": [1.0, 1.0, 2.0, 2.0], "b": draw(3, 1, 1)})[0])[1:] == ["Deconvolution", "Bias"]
    turned = [node("Conv", "x w", "c"), node("Add", "b c", "y")]
    assert kinds(converted(turned, {"w": W, "b": draw(4, 1, 1)})[0]) == ["Input", "Convolution", "Bias"]


def test_layers_are_the_plainest() -> None:
    """No field has Caffe's default, and no layer does nothing."""
    fields = {
        "a factor and a shift": {"power_param"}, "factors of channels": set(), "softmax of channels": set(),
        "joined": set(), "convolution in groups": {"num_output", "bias_term", "group", "kernel_h", "kernel_w"},
        "rectified": {"num_output", "bias_term", "kernel_size"}, "average": {"pool", "kernel_h", "kernel_w", "stride_h",
                                                                             "stride_w"},
    }  # fmt: skip
    for name, expected in fields.items():
        layer = converted(*CASES[name])[0].net.layer[1]
        given = {field.name for field, _ in layer.ListFields()} - {"name", "type", "bottom", "top", "param"}
        params = {field.name for part in given for field, _ in getattr(layer, part).ListFields()}
        assert (given if expected == {"power_param"} else params) == expected, name
    kinds_of = {"clipped without end": ["ReLU"], "clipped from below": ["ReLU"], "clipped to 6": ["Clip"],
                "flat": ["Flatten"], "all channels": ["Power"], "one channel": ["Slice", "Reshape", "Silence"],
                "without an axis": ["Pooling", "Reshape"], "average": ["Pooling"],
                "mean of height and width": ["Pooling", "Flatten"], "mean of height and width, kept": ["Pooling"],
                "average, padded": ["Pooling", "Scale"]}  # fmt: skip
    for name, expected_kinds in kinds_of.items():
        assert kinds(converted(*CASES[name])[0])[1:] == expected_kinds, name


REFUSED: dict[str, tuple[Nodes, dict[str, Any], str]] = {
    "no layer": ([node("Erf", "x", "e"), node("Erf", "e", "y")], {}, r"Erf \(2x, first 'e'\): Caffe has no such layer"),
    "product of values": ([node("Transpose", "x", "t", perm=[0, 1, 3, 2]), node("MatMul", "x t", "y")], {},
                          "a product of two values"),
    "batch moved": ([node("Transpose", "x", "y", perm=[1, 0, 2, 3])], {}, "its batch becomes another axis"),
    "axes reversed": ([node("Transpose", "x", "y")], {}, "its batch becomes another axis"),
    "dilated pooling": ([node("MaxPool", "x", "y", kernel_shape=[3, 3], dilations=[2, 1])], {}, "a dilated pooling"),
    "pads as wide as the kernel along one axis": (
        [node("MaxPool", "x", "y", kernel_shape=[2, 2], strides=[3, 1], pads=[0, 0, 1, 0])], {},
        "uneven pads as wide as its kernel"),
    "half-pixel": ([node("Resize", "x - s", "y", mode="linear")], {"s": [1.0, 1.0, 2.0, 2.0]}, "Resize linear, half"),
    "pads of 1": ([node("Pad", "x p v", "y")], {"p": shape(0, 0, 1, 1, 0, 0, 1, 1), "v": 1.0}, "constant zeros"),
    "every second": ([node("Slice", "x s e a t", "y")],
                     {"s": shape(0), "e": shape(8), "a": shape(2), "t": shape(2)}, "steps other than 1"),
    "spatial gate": ([node("ReduceMean", "x a", "m"), node("Mul", "x m", "y")], {"a": shape(1)},
                     r"a reduction over axes \[1\] of 4"),
    "a maximum with 2": ([node("Max", "x c", "y")], {"c": 2.0}, "the maximum with a constant other than 0"),
    "maxima with several": ([node("Max", "x c", "y")], {"c": np.zeros((3, 1, 1))}, "a constant other than 0"),
    "a bias per sample": (
        [node("ReduceMax", "x a", "m", keepdims=0), node("Gemm", "m w b", "y", transB=1, alpha=2.0)],
        {"a": shape(2, 3), "w": draw(3, 3), "b": draw(3, 1)}, "a bias that is not one per output"),
    "a transposed input": (
        [node("ReduceMax", "x a", "m", keepdims=0), node("Gemm", "m w", "g", transA=1), node("Gemm", "m g", "y")],
        {"a": shape(2, 3), "w": draw(5, 3)}, r"Gemm \(\dx"),
    "integers": ([node("Cast", "x", "i", to=7), node("Div", "i t", "d"), node("Cast", "d", "y", to=1)],
                 {"t": np.array(2)}, "values of type int64"),
    "indices of maxima": ([node("MaxPool", "x", "m k", kernel_shape=[2, 2]), node("Cast", "k", "c", to=1),
                           node("Add", "m c", "y")], {}, "indices of the maxima"),
    "computed bound": ([node("ReduceMax", "x", "m", keepdims=0), node("Clip", "x - m", "y")], {}, "is computed"),
    "a power of each": ([node("Pow", "x p", "y")], {"p": draw(3, 1, 1)}, "a power that is no single constant"),
    "weights per sample": ([node("MatMul", "x w", "y")], {"w": draw(3, 9, 5)}, "weights of more than two axes"),
    "a computed bias": ([node("ReduceMax", "x a", "m", keepdims=0), node("Gemm", "m w m", "y")],
                        {"a": shape(2, 3), "w": draw(3, 3)}, "its bias is computed"),
    "computed factors": ([node("ReduceMax", "x a", "m", keepdims=0), node("BatchNormalization", "x m b b v", "y")],
                         {"a": shape(0, 2, 3), "b": draw(3), "v": POSITIVE}, "its statistics or factors are computed"),
    "computed slopes": ([node("PRelu", "x x", "y")], {}, "slopes that are computed"),
    "a slope per column": ([node("PRelu", "x s", "y")], {"s": draw(9)}, "slopes that are not one per channel"),
    "a slope per row": ([node("PRelu", "x s", "y")], {"s": draw(3, 8, 1)}, "slopes that are not one per channel"),
    "computed filters": ([node("Conv", "x x", "y")], {}, "its weights are computed"),
    "computed bias of a convolution": (
        [node("ReduceMax", "x a", "m", keepdims=0), node("Conv", "x w m", "y")],
        {"a": shape(0, 2, 3), "w": draw(3, 3, 1, 1)}, "its bias is computed"),
    "TensorFlow's pads of a deconvolution": (
        [node("ConvTranspose", "x w", "y", auto_pad="SAME_LOWER", strides=[2, 3])], {"w": draw(3, 2, 4, 3)},
        "output_shape or auto_pad instead of pads"),
    "a deconvolution of a given size": (
        [node("ConvTranspose", "x w", "y", output_shape=[15, 17], strides=[2, 2])], {"w": draw(3, 2, 4, 3)},
        "output_shape or auto_pad instead of pads"),
    "a dilated deconvolution": ([node("ConvTranspose", "x w", "y", dilations=[1, 2])], {"w": draw(3, 2, 2, 2)},
                                "a dilated ConvTranspose"),
    "more columns than Caffe has": ([node("ConvTranspose", "x w", "y", output_padding=[0, 1], strides=[2, 2])],
                                    {"w": draw(3, 2, 2, 2)}, "an output_padding that is larger than its pads"),
    "pads of channels": ([node("Pad", "x p", "y")], {"p": shape(0, 1, 0, 0, 0, 0, 0, 0)}, "pads of other axes than"),
    "pads after the channels": ([node("Pad", "x p", "y")], {"p": shape(0, 0, 0, 0, 0, 1, 0, 0)}, "pads of other axes"),
    "negative pads": ([node("Pad", "x p", "y")], {"p": shape(0, 0, -1, 0, 0, 0, 2, 2)}, "or negative ones"),
    "mirrored pads": ([node("Pad", "x p", "y", mode="reflect")], {"p": shape(0, 0, 1, 1, 0, 0, 1, 1)},
                      "pads other than constant zeros"),
    "maxima of a row": ([node("ReduceMax", "x a", "y")], {"a": shape(3)}, r"a reduction over axes \[3\] of 4"),
    "a mean of the batch": ([node("ReduceMean", "x", "y")], {}, r"a reduction over axes \[0, 1, 2, 3\] of 4"),
    "a longer batch": ([node("Concat", "x x", "y", axis=0)], {}, "samples are joined into a longer batch"),
    "a constant joined": ([node("Concat", "x c", "y", axis=1)], {"c": draw(2, 3, 8, 9)},
                          "constants are joined with values"),
    "the batch without its first": ([node("Slice", "x s e", "y")], {"s": shape(1), "e": shape(2**31 - 1)},
                                    "parts of a batch"),
    "as many as the batch": ([node("Shape", "x", "n", end=1), node("Slice", "x s n a", "y")],
                             {"s": shape(0), "a": shape(1)}, "bounds that are computed"),
    "almost all of the batch": ([node("Slice", "x s e", "y")], {"s": shape(0), "e": shape(2**31 - 2)},
                                "parts of a batch"),
    "the first of the batch": ([node("Slice", "x s e", "y")], {"s": shape(0), "e": shape(1)}, "parts of a batch"),
    "one sample": ([node("Gather", "x i", "y", axis=0)], {"i": np.array(0)}, "samples of a batch"),
    "channels turned round": ([node("Gather", "x i", "y", axis=1)], {"i": shape(1, 0)}, "entries in another order"),
    "a table of channels": ([node("Gather", "x i", "y", axis=1)], {"i": np.array([[0, 1]])}, "in another order"),
    "computed entries": ([node("Cast", "x", "c", to=7), node("Gather", "x c", "y", axis=1)], {},
                         "entries that are computed"),
    "maximum of different shapes": ([node("GlobalAveragePool", "x", "p"), node("Max", "x p", "y")], {},
                                    "values of different shapes"),
    "a sum with a constant": ([node("Sum", "x x c", "y")], {"c": draw(3, 8, 9)}, "constants among several values"),
    "a factor per place": ([node("Conv", "x w", "c"), node("Mul", "x c", "y")], {"w": draw(1, 3, 1, 1)},
                           "values of shapes Nx3x8x9 and Nx1x8x9"),
    "a shift per sample": ([node("Add", "x c", "y")], {"c": draw(2, 1, 1, 1)},
                           "a constant of shape 2x1x1x1 for Nx3x8x9"),
    "a constant of more axes": ([node("Add", "x c", "y")], {"c": draw(1, 1, 1, 1, 1)},
                                "a constant of shape 1x1x1x1x1 for Nx3x8x9"),
    "a constant that repeats the value": (
        [node("ReduceMean", "x a", "m"), node("Sigmoid", "m", "s"), node("Add", "s c", "y")],
        {"a": shape(1, 2, 3), "c": draw(3, 1, 1)}, "a constant of shape 3x1x1 for Nx1x1x1"),
}  # fmt: skip


# Ways of nearest Resize that repeat no pixels, and ways of interpolation that Caffe's forks do not have.
WAYS = [
    ("nearest", "asymmetric", "floor", 1.5), ("nearest", "asymmetric", "round_prefer_floor", 2.0),
    ("nearest", "asymmetric", "ceil", 2.0), ("nearest", "half_pixel", "floor", 2.0),
    ("nearest", "align_corners", "floor", 2.0), ("nearest", "align_corners", "round_prefer_floor", 2.0),
    ("linear", "asymmetric", "floor", 2.0),
    ("cubic", "align_corners", "floor", 2.0),
]  # fmt: skip


@pytest.mark.parametrize(("mode", "place", "near", "factor"), WAYS)
def test_resizing_in_other_ways_is_refused(mode: str, place: str, near: str, factor: float) -> None:
    resized = node("Resize", "x - s", "y", mode=mode, coordinate_transformation_mode=place, nearest_mode=near)
    with pytest.raises(OnnxError, match=f"Resize {mode}, {place}: Caffe repeats pixels, or interpolates"):
        converted([resized], {"s": [1.0, 1.0, factor, 2.0]})


@pytest.mark.parametrize(
    ("nodes", "constants", "says"),
    [
        ([node("Conv", "x w", "y")], {"w": draw(2, 3, 2)}, "1 spatial axes instead of 2"),
        ([node("ConvTranspose", "x w", "y")], {"w": draw(3, 2, 2)}, "1 spatial axes instead of 2"),
        ([node("MaxPool", "x", "y", kernel_shape=[2])], {}, "an input of 3 axes instead of 4"),
        ([node("GlobalAveragePool", "x", "y")], {}, "an input of 3 axes instead of 4"),
        ([node("Resize", "x - s", "y", mode="nearest")], {"s": [1.0, 1.0, 2.0]}, "an input of 3 axes instead of 4"),
        ([node("Pad", "x p", "y")], {"p": shape(0, 0, 1, 0, 0, 1)}, "pads of other axes than height and width"),
        ([node("PRelu", "x s", "y")], {"s": draw(8)}, "slopes that are not one per channel"),
    ],
)
def test_sequences_are_refused_where_caffe_takes_images(nodes: Nodes, constants: dict[str, Any], says: str) -> None:
    with pytest.raises(OnnxError, match=says):
        converted(nodes, constants, shape=("N", 3, 8))


@pytest.mark.parametrize(
    ("nodes", "constants", "sizes", "layers"),
    [
        ([node("PRelu", "x s", "y")], {"s": draw(1)}, (1, 8), ["PReLU"]),
        ([node("PRelu", "x s", "y")], {"s": draw(1)}, (2, 3, 4), ["PReLU"]),
        ([node("PRelu", "x s", "y")], {"s": draw(1)}, (5,), ["PReLU"]),
        ([node("Flatten", "x", "y")], {}, (3, 8), ["Flatten"]),
        ([node("Reshape", "x s", "y")], {"s": shape(0, 3, 2)}, (6,), ["Reshape"]),
        ([node("Gather", "x i", "y", axis=1)], {"i": np.array(0)}, (1, 8, 9), ["Reshape"]),
        ([node("Softmax", "x", "y")], {}, (3, 4), ["Softmax"]),
        ([node("Add", "x c", "y")], {"c": draw(4)}, (4,), ["Bias"]),
        ([node("Gemm", "x w b", "g"), node("Add", "g c", "y")], {"w": draw(4, 2), "b": draw(2), "c": draw(2)}, (4,),
         ["InnerProduct", "Bias"]),
        ([node("MatMul", "x w", "g"), node("Add", "g c", "y")], {"w": draw(4, 2), "c": draw(2)}, (4,),
         ["InnerProduct"]),
        ([node("MatMul", "x w", "g"), node("Add", "g c", "y")], {"w": draw(4, 3), "c": draw(3, 1)}, (3, 4),
         ["InnerProduct", "Bias"]),
    ],
)  # fmt: skip
def test_values_of_other_shapes(
    nodes: Nodes, constants: dict[str, Any], sizes: tuple[int, ...], layers: list[str]
) -> None:
    made, file = converted(nodes, constants, shape=("N", *sizes))
    assert kinds(made)[1:] == layers
    x = draw(2, *sizes, seed=9)
    (expected,) = inference_session(file.SerializeToString()).run(None, {"x": x})
    np.testing.assert_allclose(computed(made, x)["y"].numpy(), expected, rtol=1e-5, atol=1e-5)


def test_a_constant_that_fits_along_one_axis_alone_is_refused() -> None:
    with pytest.raises(OnnxError, match="a constant of shape 3x8x1 for Nx3x1x9"):
        converted([node("Add", "x c", "y")], {"c": draw(3, 8, 1)}, shape=("N", 3, 1, 9))


def test_a_fixed_batch_is_refused_only_where_it_is_written_down() -> None:
    made, _ = converted([node("Relu", "x", "y")], {}, shape=(4, 3, 8, 9))
    assert list(made.net.layer[0].input_param.shape[0].dim) == [1, 3, 8, 9]
    with pytest.raises(OnnxError, match="its batch becomes another axis, or its size is fixed"):
        converted([node("Reshape", "x s", "y")], {"s": shape(3, 2, 72)}, shape=(2, 3, 8, 9))
    with pytest.raises(OnnxError, match="parts of a batch"):
        converted([node("Split", "x n", "a y")], {"n": shape(1, 1)}, shape=(2, 3, 8, 9))


@pytest.mark.parametrize("name", REFUSED)
def test_what_caffe_cannot_compute_is_refused(name: str) -> None:
    nodes, constants, says = REFUSED[name]
    with pytest.raises(OnnxError, match=says):
        converted(nodes, constants)


def test_all_that_is_refused_is_listed_with_the_place_before_it() -> None:
    nodes = [node("Relu", "x", "r"), node("Erf", "r", "e"), node("Sin", "e", "s"), node("Sin", "s", "y")]
    with pytest.raises(OnnxError) as caught:
        converted(nodes, {})
    lines = str(caught.value).splitlines()
    assert lines[1:] == [
        "    Erf (1x, first 'e'): Caffe has no such layer",
        "    Sin (2x, first 's'): Caffe has no such layer",
        "  hint: cut the net before the first of them, at r",
    ]


def test_reasons_of_one_kind_are_joined() -> None:
    reduced = [node("ReduceMax", f"x {axis}", f"m{axis}") for axis in "cbb"]
    for number, each in enumerate(reduced):
        each.output[0] = f"m{number}"
    outputs = ("m0", "m1", "m2")
    axes = {"c": shape(1), "b": shape(2)}
    with pytest.raises(OnnxError) as caught:
        converted(reduced, axes, outputs=outputs)
    assert caught.value.message == (
        "Caffe's layers cannot express one of its operators: ReduceMax (3x, first 'm0'): "
        "a reduction over axes [1] of 4; a reduction over axes [2] of 4"
    )
    reduced[2].input[1] = "d"
    with pytest.raises(OnnxError, match=r"'m0'\): a reduction over axes \[1\] of 4; 2 more reasons\n") as caught:
        converted(reduced, {**axes, "d": shape(3)}, outputs=outputs)
    with pytest.raises(OnnxError) as caught:
        converted([node("Relu", "x", "r"), node("MatMul", "x r", "y")], {}, shape=("N", 3, 8, 8))
    assert caught.value.hint == "cut the net before the first of them, at x and r"
    with pytest.raises(OnnxError) as caught:
        converted([node("MatMul", "r w", "y"), node("RandomNormal", "", "r", shape=[1, 3])], {"w": draw(3, 2)})
    assert caught.value.hint == "export it in another form"


def test_an_open_size_is_asked_for() -> None:
    nodes = [node("Relu", "x", "y")]
    with pytest.raises(OnnxError, match=r"the size of its input 'x' is open: \?x3x\?x\?") as caught:
        converted(nodes, {}, shape=("N", 3, "h", "w"))
    assert "--input-shape x=1,3,224,224" in str(caught.value)


def test_outputs_have_their_names_and_blobs_of_their_own() -> None:
    nodes = [
        node("Conv", "x w", "c"),
        node("Relu", "c", "y"),
        node("Identity", "y", "z"),
        node("Split", "c", "p q", axis=1, num_outputs=2),
    ]
    made, file = converted(nodes, {"w": W}, outputs=("y", "q", "z", "p"))
    x = draw(2, 3, 8, 9, seed=9)
    net = build(made.net, "TEST", shapes={"x": x.shape}, seed=0)
    load_weights(net, made.weights)
    expected = inference_session(file.SerializeToString()).run(["y", "q", "z", "p"], {"x": x})
    found = restrict_to_blobs(net, ["y", "q", "z", "p"])({"x": torch.from_numpy(x)})
    for name, array in zip("yqzp", expected, strict=True):
        np.testing.assert_allclose(found[name].detach().numpy(), array, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("nodes", "outputs", "layers"),
    [
        ([node("Relu", "x", "r"), node("Identity", "r", "y")], "y", ["x y"]),  # as TensorFlow's exporters end
        ([node("Identity", "x", "y")], "y", ["x y"]),
        ([node("Identity", "x", "y"), node("Relu", "y", "z")], "zy", ["x z", "x y"]),
        ([node("Relu", "x", "r"), node("Identity", "r", "y"), node("Neg", "y", "q")], "yqr", ["x y", "y q", "y r"]),
        ([node("Relu", "x", "q"), node("Neg", "q", "p"), node("Identity", "p", "y"), node("Abs", "q", "z")], "yz",
         ["x q", "q y", "q z"]),
    ],
)  # fmt: skip
def test_a_value_with_two_names_has_those_of_the_outputs(nodes: Nodes, outputs: str, layers: list[str]) -> None:
    made, file = converted(nodes, {}, outputs=tuple(outputs))
    assert [" ".join((*layer.bottom, *layer.top)) for layer in made.net.layer[1:]] == layers
    x = draw(2, 3, 8, 9, seed=9)
    expected = inference_session(file.SerializeToString()).run(list(outputs), {"x": x})
    found = restrict_to_blobs(build(made.net, "TEST", shapes={"x": x.shape}), list(outputs))({"x": torch.from_numpy(x)})
    for name, array in zip(outputs, expected, strict=True):
        np.testing.assert_array_equal(found[name].numpy(), array)


def test_a_value_in_the_middle_is_an_output() -> None:
    nodes = [node("Relu", "x", "r"), node("Reshape", "r s", "y")]
    made, _ = converted(nodes, {"s": shape(0, 3, 8, 9)}, outputs=("y", "r"))
    x = draw(2, 3, 8, 9, seed=9)
    found = computed(made, x)
    np.testing.assert_array_equal(found["y"].numpy(), np.maximum(x, 0))
    assert [layer.top[0] for layer in made.net.layer] == ["x", "r", "y"]


MODULES = {"resnet18": 64, "mobilenet_v3_small": 64, "shufflenet_v2_x0_5": 64, "squeezenet1_1": 64, "densenet121": 64,
           "googlenet": 96, "inception_v3": 96, "efficientnet_b0": 64, "regnet_y_400mf": 64}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", MODULES)
def test_a_module_of_torchvision(name: str, tmp_path: Path) -> None:
    """Scores in TEST; in TRAIN the gradient of the first convolution, by batch statistics."""
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    more = {"init_weights": False, "aux_logits": False} if name in ("googlenet", "inception_v3") else {}
    module = getattr(torchvision.models, name)(weights=None, num_classes=7, **more)
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.5, 1.5)
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
        if type(part).__name__ == "StochasticDepth":
            part.p = 0.0
    x = torch.randn(4, 3, MODULES[name], MODULES[name])
    path = tmp_path / "net.onnx"
    kept = {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module.eval(), (x,), path, dynamo=False, input_names=["x"], output_names=["y"],
                          dynamic_axes={"x": {0: "N"}}, **kept)  # fmt: skip
    made = to_caffe(path)
    assert not any("BVLC" in note for note in made.notes) or name == "shufflenet_v2_x0_5"
    expected = module(x).detach().numpy()
    found = computed(made, x.numpy())["y"].numpy()
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    # in float64: with few values per channel, rounding of the statistics alone changes gradients by 1e-3
    module.double().train()
    x = x.double()
    first_name, first = next((key, part) for key, part in module.named_modules() if isinstance(part, torch.nn.Conv2d))
    weights = torch.randn(expected.shape, dtype=torch.float64)
    (module(x) * weights).sum().backward()
    net = build(made.net, "TRAIN", shapes={"x": tuple(x.shape)}, seed=0)
    load_weights(net, made.weights)
    net.double()
    (net({"x": x})["y"] * weights).sum().backward()
    ours = params(net)[first_name.replace(".", "/")][0].grad
    assert first.weight.grad is not None
    assert ours is not None
    scale = first.weight.grad.abs().max()
    assert (ours - first.weight.grad).abs().max() <= 1e-6 * scale


def test_an_output_that_is_a_constant_is_refused() -> None:
    with pytest.raises(OnnxError, match="its output 'k' is a constant"):
        converted([node("Relu", "x", "y"), node("Relu", "w", "k")], {"w": W}, outputs=("y", "k"))


def test_an_output_without_a_name_is_refused() -> None:
    graph = replace(normalize_graph(from_model(model([node("Relu", "x", "y")]))), outputs=("y", ""))
    with pytest.raises(OnnxError, match="one of its outputs has no name"):
        convert_graph(graph)


def test_an_output_that_is_given_twice_is_one_blob() -> None:
    graph = normalize_graph(from_model(model([node("Relu", "x", "y")])))
    assert [layer.name for layer in convert_graph(replace(graph, outputs=("y", "y"))).net.layer] == ["x", "y"]


def test_layers_that_have_one_constant_in_common_are_not_one_module() -> None:
    """Exporters store equal constants once: two convolutions may have a bias in common, and other weights."""
    nodes = [node("Conv", "x a.weight c.bias", "h"), node("Conv", "h b.weight c.bias", "i"),
             node("Conv", "i a.weight c.bias", "y")]  # fmt: skip
    weights = {"a.weight": draw(3, 3, 1, 1), "b.weight": draw(3, 3, 1, 1, seed=1), "c.bias": draw(3)}
    made, _ = converted(nodes, weights)
    names = {layer.name: [param.name for param in layer.param] for layer in made.net.layer[1:]}
    assert names == {"a": ["a.0", "a.1"], "b": [], "a_2": ["a.0", "a.1"]}
    nodes = [node("Conv", "x folded_1 c.bias", "h"), node("Conv", "h folded_2 c.bias", "y")]
    made, _ = converted(nodes, {"folded_1": draw(3, 3, 1, 1), "folded_2": draw(3, 3, 1, 1, seed=1), "c.bias": draw(3)})
    assert [(layer.name, len(layer.param)) for layer in made.net.layer[1:]] == [("c", 0), ("c_2", 0)]


def test_shapes_and_names_in_a_net_writer() -> None:
    shapes = {"a": (None, 3, 4), "b": (2, 3), "c": (None, None), "d": (None, 3, None), "e": ()}
    graph = replace(normalize_graph(from_model(model([node("Relu", "x", "y")]))), shapes=shapes,
                    constants={"k": np.zeros((4, 5))})  # fmt: skip
    writer = NetWriter(graph)
    assert [writer.dims(name) for name in "abk"] == [(0, 3, 4), (2, 3), (4, 5)]
    for name in "cdz":
        with pytest.raises(RefusedError, match=f"the size of '{name}' is not known; give --input-shape"):
            writer.dims(name)
    with pytest.raises(RefusedError, match="'e' is a single number"):
        writer.dims("e")
    assert [writer.unique(name) for name in ("n", "n", "n", "", "")] == ["n", "n_2", "n_3", "layer", "layer_2"]
    assert [writer.learns(name) for name in ("a.b", "a", "a.b:0", "/a.b", "3.a")] == [True, False, True, False, False]
