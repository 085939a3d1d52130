"""What Caffe's layers cannot compute: refused with the reason, all at once, and where to cut before it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from conversions import POSITIVE, Nodes, W, converted, shape
from graphs import draw, model, node

from fusion.errors import OnnxError
from fusion.onnx.graphs import normalize_graph
from fusion.onnx.graphs.read import from_model
from fusion.onnx.to_caffe import convert_graph

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


def test_an_output_that_is_a_constant_is_refused() -> None:
    with pytest.raises(OnnxError, match="its output 'k' is a constant"):
        converted([node("Relu", "x", "y"), node("Relu", "w", "k")], {"w": W}, outputs=("y", "k"))


def test_an_output_without_a_name_is_refused() -> None:
    graph = replace(normalize_graph(from_model(model([node("Relu", "x", "y")]))), outputs=("y", ""))
    with pytest.raises(OnnxError, match="one of its outputs has no name"):
        convert_graph(graph)
