"""The choice between torch and ONNX Runtime for a net's ONNX layers: by the request, the device, and their numbers."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor

from fusion.errors import OnnxError
from fusion.nets.build import build
from fusion.nets.frozen_engine import EngineRequest, FrozenEngine, choose_engine
from fusion.nets.graph import Net
from fusion.onnx.to_torch.runtime_program import RuntimeProgram
from prototxt.text.parser import parse

sys.path.insert(0, str(Path(__file__).parents[1] / "onnx" / "graphs"))  # the helper of those tests
from graphs import draw, model, node

ort = pytest.importorskip("onnxruntime")
NET = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 dim: 8 dim: 8 } } }
layer { name: "b" type: "Onnx" bottom: "x" top: "f" onnx_param { file: "b.onnx" output: "f" frozen: true } }
layer { name: "c" type: "Onnx" bottom: "f" top: "y" top: "r"
  onnx_param { file: "b.onnx" input: "f" output: "y" output: "r" frozen: true } }
"""
X = {"x": torch.from_numpy(draw(2, 3, 8, 8))}


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Net:
    monkeypatch.chdir(tmp_path)
    nodes = [node("Conv", "x w", "c"), node("GlobalAveragePool", "c", "g"), node("Flatten", "g", "f"),
             node("Gemm", "f k", "y", transB=1), node("Relu", "y", "r")]  # fmt: skip
    onnx.save(model(nodes, {"w": draw(4, 3, 3, 3), "k": draw(3, 4)}, outputs=("y", "r")), "b.onnx")
    Path("net.prototxt").write_text(NET)
    return build("net.prototxt", "TEST", seed=1)


def choose(net: Net, request: str = "auto", device: str = "cpu", half: torch.dtype | None = None) -> FrozenEngine:
    return choose_engine(net, EngineRequest(request, "as wanted"), lambda: net(X), torch.device(device), half)


def test_the_runtime_runs_the_layers_in_its_block_only(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.no_grad():
        expected = net(X)
    engine = choose(net)
    assert engine.name == f"onnxruntime {ort.__version__}"
    assert engine.reason.startswith("equals torch within ")
    assert float(engine.reason.split()[3]) < 1e-6
    calls: list[int] = []
    call = RuntimeProgram.__call__
    monkeypatch.setattr(RuntimeProgram, "__call__", lambda self, *inputs: calls.append(1) or call(self, *inputs))
    with engine.running():
        found = net(X)
    assert len(calls) == 2
    for key, value in net(X).items():
        torch.testing.assert_close(found[key], expected[key], rtol=1e-5, atol=1e-6)
        assert torch.equal(value, expected[key])
    assert len(calls) == 2


def test_requests_devices_and_precisions(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    assert str(choose(net, "torch")) == "ONNX layers run in torch: as wanted"
    for engine, reason in (
        (choose(net, device="cuda"), "the device is cuda"),
        (choose(net, half=torch.bfloat16), "the precision is torch.bfloat16"),
    ):
        assert str(engine) == f"ONNX layers run in torch: {reason}"
        assert not engine.programs
    with pytest.raises(OnnxError, match="cannot run in ONNX Runtime, as wanted: the device is cuda") as caught:
        choose(net, "onnxruntime", "cuda")
    assert caught.value.hint == "--frozen-engine torch"
    with pytest.raises(OnnxError, match="there is no engine 'onnxruntme'") as caught:
        choose(net, "onnxruntme")
    assert caught.value.hint == "did you mean 'onnxruntime'?"
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert str(choose(net)) == "ONNX layers run in torch: onnxruntime is not installed"


def test_a_net_without_such_layers_has_no_engine() -> None:
    plain = build(parse(NET[: NET.index('layer { name: "b"')]), "TEST", seed=1)
    assert choose(plain, "onnxruntime").name == ""


def one_of_many(y: Tensor) -> Tensor:
    return y + torch.nn.functional.one_hot(torch.tensor([0, 0]), y.shape[1]) * 2e-5 * y.abs().max()


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (lambda y: y * (1 + 3e-5), "3e-05"),
        (lambda y: y * (1 - 3e-5), "3e-05"),
        (one_of_many, "2e-05"),
        (lambda y: y * float("nan"), "inf"),
        (lambda y: y.double(), "inf"),
        (lambda y: y[:, :1], "inf"),
    ],
)
@pytest.mark.parametrize("layer", ["b", "c"])
def test_a_runtime_that_differs_is_not_used(
    change: Callable[[Tensor], Tensor], difference: str, layer: str, net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = RuntimeProgram.__call__

    def falsified(self: RuntimeProgram, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        found = call(self, *inputs)
        if isinstance(found, Tensor):
            return change(found) if layer == "b" else found
        return (found[0], change(found[1])) if layer == "c" else found

    monkeypatch.setattr(RuntimeProgram, "__call__", falsified)
    reason = f"on layer '{layer}' it differs from torch by {difference} of the largest value"
    assert str(choose(net)) == f"ONNX layers run in torch: {reason}"
    with pytest.raises(OnnxError, match=reason):
        choose(net, "onnxruntime")


def test_a_difference_within_the_tolerance_counts_as_equal(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    call = RuntimeProgram.__call__

    def nudged(self: RuntimeProgram, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        found = call(self, *inputs)
        return found * (1 + 8e-6) if isinstance(found, Tensor) else found

    monkeypatch.setattr(RuntimeProgram, "__call__", nudged)
    assert choose(net).reason == "equals torch within 8e-06 of the largest value"


def test_outputs_of_zeros_are_compared(net: Net) -> None:
    zeros = {"x": torch.zeros(2, 3, 8, 8)}
    engine = choose_engine(net, EngineRequest(), lambda: net(zeros), torch.device("cpu"))
    assert engine.reason == "equals torch within 0 of the largest value"
    np.testing.assert_array_equal(net(zeros)["y"].numpy(), 0)
