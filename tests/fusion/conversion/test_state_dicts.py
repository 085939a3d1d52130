"""Caffe weights under the names and in the shapes of PyTorch's parameters."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from fusion.conversion.state_dicts import to_state_dict
from prototxt.schema.decode import UnknownFieldWarning
from prototxt.text.parser import parse

sys.path.insert(0, str(Path(__file__).parents[1] / "onnx" / "graphs"))  # the other room's helper
from graphs import model, node


def test_an_onnx_layer_has_the_names_and_shapes_of_its_file(tmp_path: Path) -> None:
    """Shapes of sizes that differ in ones alone are those of the file, which torch's own module has."""
    nodes = [
        node("Conv", "x conv.weight", "c"),
        node("BatchNormalization", "c bn.weight bn.bias bn.running_mean bn.running_var", "b"),
        node("PRelu", "b act.weight", "p"),
        node("Flatten", "p", "f"),
        node("Gemm", "f fc.weight fc.bias", "y", transB=1),
    ]
    constants = {"conv.weight": np.float32([[[[1]]], [[[2]]]]), "act.weight": np.float32([[[3]], [[4]]]),
                 "bn.weight": np.float32([5, 6]), "bn.bias": np.float32([7, 8]), "bn.running_mean": np.float32([9, 10]),
                 "bn.running_var": np.float32([11, 12]), "fc.weight": np.float32([[1, 2, 3, 4]]),
                 "fc.bias": np.float32([13])}  # fmt: skip
    onnx.save(model(nodes, constants, shape=("N", 1, 1, 2)), tmp_path / "net.onnx")
    net = parse(f'layer {{ name: "l" type: "Onnx" bottom: "x" top: "y" onnx_param {{ file: "{tmp_path}/net.onnx" }} }}')
    stored = {name: array for name, array in constants.items() if name != "act.weight"}
    blobs = [stored["conv.weight"], stored["bn.weight"], stored["bn.bias"], stored["bn.running_mean"],
             stored["bn.running_var"], np.float32([3, 4]), stored["fc.weight"], np.float32([[13]])]  # fmt: skip
    found = to_state_dict(net, {"l": blobs})
    assert found.pop("bn.num_batches_tracked").dtype == torch.int64
    assert {name: (tuple(value.shape), value.tolist()) for name, value in found.items()} == {
        name: (array.shape, array.tolist()) for name, array in constants.items()
    }


def test_kinds_of_layers() -> None:
    text = """layer { name: "d" type: "Deconvolution" bottom: "x" top: "d" unknown_param { value: 1 } }
    layer { name: "b" type: "Bias" bottom: "d" top: "b" }
    layer { name: "p" type: "PReLU" bottom: "b" top: "p" }
    layer { name: "one" type: "PReLU" bottom: "p" top: "one" prelu_param { channel_shared: true } }
    layer { name: "fc" type: "InnerProduct" bottom: "one" top: "fc" }
    layer { name: "turned" type: "InnerProduct" bottom: "fc" top: "y" inner_product_param { transpose: true } }
    layer { name: "fc/scale" type: "Convolution" bottom: "y" top: "z" }"""
    arrays = {
        "d": [np.float32([[[[1, 2]]]]), np.float32([3])],
        "b": [np.float32([4, 5])],
        "p": [torch.nn.Parameter(torch.tensor([6.0, 7.0]))],
        "one": [np.float32(8)],
        "fc": [np.float32([[1, 2, 3], [4, 5, 6]]), np.float32([7, 8])],
        "turned": [np.float32([[1, 2, 3], [4, 5, 6]]), np.float32([1, 2, 3])],
        "fc/scale": [np.float32([[[[9]]]])],
    }
    with pytest.warns(UnknownFieldWarning, match="unknown_param"):
        found = to_state_dict(parse(text), arrays)
    assert {key: value.tolist() for key, value in found.items()} == {
        "d.weight": [[[[1, 2]]]], "d.bias": [3], "b.bias": [4, 5], "p.weight": [6, 7], "one.weight": [8],
        "fc.weight": [[1, 2, 3], [4, 5, 6]], "fc.bias": [7, 8], "turned.weight": [[1, 4], [2, 5], [3, 6]],
        "turned.bias": [1, 2, 3], "fc.scale.weight": [[[[9]]]],
    }  # fmt: skip


def test_the_branch_of_a_prefix_is_taken_alone() -> None:
    text = """layer { name: "net/fc" type: "InnerProduct" bottom: "x" top: "a" }
    layer { name: "net2/fc" type: "InnerProduct" bottom: "x" top: "b" }
    layer { name: "net/out" type: "InnerProduct" bottom: "a" top: "c" }"""
    arrays = {"net/fc": [np.float32([[1]])], "net2/fc": [np.float32([[2]])]}
    found = to_state_dict(parse(text), arrays, prefix="net")
    assert {key: value.tolist() for key, value in found.items()} == {"fc.weight": [[1]]}
