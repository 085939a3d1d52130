"""The number of blobs of a layer, held to those that Caffe made for it."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from prototxt import PrototxtError, infer, load_net, parse, parse_file
from prototxt.schema import layer_types
from prototxt.schema.params import DATA_TYPES, KNOWN_TYPES, modern_type, param_count
from prototxt.shapes import LAYER_TYPES


def test_counts_equal_caffe_s(golden: Path) -> None:
    checked = 0
    for folder in sorted((golden / "layers").iterdir()):
        with np.load(folder / "io.npz") as arrays:
            names = [key.split(":")[1] for key in arrays.files if key.startswith("param:")]
        for layer in parse_file(folder / "net.prototxt").root.messages("layer"):
            name, kind = layer.string("name") or "", layer.string("type") or ""
            assert param_count(kind, layer) == names.count(name), f"{folder.name}: {name}"
            checked += 1
        for message in load_net(folder / "net.prototxt").layer:
            assert param_count(message.type, message) == names.count(message.name), f"{folder.name}: {message.name}"
    assert checked > 500


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ('type: "Convolution"', 2),
        ('type: "Convolution" convolution_param { bias_term: false } convolution_param { pad: 1 }', 1),
        ("type: CONVOLUTION convolution_param { bias_term: false }", 1),
        ('type: "conv"', 2),
        ('type: "innerproduct" biasterm: false', 1),
        ('type: "DepthwiseConvolution"', 2),
        ('type: "LSTM" bottom: "x" bottom: "c"', 3),
        ('type: "LSTM" bottom: "x" bottom: "c" bottom: "s"', 4),
        ('type: "LSTM" bottom: "x" bottom: "c" bottom: "h" bottom: "k" recurrent_param { expose_hidden: true }', 3),
        ('type: "RNN" bottom: "x" bottom: "c" bottom: "s"', 6),
        ('type: "WeightedSum" bottom: "a" bottom: "b"', 1),
        ('type: "Gate" bottom: "a" bottom: "b" gate_param { bias_term: false }', 1),
        ('type: "KDLoss"', 0),
        ('type: "Python"', None),
        ('type: "BN"', 2),
        ('type: "BN" bn_param { slope_filler { value: 1 } } bn_param { eps: 1 }', 4),
        ('type: "BN" bn_param { bn_mode: INFERENCE }', 2),
        ('type: "BN" param { } param { } param { }', 4),
        ("type: BN blobs_lr: [0, 0, 0, 0]", 4),
        ('type: "Lstm"', 3),
        ('type: "Mish"', 0),
        ('type: "Onnx"', 0),
        ('type: "Nonsense"', None),
        ("", None),
        ('type: "BatchNorm"', 3),
        ('type: "BatchNorm" batch_norm_param { scale_bias: true }', 5),
        ('type: "BatchNorm" batch_norm_param { scale_bias: false }', 3),
        ('type: "BatchNorm" batch_norm_param { eps: 1 } batch_norm_param { scale_filler { value: 1 } }', 5),
        ('type: "BatchNorm" batch_norm_param { bias_filler { } }', 5),
    ],
)
def test_counts(text: str, count: int | None) -> None:
    layer = parse(text).root
    assert param_count(layer.string("type") or "", layer) == count


def test_old_names() -> None:
    old = ("CONVOLUTION", "conv", "tanh", "IMAGE_SEG_DATA", "PRELU", "padding", "NONE", "Odd")
    new = ["Convolution", "Convolution", "TanH", "ImageSegData", "PReLU", "Padding", "NONE", "Odd"]
    assert [modern_type(name) for name in old] == new
    assert "Convolution" in KNOWN_TYPES
    assert "Python" not in KNOWN_TYPES


def test_every_type_that_is_known_anywhere_is_known_here() -> None:
    with_shapes = {name for name, kind in LAYER_TYPES.items() if kind.function.__module__.startswith("prototxt.")}
    assert KNOWN_TYPES - {"Padding"} == (with_shapes | layer_types.KNOWN_TYPES) - {"Python"}  # Padding is V0's
    assert {name for name in with_shapes if LAYER_TYPES[name].source} - {"Python"} == DATA_TYPES


def test_counts_equal_the_shapes_of_public_nets(shared: Path) -> None:
    """As many as `infer` finds, which knows the bottoms too."""
    checked = 0
    for path in sorted((shared / "reference" / "corpus").glob("*.p*t*")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                net = load_net(path, strict=False)
                shapes = infer(net)
            except PrototxtError:
                continue
        for layer, params in zip(net.layer, shapes.params, strict=True):
            if layer.type != "Python":
                assert param_count(layer.type, layer) == len(params), f"{path.name}: {layer.name} {layer.type}"
                checked += 1
    assert checked > 1000
