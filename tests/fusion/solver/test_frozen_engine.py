"""Frozen ONNX layers that are computed once: by torch, or by ONNX Runtime where it equals torch, and resumed alike."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from caffe_fusion_tools import evaluate, train
from torch import Tensor

from fusion.errors import OnnxError
from fusion.nets.build import build, params, restrict_to_blobs
from fusion.nets.weights import save_weights
from fusion.onnx.to_torch.runtime_program import RuntimeProgram
from fusion.pct import Predictions
from fusion.solver import Solver, prepare
from fusion.solver.logging.console import Lines
from fusion.solver.snapshots.resume_state import read_resume_state, write_resume_state

sys.path.insert(0, str(Path(__file__).parents[1] / "onnx" / "graphs"))  # the helper of those tests
from graphs import draw, model, node

ort = pytest.importorskip("onnxruntime")
NET = """
layer { name: "data" type: "MemoryData" top: "data" top: "label"
  memory_data_param { batch_size: 4 channels: 3 height: 8 width: 8 } }
layer { name: "b" type: "Onnx" bottom: "data" top: "f" onnx_param { file: "b.onnx" output: "f" frozen: true } }
layer { name: "c" type: "Onnx" bottom: "f" top: "c" onnx_param { file: "b.onnx" input: "f" output: "y" frozen: true } }
layer { name: "score" type: "InnerProduct" bottom: "c" top: "score"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "score" bottom: "label" top: "loss" }
""".replace('layer { name: "ip" type: "InnerProduct" bottom: "f" bottom: "c" top: "ip" }\n', "")
SOLVER = """net: "net.prototxt" base_lr: 0.1 momentum: 0.9 lr_policy: "fixed" max_iter: 8 snapshot: 4
snapshot_prefix: "run" random_seed: 3 display: 0
"""
ARRAYS = {"data": draw(12, 3, 8, 8), "label": np.arange(12) % 3}
RUNTIME = f"onnxruntime {ort.__version__}"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    nodes = [node("Conv", "x w", "c"), node("Gelu", "c", "r"), node("GlobalAveragePool", "r", "g"),
             node("Flatten", "g", "f"), node("Gemm", "f k", "y", transB=1)]  # fmt: skip
    onnx.save(model(nodes, {"w": draw(4, 3, 3, 3), "k": draw(3, 4)}), "b.onnx")
    Path("net.prototxt").write_text(NET)
    Path("solver.prototxt").write_text(SOLVER)


def opened(log: io.StringIO | None = None, **options: Any) -> Solver:
    return Solver("solver.prototxt", device="cpu", display=Lines(log or io.StringIO()), arrays=ARRAYS, **options)


def prepared(**options: Any) -> tuple[Solver, str]:
    log = io.StringIO()
    solver = opened(log, **options)
    solver.step(1)
    return solver, log.getvalue()


def rows(solver: Solver) -> Tensor:
    """The cached outputs of the trunk for all records."""
    found: Tensor = solver.nets[0].batches.rows["c"]  # type: ignore[attr-defined]
    return found


def falsified(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    """Let the runtime multiply all outputs by a factor."""
    call = RuntimeProgram.__call__
    monkeypatch.setattr(RuntimeProgram, "__call__", lambda self, *inputs: call(self, *inputs) * factor)


def without_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)


def saved(solver: Solver) -> dict[str, list[Tensor]]:
    return {name: [blob.detach().clone() for blob in blobs] for name, blobs in params(solver.net).items()}


def test_the_runtime_computes_the_rows_with_the_weights_of_the_net(monkeypatch: pytest.MonkeyPatch) -> None:
    net = build("net.prototxt", seed=1, shapes={"data": (4, 3, 8, 8), "label": (4,)})
    for blobs in params(net).values():
        for blob in blobs:
            blob.data *= 2  # other weights than those in the file
    save_weights(net, "other.caffemodel")
    expected, log = prepared(weights="other.caffemodel", frozen_engine="torch")
    assert "TRAIN net: frozen ONNX layers run in torch: as requested\n" in log
    found, log = prepared(weights="other.caffemodel")
    assert f"TRAIN net: frozen ONNX layers run in {RUNTIME}: equals torch within " in log
    torch.testing.assert_close(rows(found), rows(expected), rtol=0, atol=1e-5 * float(rows(expected).abs().max()))
    assert not torch.allclose(rows(found), rows(prepared()[0]), rtol=0.1)
    falsified(monkeypatch, 1 + 3e-6)  # shows that the rows are the runtime's
    nudged, _ = prepared(weights="other.caffemodel", frozen_engine="onnxruntime")
    torch.testing.assert_close(rows(nudged), rows(found) * (1 + 3e-6) ** 2, rtol=5e-7, atol=0)
    assert not torch.allclose(rows(nudged), rows(found), rtol=2e-6, atol=0)


def test_after_the_rows_are_computed_the_net_itself_runs_in_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    solver, _ = prepared()
    falsified(monkeypatch, 100.0)
    batch = {"data": torch.from_numpy(ARRAYS["data"][:4]), "label": torch.zeros(4)}
    shown = restrict_to_blobs(solver.net, ["c"])(batch)["c"]
    torch.testing.assert_close(shown, rows(solver)[:4], rtol=1e-4, atol=1e-5)


def test_a_runtime_that_differs_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    falsified(monkeypatch, 1 + 3e-5)
    solver, log = prepared()
    assert "run in torch: on layer 'b' it differs from torch by 3e-05 of the largest value" in log
    assert torch.equal(rows(solver), rows(prepared(frozen_engine="torch")[0]))
    with pytest.raises(OnnxError, match="in ONNX Runtime, as requested: on layer 'b' it differs") as caught:
        prepared(frozen_engine="onnxruntime")
    assert caught.value.hint == "--frozen-engine torch"


def test_without_the_runtime_torch_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    without_runtime(monkeypatch)
    assert "TRAIN net: frozen ONNX layers run in torch: onnxruntime is not installed\n" in prepared()[1]
    with pytest.raises(OnnxError, match="as requested: onnxruntime is not installed"):
        prepared(frozen_engine="onnxruntime")


def test_nets_without_such_layers_say_nothing_unless_the_runtime_is_requested() -> None:
    dense = 'layer { name: "c" type: "InnerProduct" bottom: "data" top: "c" param { lr_mult: 0 } param { lr_mult: 0 }'
    lines = NET.splitlines()
    first = next(number for number, line in enumerate(lines) if '"b"' in line)
    lines[first : first + 2] = [f"{dense} inner_product_param {{ num_output: 4 }} }}"]
    Path("net.prototxt").write_text("\n".join(lines))
    assert "ONNX" not in prepared()[1]
    assert "warning: --frozen-engine onnxruntime has no effect" in prepared(frozen_engine="onnxruntime")[1]


@pytest.mark.parametrize("before", ["torch", "onnxruntime"])
def test_a_resumed_run_keeps_its_engine(before: str) -> None:
    whole = opened(frozen_engine=before)
    whole.train()
    resumed, log = opened(log := io.StringIO()), log
    resumed.restore("run_iter_4.solverstate")
    resumed.step(4)
    assert ("run in torch: as in the snapshot" in log.getvalue()) == (before == "torch")
    assert "warning" not in log.getvalue()
    for name, blobs in saved(whole).items():
        assert all(map(torch.equal, blobs, saved(resumed)[name]))


def test_a_snapshot_of_the_runtime_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    opened().train()
    without_runtime(monkeypatch)
    resumed = opened()
    resumed.restore("run_iter_4.solverstate")
    with pytest.raises(OnnxError, match="as in the snapshot: onnxruntime is not installed") as caught:
        resumed.step(1)
    assert caught.value.hint == "--frozen-engine torch"
    other = opened(log := io.StringIO(), frozen_engine="torch")
    other.restore("run_iter_4.solverstate")
    other.step(1)
    assert f"warning: {RUNTIME} computed the frozen ONNX layers of the run that wrote the snapshot" in log.getvalue()


def test_snapshots_from_before_the_choice_were_computed_by_torch() -> None:
    opened().train()
    state = read_resume_state("run_iter_4.fusionstate")
    assert state is not None
    assert state.decisions["frozen_engines"] == RUNTIME
    rest = {key: value for key, value in state.decisions.items() if key != "frozen_engines"}
    write_resume_state("run_iter_4.fusionstate", replace(state, decisions=rest))
    resumed = opened(log := io.StringIO())
    resumed.restore("run_iter_4.solverstate")
    resumed.step(1)
    assert "run in torch: as in the snapshot" in log.getvalue()


@pytest.mark.parametrize(
    ("name", "number", "alone", "wanted"),
    [
        ("auto", 0, True, "auto"),
        ("auto", 1, True, "onnxruntime"),
        ("auto", 2, True, "auto"),
        ("auto", 0, False, "torch"),
        ("auto", 1, False, "onnxruntime"),
        ("onnxruntime", 0, False, "onnxruntime"),
        ("torch", 1, True, "torch"),
    ],
)
def test_the_engine_of_a_net_does_not_depend_on_chance(name: str, number: int, alone: bool, wanted: str) -> None:
    progress = SimpleNamespace(frozen_engines=("", "onnxruntime 1.0"))
    run: Any = SimpleNamespace(progress=progress, data_parallel=None if alone else object())
    assert prepare._engine_request(run, name, number).name == wanted


def test_cached_files_are_of_one_engine() -> None:
    _, log = prepared(cache_dir="kept", frozen_engine="torch")
    assert "written to kept/trunk-TRAIN-" in log
    _, log = prepared(cache_dir="kept")
    assert ".rows is for another torch, device, precision or engine)" in log
    for engine in ("torch", "auto"):
        assert "read from kept/trunk-TRAIN-" in prepared(cache_dir="kept", frozen_engine=engine)[1]


@pytest.mark.parametrize("more", [[], ["--sweep", "lr=0.1,0.2"]])
def test_the_command_passes_it_on(
    more: list[str], write_images: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(12, (8, 8), 3)
    start = NET.index("layer", 1)
    end = NET.index("layer", start + 1)
    data = """layer { name: "data" type: "ImageData" top: "data" top: "label"
  image_data_param { source: "list.txt" batch_size: 4 } transform_param { scale: 0.01 } }
"""
    Path("net.prototxt").write_text(NET[:start] + data + NET[end:])
    Path("solver.prototxt").write_text(f"{SOLVER} test_iter: 1 test_interval: 4")
    command = ["--solver", "solver.prototxt", "--device", "cpu", "--threads", "1", *more]
    assert train.main([*command, "--frozen-engine", "torch"]) == 0
    assert "frozen ONNX layers run in torch: as requested" in capsys.readouterr().err
    assert train.main(command) == 0
    assert f"frozen ONNX layers run in {RUNTIME}: equals torch" in capsys.readouterr().err


def test_a_net_is_measured_in_the_engine(
    monkeypatch: pytest.MonkeyPatch, write_images: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(12, (8, 8), 3)
    falsified(monkeypatch, 1 + 8e-6)
    common = ["--model", "b.onnx", "--list", "list.txt", "--pixels", "unit", "--device", "cpu", "--predictions"]
    found = {}
    for engine, said in (("torch", "torch: as requested"), ("auto", f"{RUNTIME}: equals torch within 8e-06")):
        assert evaluate.main([*common, f"{engine}.npz", "--frozen-engine", engine]) == 0
        assert f"ONNX layers run in {said}" in capsys.readouterr().err
        found[engine] = Predictions.load(f"{engine}.npz").logits
    np.testing.assert_allclose(found["auto"], found["torch"], rtol=2e-5)
    assert np.abs(found["auto"] / found["torch"] - 1).min() > 5e-6
