"""Nets that hold ONNX files, as one ONNX file: operators that opset 17 lacks are said in its words."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import prototxt
from fusion.errors import ExportError, WeightsMismatch
from fusion.export import to_onnx, verify_onnx

sys.path.insert(
    0, str(Path(__file__).parents[2] / "fusion" / "onnx" / "graphs")
)  # the helper of the tests of that room
from graphs import draw, model, node

pytest.importorskip("onnxruntime")
CASES = {
    "gelu": [node("Gelu", "x", "y")],
    "mish": [node("Mish", "x", "y")],
    "dropout": [node("Dropout", "x", "d"), node("Exp", "d", "y")],
    "sizes": [node("Resize", "x - - t", "y", mode="linear", axes=[2, 3])],
    "scales": [node("Resize", "x - s", "y", mode="linear")],
    "weights": [node("Conv", "x w", "c"), node("GlobalMaxPool", "c", "g"), node("Flatten", "g", "y")],
}
CONSTANTS = {"t": np.array([5, 12]), "s": [1.0, 1.0, 2.0, 2.0], "w": draw(4, 3, 3, 3)}
NET = """layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }
layer { name: "twice" type: "Power" bottom: "data" top: "twice" power_param { scale: 2 } }
layer { name: "part" type: "Onnx" bottom: "twice" top: "y" onnx_param { file: "part.onnx" } }
"""


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("net.prototxt").write_text(NET)
    return Path("net.prototxt")


@pytest.mark.parametrize("name", CASES)
def test_the_whole_net_is_one_file(net: Path, name: str) -> None:
    onnx.save(model(CASES[name], CONSTANTS), "part.onnx")
    exported = to_onnx(net, {})
    found = verify_onnx(exported.net, {}, exported.model.SerializeToString())
    assert found.first is None, found.verdict()
    assert {item.domain for item in exported.model.opset_import} == {""}


def test_the_weights_are_those_that_the_net_has_now(net: Path) -> None:
    onnx.save(model(CASES["weights"], CONSTANTS), "part.onnx")
    prototxt.write_weights("net.safetensors", {"part": [draw(4, 3, 3, 3, seed=1)]})
    exported = to_onnx(net, "net.safetensors", opset=21)
    (held,) = (onnx.numpy_helper.to_array(t) for t in exported.model.graph.initializer if len(t.dims) == 4)
    np.testing.assert_array_equal(held, draw(4, 3, 3, 3, seed=1))
    assert verify_onnx(exported.net, "net.safetensors", exported.model.SerializeToString()).first is None
    with pytest.raises(WeightsMismatch, match=r"do not fit the graph in part\.onnx"):
        to_onnx(net, {"part": [draw(4, 3, 2, 2)]})


def test_a_fixed_batch_cannot_be_exported_open(net: Path) -> None:
    nodes = [node("Reshape", "x s", "r"), node("Concat", "r t", "y", axis=1)]
    onnx.save(model(nodes, {"s": np.array([2, 3, 64]), "t": draw(2, 1, 64)}, shape=(2, 3, 8, 8)), "part.onnx")
    with pytest.raises(ExportError, match="its file fixes the batch at 2"):
        to_onnx(net, {})
    onnx.save(model(nodes, {"s": np.array([1, 3, 64]), "t": draw(1, 1, 64)}, shape=(1, 3, 8, 8)), "part.onnx")
    exported = to_onnx(net, {})
    assert exported.model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    assert verify_onnx(exported.net, {}, exported.model.SerializeToString()).first is None


def test_what_opset_17_cannot_say_is_refused(net: Path) -> None:
    onnx.save(model([node("GroupNormalization", "x s s", "y", num_groups=3)], {"s": draw(3)}, opset=21), "part.onnx")
    with pytest.raises(ExportError, match="cannot express its operator GroupNormalization"):
        to_onnx(net, {})
