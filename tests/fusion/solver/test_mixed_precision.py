"""Mixed precision: half precision where it pays, float32 wherever numbers are kept, and no small gradient lost."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fusion.errors import TrainingError
from fusion.nets.build import params, total_loss
from fusion.solver import Solver
from fusion.solver.logging.console import Lines, Silent
from fusion.solver.mixed_precision import Precision, precision_of
from fusion.solver.train_options import TrainOptions
from prototxt import load_net, parse
from prototxt.schema.messages import SolverParameter

Make = Callable[..., Path]
CPU = torch.device("cpu")


def solver(path: Path, amp: str | None, log: io.StringIO | None = None, **options: object) -> Solver:
    display = Silent() if log is None else Lines(log)
    return Solver(path, device="cpu", display=display, extras=TrainOptions(amp=amp), **options)  # type: ignore[arg-type]


def weights(run: Solver) -> list[Tensor]:
    return [tensor.detach().clone() for tensors in params(run.net).values() for tensor in tensors]


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_training_learns_nearly_as_in_float32_and_keeps_float32(project: Make, amp: str) -> None:
    path = project(frozen=False, iter_size=2, clip_gradients=2.0)
    full, half = solver(path, None), solver(path, amp)
    for run in (full, half):
        run.step(20)
        run.snapshot()
    assert {tensor.dtype for tensor in weights(half)} == {torch.float32}
    for one, other in zip(weights(full), weights(half), strict=True):
        assert not torch.equal(one, other)
        torch.testing.assert_close(one, other, rtol=0, atol=0.05)
    assert half.test()[0].loss == pytest.approx(full.test()[0].loss, rel=0.05)


def test_gradients_are_those_of_torchs_autocast(project: Make) -> None:
    run = solver(project(frozen=False), "bf16")
    run.step(1)
    blobs = next(run.nets[0].batches)
    with torch.autocast("cpu", torch.bfloat16):
        loss = total_loss(run.net, run.net(blobs))
    expected = torch.autograd.grad(loss, list(run.net.parameters()))
    run.flat_params.zero()
    run.engine._step(blobs)
    for parameter, gradient in zip(run.net.parameters(), expected, strict=True):
        assert torch.equal(parameter.grad, gradient)  # type: ignore[arg-type]


def test_updates_whose_gradients_overflow_are_left_out_and_told(project: Make) -> None:
    log = io.StringIO()
    run = solver(project(frozen=False, type='"Adam"', momentum2=0.99, display=1, test_interval=100), "fp16", log)
    run.engine.precision.scaler.load_state_dict(
        {"scale": 2.0**40, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000, "_growth_tracker": 0}
    )
    before = weights(run)
    run.step(1)
    assert run.optimizer.updates == 0
    assert all(torch.equal(one, other) for one, other in zip(before, weights(run), strict=True))
    run.step(30)
    left_out = run.precision.skipped
    assert 1 <= left_out < 31
    assert run.optimizer.updates == 31 - left_out
    assert "fp16: 1 update left out, for gradients overflowed; now scaled by" in log.getvalue()


def test_a_resumed_run_goes_on_from_the_scale_and_the_number_of_updates(project: Make) -> None:
    path = project(frozen=False, type='"Adam"', momentum2=0.99)

    def run_from(state: str | None) -> Solver:
        run = solver(path, "fp16")
        if state is None:
            run.engine.precision.scaler.load_state_dict({**run.precision.state_dict(), "scale": 2.0**30})
        else:
            run.restore(Path(state))
        run.train()
        return run

    whole = run_from(None)
    assert whole.precision.skipped > 0
    resumed = run_from("small_iter_10.solverstate")
    assert all(torch.equal(one, other) for one, other in zip(weights(whole), weights(resumed), strict=True))
    assert resumed.precision.state_dict() == whole.precision.state_dict()
    assert resumed.optimizer.updates == whole.optimizer.updates == 20 - whole.precision.skipped


def test_the_trunk_is_computed_in_half_precision_and_a_head_in_closed_form_stays_in_float32(project: Make) -> None:
    log = io.StringIO()
    full, half = solver(project(), None), solver(project(), "bf16", log)
    for run in (full, half):
        run.step(10)
    assert half.engine.closed is not None
    assert half.precision.dtype is None
    rows, exact = (run.nets[0].batches.rows["trunk"] for run in (half, full))  # type: ignore[attr-defined]
    assert rows.dtype == torch.float32
    assert not torch.equal(rows, exact)
    torch.testing.assert_close(rows, exact, rtol=0.02, atol=0.02)
    assert "mixed precision: frozen layers in bfloat16; the head in closed form, tests in float32" in log.getvalue()


def test_files_of_trunk_outputs_are_told_apart(project: Make) -> None:
    path, log = project(), io.StringIO()
    for amp in (None, "bf16", "bf16"):
        solver(path, amp, log, cache_dir="kept").step(1)
    assert len(list(Path("kept").glob("*TRAIN*"))) == 2
    assert len(list(Path("kept").glob("*TEST*"))) == 1, "tests are in float32 always"
    assert "is for another torch, device, precision or engine" in log.getvalue()
    assert "read from kept" in log.getvalue()


def test_tests_are_in_float32(project: Make) -> None:
    path = project(frozen=False)
    full, half = solver(path, None), solver(path, "bf16")
    assert full.test()[0] == half.test()[0]


def test_debug_info_tells_of_iterations_and_not_of_measurements(project: Make) -> None:
    log = io.StringIO()
    run = solver(project(frozen=False, debug_info="true", display=1), "bf16", log, threads="auto")
    run.step(2)
    assert log.getvalue().count("All net params") == 2


def test_snapshots_hold_it(project: Make) -> None:
    path, log = project(frozen=False), io.StringIO()
    solver(path, "bf16").train()
    run = solver(path, "off", log)
    run.restore(Path("small_iter_10.solverstate"))
    assert run.precision.dtype is None
    assert "warning: amp was bf16 and is now not given" in log.getvalue()


def test_off_without_it_before_is_no_difference() -> None:
    assert TrainOptions(amp="off").differences({}) == []


def test_debug_info_tells_gradients_without_their_scale(project: Make) -> None:
    told = []
    for amp in (None, "fp16"):
        log = io.StringIO()
        solver(project(frozen=False, debug_info="true", display=1), amp, log).step(1)
        (line,) = (line for line in log.getvalue().splitlines() if "All net params" in line)
        told.append(float(line.rpartition(", ")[2].rstrip(")")))
    assert told[1] == pytest.approx(told[0], rel=0.02)


@pytest.mark.parametrize("kind", ["LSTM", "RNN"])
@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_what_recurrent_layers_carry_over_is_kept_in_float32(tmp_path: Path, kind: str, amp: str) -> None:
    text = f"""
layer {{ name: "data" type: "MemoryData" top: "x" top: "y" memory_data_param {{ batch_size: 4 channels: 2 height: 1 width: 3 }} }}
layer {{ name: "cont" type: "DummyData" top: "cont" dummy_data_param {{ shape {{ dim: 4 dim: 2 }} data_filler {{ value: 1 }} }} }}
layer {{ name: "memory" type: "{kind}" bottom: "x" bottom: "cont" top: "h"
  recurrent_param {{ num_output: 3 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "sum" type: "Reduction" bottom: "h" top: "sum" loss_weight: 1 reduction_param {{ operation: SUMSQ }} }}
layer {{ name: "rest" type: "Silence" bottom: "y" }}
"""  # noqa: E501
    message = SolverParameter(base_lr=0.01, lr_policy="fixed", max_iter=4, snapshot=2, random_seed=1)
    message.snapshot_prefix = str(tmp_path / "r")
    message.net_param.CopyFrom(load_net(parse(text, name="net")))
    x = np.random.default_rng(0).standard_normal((8, 2, 1, 3)).astype(np.float32)

    def run() -> Solver:
        arrays = {"x": x, "y": np.zeros(8, np.float32)}
        return Solver(message, device="cpu", display=Silent(), extras=TrainOptions(amp=amp), arrays=arrays)

    whole = run()
    whole.train()
    resumed = run()
    resumed.restore(tmp_path / "r_iter_2.solverstate")
    resumed.train()
    assert all(torch.equal(one, other) for one, other in zip(weights(whole), weights(resumed), strict=True))


def test_names() -> None:
    assert precision_of("off", CPU).dtype is None
    with pytest.raises(TrainingError, match=r"unknown precision 'half'") as caught:
        precision_of("half", CPU)
    assert caught.value.hint == "one of bf16, fp16, off"


def test_a_gpu_without_bfloat16_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "GeForce GTX 1080")
    with pytest.raises(TrainingError, match="GeForce GTX 1080 has no bfloat16") as caught:
        precision_of("bf16", torch.device("cuda"))
    assert caught.value.hint == "take fp16"


def test_outputs_come_back_in_float32() -> None:
    weight = torch.ones(2, 2)
    made = Precision("bf16").outputs(lambda blobs: {"y": blobs["x"] @ weight}, {"x": torch.full((1, 2), 1 + 2**-10)})
    assert made["y"].dtype == torch.float32
    np.testing.assert_array_equal(made["y"].numpy(), 2.0)
