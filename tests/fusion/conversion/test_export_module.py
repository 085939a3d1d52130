"""What is checked of an exported file, and the errors of what torch cannot export."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from fusion.conversion import export_module as exporting
from fusion.conversion.export_module import _check, export_module
from fusion.conversion.torch_nets import TorchNet
from fusion.errors import OnnxError

sys.path.insert(0, str(Path(__file__).parents[1] / "onnx" / "graphs"))  # the other room's helper
from graphs import model, node

DIFFERS = "net: the exported net answers differently from the module"
ONE = (torch.zeros(1, 2),)


class Answers(nn.Module):
    """Answers as the given function does."""

    def __init__(self, answer: Callable[..., Any]) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, *inputs: Tensor) -> Any:
        """Return the function's answer."""
        return self.answer(*inputs)


def net(*numbers: float) -> TorchNet:
    return TorchNet("net", Answers(lambda x: torch.tensor([numbers])), ONE)


def answering(path: Path, *numbers: float) -> str:
    """Write a file that answers with these numbers to every x [1, 2]."""
    nodes = [node("Mul", "x zero", "none"), node("Add", "none numbers", "y")]
    onnx.save(model(nodes, {"zero": 0.0, "numbers": np.float32([numbers])}, shape=(1, 2)), path)
    return str(path)


@pytest.mark.parametrize(
    ("file", "module", "differs"),
    [
        ((1, 0), (1, 1e-4), False),  # just the limit
        ((1, 0), (1, 1.1e-4), True),
        ((-100, 0), (-100, 5e-3), False),
        ((-100, 0), (-100, 2e-2), True),
        ((1e-3, 0), (1e-3, 5e-8), False),
        ((1e-3, 0), (1e-3, 2e-7), True),
        ((0, 0), (0, 5e-5), False),
        ((1, -2), (1, 2), True),
        ((float("nan"), 0), (float("nan"), 0), True),
        ((1, 1), (1,), True),  # of another shape, which would be broadcast
    ],
)
def test_answers_differ_by_no_more_than_a_share_of_the_largest(
    file: tuple[float, ...], module: tuple[float, ...], differs: bool, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    path = answering(tmp_path / "net.onnx", *file)
    if differs:
        with pytest.raises(OnnxError, match=DIFFERS):
            _check(net(*module), path)
    else:
        _check(net(*module), path)


def test_all_answers_are_compared(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    path = tmp_path / "net.onnx"
    nodes = [node("Neg", "x", "y"), node("Abs", "x", "z"), node("Exp", "x", "e")]
    onnx.save(model(nodes, shape=(1, 2), outputs=("y", "z", "e")), path)
    _check(TorchNet("net", Answers(lambda x: {"a": -x, "b": [x.abs(), (x.exp(), None)]}), ONE), str(path))
    with pytest.raises(OnnxError, match=DIFFERS):
        _check(TorchNet("net", Answers(lambda x: {"a": -x, "b": [x.abs(), (x, None)]}), ONE), str(path))


def test_whole_numbers_are_fed_as_they_are(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    inputs = [helper.make_tensor_value_info("x", TensorProto.INT64, [2])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph([node("Cast", "x", "y", to=TensorProto.FLOAT)], "net", inputs, outputs)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), tmp_path / "a.onnx")
    example = (torch.tensor([3, 4]),)
    _check(TorchNet("net", Answers(lambda x: torch.tensor([3.0, 4.0])), example), str(tmp_path / "a.onnx"))


def test_an_input_that_the_file_lacks_is_reported(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    two = TorchNet("net", Answers(lambda x, _: x), ONE * 2)
    with pytest.raises(OnnxError, match="net: one of its inputs is not used"):
        _check(two, answering(tmp_path / "net.onnx", 1, 2))


def test_what_cannot_be_compared_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _check(TorchNet("net", object(), ONE), "nix.onnx")  # type: ignore[arg-type] # as an exported program
    monkeypatch.setattr(exporting, "find_spec", lambda name: None)
    _check(net(3, 4), answering(tmp_path / "net.onnx", 1, 2))


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "find_spec", lambda name: None if name == "onnxscript" else 1)
    with pytest.raises(OnnxError, match="net: exporting PyTorch nets needs onnxscript") as raised:
        export_module(net(1, 2), tmp_path / "net.onnx")
    assert raised.value.hint == "pip install caffe-fusion[pytorch]"


@pytest.mark.parametrize(("cause", "says"), [(None, "outer"), (ValueError("inner\nand more"), "inner")])
def test_errors_of_the_exporter_are_one_line(
    cause: Exception | None, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxscript")

    def export(*_: object, **__: object) -> None:
        raise RuntimeError("outer\nand pages of text") from cause

    monkeypatch.setattr(torch.onnx, "export", export)
    with pytest.raises(OnnxError) as raised:
        export_module(net(1, 2), tmp_path / "net.onnx")
    assert (raised.value.place, raised.value.message) == ("net", f"torch cannot export it: {says}")
    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: None)
    with pytest.raises(OnnxError, match="net: torch gives no ONNX model for it"):
        export_module(net(1, 2), tmp_path / "net.onnx")
