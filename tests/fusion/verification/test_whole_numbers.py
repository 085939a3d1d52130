"""ONNX files whose inputs take whole numbers are fed such, in the type that they name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from fusion.errors import FusionError, OnnxError
from fusion.export import verify_onnx
from fusion.nets.build import build
from fusion.nets.inputs import integer_noise
from fusion.nets.weights import save_weights
from fusion.onnx.runtime import cast_input
from fusion.verification import Feed, verify_branches
from prototxt.schema.load import load_net

DATA = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 4 dim: 4 } } }\n'
REST = """layer { name: "a/onnx" type: "Onnx" bottom: "pixels" top: "a/y" onnx_param { file: "a.onnx" } }
layer { name: "fc" type: "InnerProduct" bottom: "a/y" top: "fc" inner_product_param { num_output: 2 } }
"""
FRONT = 'layer { name: "front" type: "Power" bottom: "data" top: "pixels" power_param { scale: SCALE } }\n'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(kind: int, net: str) -> None:
    """A file that takes the type, casts it and averages, and a net around it."""
    x = helper.make_tensor_value_info("x", kind, ["N", 3, 4, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3, 1, 1])
    nodes = [
        helper.make_node("Cast", ["x"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("GlobalAveragePool", ["floats"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "g", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "a.onnx")
    Path("net.prototxt").write_text(net)
    save_weights(build("net.prototxt", seed=0), "net.caffemodel")


@pytest.mark.parametrize("kind", [TensorProto.UINT8, TensorProto.INT8, TensorProto.INT64, TensorProto.FLOAT])
@pytest.mark.parametrize("front", ["", FRONT.replace("SCALE", "0.3")], ids=["input", "computed"])
def test_a_branch_is_fed_what_the_files_input_can_hold(folder: Path, kind: int, front: str) -> None:
    write(kind, DATA + front + (REST if front else REST.replace("pixels", "data")))
    (found,) = verify_branches("net.prototxt", "net.caffemodel", {"a": Path("a.onnx")})
    assert found.first is None
    assert [row.blob for row in found.differences] == ["a/y"]
    with pytest.raises(FusionError, match=r"'b': .* has no Onnx layers of this prefix"):
        verify_branches("net.prototxt", "net.caffemodel", {"b": Path("a.onnx")})


def test_pictures_go_in_as_they_are_or_the_file_refuses_them(folder: Path) -> None:
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3) * 5).save("a.png")
    feed = Feed(["a.png"])
    write(TensorProto.UINT8, DATA + REST.replace("pixels", "data"))
    assert verify_branches("net.prototxt", "net.caffemodel", {"a": Path("a.onnx")}, feed)[0].first is None
    write(TensorProto.UINT8, DATA + FRONT.replace("SCALE", "0.25") + REST)
    with pytest.raises(OnnxError, match=r"a.onnx: its input 'x' takes uint8, and is fed 2\.5"):
        verify_branches("net.prototxt", "net.caffemodel", {"a": Path("a.onnx")}, feed)


def test_a_model_is_compared_with_a_net_on_whole_numbers(folder: Path) -> None:
    write(TensorProto.UINT8, DATA.replace('"data"', '"x"') + 'layer { name: "y" type: "Pooling" bottom: "x" top: "y" '
          "pooling_param { pool: AVE global_pooling: true } }")  # fmt: skip
    found = verify_onnx(load_net("net.prototxt"), {}, "a.onnx")
    assert found.first is None
    assert {row.shape for row in found.differences} == {(1, 3, 1, 1), (3, 3, 1, 1)}


def test_whole_noise_fills_the_range_that_pixels_and_the_type_have_in_common() -> None:
    ends = {"uint8": (0, 255), "int8": (0, 127), "int64": (0, 255), "bool": (0, 1)}
    for name, (least, most) in ends.items():
        noise = integer_noise("x", (9, 999), 0, np.dtype(name))
        assert (noise.min(), noise.max()) == (least, most)
        assert noise.equal(noise.round())


@pytest.mark.parametrize("number", [256, -1, 0.5, float("nan"), float("inf")])
def test_numbers_that_an_input_cannot_hold_are_refused(number: float) -> None:
    assert cast_input(np.array([0, 255], np.float32), "tensor(uint8)", "x").dtype == np.uint8
    with pytest.raises(OnnxError, match="takes uint8"):
        cast_input(np.array([0, number], np.float32), "tensor(uint8)", "x")


def test_a_file_that_takes_channels_last_is_fed_so(folder: Path) -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, 5, 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3, 4, 5])
    nodes = [helper.make_node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]), helper.make_node("Relu", ["t"], ["y"])]
    graph = helper.make_graph(nodes, "g", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "a.onnx")
    Path("net.prototxt").write_text(
        (DATA + REST)
        .replace("pixels", "data")
        .replace("dim: 4 }", "dim: 5 }")
        .replace('"a.onnx"', '"a.onnx" input: "t"')
    )
    save_weights(build("net.prototxt", seed=0), "net.caffemodel")
    (found,) = verify_branches("net.prototxt", "net.caffemodel", {"a": Path("a.onnx")})
    assert (found.first, found.differences[0].shape) == (None, (2, 3, 4, 5))
