"""What runs in each iteration is compiled where that is faster, told, and done again by a resumed run."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fusion.nets.build import params
from fusion.nets.graph import Net
from fusion.solver import Solver
from fusion.solver.logging.console import Lines
from fusion.solver.step import compile as compiling
from fusion.solver.train_options import TrainOptions

Make = Callable[..., Path]
Blobs = dict[str, Tensor]


def train(path: Path, log: io.StringIO, state: str | None = None, **options: object) -> Solver:
    run = Solver(path, device="cpu", display=Lines(log), **options)  # type: ignore[arg-type]
    if state:
        run.restore(Path(state))
    run.train()
    return run


def weights(run: Solver) -> list[Tensor]:
    return [tensor.detach().clone() for tensors in params(run.net).values() for tensor in tensors]


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Stands in for torch's: the same numbers but for rounding, in so many seconds; and how often it was asked."""
    state = {"compiled": 1.0, "plain": 2.0, "asked": 0}

    def compiled(net: Net, device: torch.device) -> Callable[[Blobs], Blobs]:
        state["asked"] += 1
        return lambda blobs: {key: value * (1 + 1e-6) for key, value in net(blobs).items()}

    monkeypatch.setattr(compiling, "_compiled", compiled)
    monkeypatch.setattr(compiling.Compilable, "_compare", lambda *_: (state["compiled"], state["plain"]))
    return state


def test_what_is_faster_is_taken_and_told(project: Make, compiler: dict[str, float]) -> None:
    path, log = project(frozen=False), io.StringIO()
    fast = train(path, log, compile=True)
    assert re.search(r"compiled in \d+\.\d s: a step takes 1 s compiled, 2 s otherwise", log.getvalue())
    assert fast.engine.compiled
    compiler["compiled"] = 3.0
    slow = train(path, log, compile=True)
    assert "not compiled: a step takes " in log.getvalue()
    plain = train(path, io.StringIO())
    assert all(map(torch.equal, weights(slow), weights(plain)))
    assert not all(map(torch.equal, weights(fast), weights(plain)))
    assert compiler["asked"] == 2


@pytest.mark.parametrize("faster", [True, False])
def test_a_resumed_run_decides_as_it_began(project: Make, compiler: dict[str, float], faster: bool) -> None:
    path, log = project(frozen=False, shuffle=True), io.StringIO()
    compiler["compiled"] = 1.0 if faster else 3.0
    whole = train(path, log, compile=True)
    compiler["compiled"] = 3.0 if faster else 1.0  # another machine may find otherwise
    resumed = train(path, log, "small_iter_10.solverstate")
    assert all(map(torch.equal, weights(whole), weights(resumed)))
    assert compiler["asked"] == 1 + faster
    assert bool(re.search(r"compiled in \d+\.\d s, as the snapshot was written", log.getvalue())) == faster
    again = train(path, log, "small_iter_10.solverstate", compile=True)
    assert all(map(torch.equal, weights(whole), weights(again)))
    assert ("not compiled, as the snapshot was written" in log.getvalue()) != faster


def test_compiling_can_be_given_up(project: Make, compiler: dict[str, float]) -> None:
    path, log = project(frozen=False), io.StringIO()
    train(path, io.StringIO(), compile=True)
    run = train(path, log, "small_iter_10.solverstate", compile=False)
    assert not run.engine.compiled
    assert "warning: a compiled step wrote the snapshot: the last bits may differ" in log.getvalue()


def test_only_the_trunk_is_left_to_compile_below_a_head_in_closed_form(
    project: Make, compiler: dict[str, float]
) -> None:
    log = io.StringIO()
    run = train(project(), log, compile=True, cache_budget=0)
    assert run.engine.closed is not None
    assert run.engine.compiled
    log = io.StringIO()
    train(project(), log, compile=True)
    assert "not compiled: the head is a handful of operations already" in log.getvalue()
    log = io.StringIO()
    train(project(frozen=False, debug_info="true"), log, compile=True)
    assert "not compiled: layers run one at a time" in log.getvalue()


def test_what_the_compiler_lacks_is_told_in_one_line(project: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def compiled(net: Net, device: torch.device) -> Callable[[Blobs], Blobs]:
        def run(blobs: Blobs) -> Blobs:
            try:
                raise RuntimeError("No working C++ compiler found\nwith these flags: ...")
            except RuntimeError as error:
                raise RuntimeError("backend failed") from error

        return run

    monkeypatch.setattr(compiling, "_compiled", compiled)
    path, log = project(frozen=False), io.StringIO()
    run = train(path, log, compile=True)
    assert "not compiled: RuntimeError: No working C++ compiler found\n" in log.getvalue()
    assert all(map(torch.equal, weights(run), weights(train(path, io.StringIO()))))


@pytest.mark.slow
@pytest.mark.parametrize("amp", [None, "bf16"])
def test_torchs_compiler(project: Make, monkeypatch: pytest.MonkeyPatch, amp: str | None) -> None:
    """The real one, fast or not: the same training but for rounding, resumed to the last bit."""
    if shutil.which("g++") is None:
        pytest.skip("torch's compiler needs a C++ compiler")
    monkeypatch.setattr(compiling, "_WORTH", 1e9)
    path, log = project(frozen=False, shuffle=True), io.StringIO()
    whole = train(path, log, compile=True, extras=TrainOptions(amp=amp))
    assert whole.engine.compiled, log.getvalue()
    resumed = train(path, log, "small_iter_10.solverstate", extras=TrainOptions(amp=amp))
    assert all(map(torch.equal, weights(whole), weights(resumed)))
    plain = train(path, log, extras=TrainOptions(amp=amp))
    for one, other in zip(weights(whole), weights(plain), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=2e-3 if amp else 1e-5)
