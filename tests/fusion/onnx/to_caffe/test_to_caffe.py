"""ONNX graphs as Caffe nets: each operator against ONNX Runtime, and what a Caffe engineer expects to find."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conversions import POSITIVE, Nodes, W, computed, converted, kinds, shape
from graphs import draw, node

from fusion.conversion.caffe_nets import to_caffe
from fusion.errors import OnnxError
from fusion.nets.build import build, params
from fusion.nets.weights import load_weights
from fusion.onnx.graphs import normalize_graph
from fusion.onnx.graphs.read import from_model
from fusion.onnx.runtime import inference_session
from fusion.onnx.to_caffe import convert_graph
from prototxt.schema.forks import has_fields

pytest.importorskip("onnxruntime")
UNEVEN = [0, 1, 2, 3]  # top, left, bottom, right


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
