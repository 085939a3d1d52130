"""A head behind a trunk that runs in each iteration is traced, and gives what autograd gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fusion.solver import Solver
from fusion.solver.feeds import CachedFeed
from fusion.solver.options.extras import Extras
from fusion.solver.steps import stepping
from fusion.solver.steps.engine import Engine
from fusion.solver.steps.plain import Step
from fusion.solver.watching.display import Silent

Make = Callable[..., Path]
SIDE = """
layer { name: "side" type: "InnerProduct" bottom: "trunk" top: "side" param { lr_mult: 0 } param { lr_mult: 0 }
  inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "held" type: "FocalDistillationLoss" bottom: "ip" bottom: "side" bottom: "label" top: "held"
  loss_weight: 0.5 include { phase: TRAIN } pct_param { classes: 2 classes: 0 distance: L2 } }
layer { name: "again" type: "NaivePCTLoss" bottom: "ip" bottom: "side" bottom: "label" top: "again"
  include { phase: TRAIN } pct_param { classes: 2 classes: 0 } }
"""


def run(path: Path) -> tuple[Solver, list[torch.Tensor]]:
    """A solver behind some iterations, and its learnable weights."""
    solver = Solver(path, device="cpu", display=Silent(), cache_budget=0)
    solver.step(12)
    return solver, [blob.tensor.detach().clone() for blob in solver.arena.blobs]


@pytest.mark.parametrize("held", [False, True])
def test_the_same_as_autograd(project: Make, monkeypatch: pytest.MonkeyPatch, held: bool) -> None:
    path = project(frozen=True, shuffle=True, snapshot=0)
    if held:
        Path("net.prototxt").write_text(Path("net.prototxt").read_text() + SIDE)
    traced, ours = run(path)
    assert traced._engine is not None
    assert traced._engine.traced is not None
    blobs = traced._train.feed.take()
    out, loss = traced._engine._step(blobs)
    assert set(out) == {key for key, _ in traced.net.plan.outputs}
    monkeypatch.setattr(stepping, "TRACEABLE", frozenset())
    plain, theirs = run(path)
    assert plain._engine is not None
    assert plain._engine.traced is None
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(loss, plain._engine._step(blobs)[1], rtol=1e-4, atol=1e-6)


class Divided:
    """A team in which some other process cannot trace its step."""

    def all(self, truth: bool) -> bool:
        assert truth, "this one can"
        return False

    def together(self, step: Step) -> Step:
        return step


def test_no_process_traces_where_one_cannot(project: Make) -> None:
    """Gradients of fp16 are scaled, those of a traced step are not: averaged, they would mean nothing."""
    solver = Solver(project(), device="cpu", display=Silent(), extras=Extras(amp="fp16"))
    solver.step(1)
    job = solver._train
    assert solver._engine is not None
    assert solver._engine.traced is not None
    assert isinstance(job.feed, CachedFeed)
    job.feed.keep({"trunk", "label"})
    engine = Engine(job, solver.arena, solver.settings, Divided(), None)  # type: ignore[arg-type]
    assert engine.traced is None
    assert engine.precision.scaler is not None
    assert set(job.feed.rows) == {"trunk", "label"}, "and it keeps no columns for a step that it does not take"


def test_labels_are_looked_up(project: Make) -> None:
    path = project(frozen=True, snapshot=0)
    Path("net.prototxt").write_text(Path("net.prototxt").read_text() + SIDE)
    solver, _ = run(path)
    assert solver._engine is not None
    code = solver._engine.traced._quick.run.__self__.code  # type: ignore[union-attr]
    assert "table_" in code
    assert code.count("aten.index_select") == 2, "one look-up by the label, and one by label and truth"
    assert "any" not in code


def test_a_label_that_is_no_class_is_found_when_its_turn_comes(project: Make) -> None:
    """The gradient alone would be worked out without asking: such a net is not traced."""
    path = project(frozen=True, snapshot=0)
    lines = Path("train.txt").read_text().splitlines()
    sliced = Path("net.prototxt").read_text().replace('bottom: "label" top: "loss"', 'bottom: "shifted" top: "loss"')
    shift = 'layer { name: "shift" type: "Power" bottom: "label" top: "shifted" power_param { shift: 1 } }\n'
    Path("net.prototxt").write_text(sliced.replace('layer { name: "acc"', shift + 'layer { name: "acc"'))
    Path("train.txt").write_text("\n".join(f"{line.split()[0]} {0 if n < 8 else 2}" for n, line in enumerate(lines)))
    solver = Solver(path, device="cpu", display=Silent())
    with pytest.raises(Exception, match=r"out of bounds|classes"):
        solver.step(len(lines))
    assert solver._engine is not None
    assert solver._engine.traced is None


def test_the_decision_to_trace_does_not_follow_from_the_weights(project: Make) -> None:
    """A net that is nearly perfect has gradients as small as their rounding."""
    solver = Solver(project(frozen=True, snapshot=0), device="cpu", display=Silent())
    with torch.no_grad():
        for flat in solver.arena.flat:
            flat.mul_(1e3)
    solver.step(1)
    assert solver._engine is not None
    assert solver._engine.traced is not None


def test_a_trace_that_fails_leaves_nothing_behind(project: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    path = project(frozen=True, snapshot=0)
    Path("net.prototxt").write_text(Path("net.prototxt").read_text() + SIDE)
    monkeypatch.setattr(stepping, "_agrees", lambda *_: False)
    solver = Solver(path, device="cpu", display=Silent())
    solver.step(1)
    assert not [key for key in solver._train.feed.rows if key.startswith("column")]  # type: ignore[attr-defined]
