"""The number of blobs of a layer, held to those that Caffe made for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from prototxt import load_net, parse, parse_file
from prototxt.params import KNOWN_TYPES, modern_type, param_count


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
        ('type: "BN"', None),
        ('type: "Nonsense"', None),
        ("", None),
    ],
)
def test_counts(text: str, count: int | None) -> None:
    layer = parse(text).root
    assert param_count(layer.string("type") or "", layer) == count


def test_old_names() -> None:
    assert [modern_type(name) for name in ("CONVOLUTION", "conv", "tanh", "Odd")] == [
        "Convolution",
        "Convolution",
        "TanH",
        "Odd",
    ]
    assert "Convolution" in KNOWN_TYPES
    assert "Python" not in KNOWN_TYPES
