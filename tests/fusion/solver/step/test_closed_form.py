"""A head in closed form, on a kept or a live trunk, gives what autograd gives; where it has none, the log says why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fusion.errors import TrainingError
from fusion.layers.score_gradients import NoClosedFormError
from fusion.solver import Solver
from fusion.solver.batches import CachedBatches
from fusion.solver.logging.console import Silent
from fusion.solver.step import step as engines
from fusion.solver.step.closed_form import ClosedForm
from fusion.solver.step.eager_step import Step, eager
from fusion.solver.step.step import Engine
from fusion.solver.train_options import TrainOptions

Make = Callable[..., Path]


def dense(name: str, bottom: str, outputs: int) -> str:
    return f"""layer {{ name: "{name}" type: "InnerProduct" bottom: "{bottom}" top: "{name}"
      param {{ lr_mult: 1 }} param {{ lr_mult: 2 decay_mult: 0 }}
      inner_product_param {{ num_output: {outputs} weight_filler {{ type: "gaussian" std: 0.4 }} }} }}\n"""


def layer(name: str, kind: str, bottoms: str, more: str = "") -> str:
    reads = " ".join(f'bottom: "{bottom}"' for bottom in bottoms.split())
    return f'layer {{ name: "{name}" type: "{kind}" {reads} top: "{name}" {more} }}\n'


REFERENCES = """
layer { name: "side" type: "InnerProduct" bottom: "trunk" top: "side" param { lr_mult: 0 } param { lr_mult: 0 }
  inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
""" + "".join(
    layer(f"held_{n}", kind, "ip side label", f"loss_weight: 0.5 include {{ phase: TRAIN }} pct_param {{ {more} }}")
    for n, (kind, more) in enumerate(
        [
            ("FocalDistillationLoss", "classes: 2 classes: 0 distance: L2"),
            ("NaivePCTLoss", "classes: 2 classes: 0"),
            ("KDLoss", "classes: 2 classes: 0 temperature: 2"),
            ("LDILoss", "classes: 2 classes: 0 filter: NEG_FLIP"),
        ]
    )
)
HEADS = {
    "one layer": dense("ip", "trunk", 3),
    "references": dense("ip", "trunk", 3) + REFERENCES,
    "two layers": dense("hidden", "trunk", 6) + layer("relu1", "ReLU", "hidden") + dense("ip", "relu1", 3),
    "in place": dense("hidden", "trunk", 6)
    + 'layer { name: "r" type: "ReLU" bottom: "hidden" top: "hidden" }\n'
    + dense("ip", "hidden", 3),
    "joined": dense("a", "trunk", 4) + dense("b", "trunk", 5) + layer("both", "Concat", "a b") + dense("ip", "both", 3),
    "added": dense("a", "trunk", 3)
    + dense("b", "a", 3)
    + layer("ip", "Eltwise", "a b", "eltwise_param { coeff: 0.5 coeff: -2 }"),
    "two losses": dense("ip", "trunk", 3)
    + layer("margin", "HingeLoss", "ip label", "loss_weight: 0.2")
    + dense("other", "trunk", 3)
    + layer("second", "SoftmaxWithLoss", "other label", "loss_weight: 3"),
    "a loss below a layer": dense("a", "trunk", 3)
    + layer("low", "SoftmaxWithLoss", "a label", "loss_weight: 0.3")
    + dense("ip", "a", 3),
}
HEAD = 'layer { name: "ip" type: "InnerProduct" bottom: "trunk"'


def with_head(text: str) -> None:
    net = Path("net.prototxt").read_text()
    start, end = net.index(HEAD), net.index('layer { name: "acc"')
    Path("net.prototxt").write_text(net[:start] + text + net[end:])


def run(path: Path, budget: int, count: int = 12) -> Solver:
    solver = Solver(path, device="cpu", display=Silent(), cache_budget=budget)
    solver.step(count)
    return solver


def refuse(*_: object) -> ClosedForm:
    raise NoClosedFormError("it is switched off")


@pytest.mark.parametrize("budget", [0, 1 << 30], ids=["live", "kept"])
@pytest.mark.parametrize("name", HEADS)
def test_the_same_as_autograd(project: Make, monkeypatch: pytest.MonkeyPatch, name: str, budget: int) -> None:
    path = project(frozen=True, shuffle=True, snapshot=0, weight_decay=0.05, average_loss=1)
    with_head(HEADS[name])
    ours = run(path, budget)
    assert ours.engine.choice == "gradients: closed form of the head"
    blobs = next(ours.nets[0].batches)
    out, loss = ours.engine._step(blobs)
    assert set(out) >= {key for key, _ in ours.nets[0].active_net.plan.outputs}
    monkeypatch.setattr(engines, "ClosedForm", refuse)
    theirs = run(path, budget)
    assert theirs.engine.choice == "gradients: autograd, because it is switched off"
    for one, other in zip(ours.flat_params.blobs, theirs.flat_params.blobs, strict=True):
        torch.testing.assert_close(one.tensor, other.tensor, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(loss, theirs.engine._step(blobs)[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", HEADS)
def test_stacked_heads_have_the_gradients_of_each(project: Make, name: str) -> None:
    path = project(frozen=True, snapshot=0)
    with_head(HEADS[name])
    solver = run(path, 1 << 30, 1)
    job = solver.nets[0]
    assert isinstance(job.batches, CachedBatches)
    own = {key: param for key, param in job.active_net.named_parameters() if param.requires_grad}
    draw = torch.Generator().manual_seed(1)
    stack = {key: torch.randn(3, *param.shape, generator=draw) * 0.3 for key, param in own.items()}
    stacked = ClosedForm(job.active_net, next(job.batches), stack).keep(job.batches)
    indices = torch.arange(job.batches.source.batch_size).numpy()[::-1].copy()
    stacked.gradients_at(indices)
    for number in range(3):
        with torch.no_grad():
            for key, param in own.items():
                param.copy_(stack[key][number])
                param.grad = None
        eager(job.active_net)(job.batches.pick(indices))
        for key, param in own.items():
            assert param.grad is not None
            torch.testing.assert_close(stack[key].grad[number], param.grad, rtol=1e-4, atol=1e-6, msg=key)


def test_gradients_that_are_no_numbers_end_in_an_error(project: Make) -> None:
    """Losses of a head are only looked at where they are displayed; every hundredth iteration looks at gradients."""
    path = project(frozen=True, snapshot=0, display=0, average_loss=1, max_iter=300)
    solver = run(path, 1 << 30, 1)
    assert solver.engine.closed is not None
    with torch.no_grad():
        next(iter(solver.flat_params.updated)).fill_(float("nan"))
    with pytest.raises(TrainingError, match="the loss is nan in iteration 99"):
        solver.step(200)


def test_a_loss_that_grows(project: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    path = project(frozen=True, snapshot=0)
    reference = ["net.prototxt:start.caffemodel,start=3,warmup=5"]
    from fusion.nets.weights import save_weights

    save_weights(Solver(path, device="cpu", display=Silent()).net, "start.caffemodel")

    def trained() -> Solver:
        solver = Solver(path, device="cpu", display=Silent(), references=reference,
                        pct=["kd,weight=2,temperature=1"])  # fmt: skip
        solver.step(10)
        return solver

    ours = trained()
    assert ours.engine.closed is not None
    monkeypatch.setattr(engines, "ClosedForm", refuse)
    for one, other in zip(ours.flat_params.blobs, trained().flat_params.blobs, strict=True):
        torch.testing.assert_close(one.tensor, other.tensor, rtol=1e-4, atol=1e-6)


class Divided:
    """A team in which some other process has no closed form."""

    def all(self, truth: bool) -> bool:
        assert truth, "this one has"
        return False

    def in_step(self, step: Step) -> Step:
        return step


def test_all_processes_take_the_same_way(project: Make) -> None:
    """Gradients of fp16 are scaled, those of a closed form are not: averaged, they would mean nothing."""
    solver = Solver(project(), device="cpu", display=Silent(), extras=TrainOptions(amp="fp16"))
    solver.step(1)
    job = solver.nets[0]
    assert solver.engine.closed is not None
    assert isinstance(job.batches, CachedBatches)
    job.batches.keep({"trunk", "label"})
    engine = Engine(job, solver.flat_params, solver.settings, Divided(), None)  # type: ignore[arg-type]
    assert engine.closed is None
    assert engine.choice == "gradients: autograd, because another process has none"
    assert engine.precision.scaler is not None
    assert set(job.batches.rows) == {"trunk", "label"}, "and it keeps no rows for a step that it does not take"


def test_a_label_that_is_no_class_is_found_when_its_turn_comes(project: Make) -> None:
    path = project(frozen=True, snapshot=0)
    lines = Path("train.txt").read_text().splitlines()
    sliced = Path("net.prototxt").read_text().replace('bottom: "label" top: "loss"', 'bottom: "shifted" top: "loss"')
    shift = 'layer { name: "shift" type: "Power" bottom: "label" top: "shifted" power_param { shift: 1 } }\n'
    Path("net.prototxt").write_text(sliced.replace('layer { name: "acc"', shift + 'layer { name: "acc"'))
    Path("train.txt").write_text("\n".join(f"{line.split()[0]} {0 if n < 8 else 2}" for n, line in enumerate(lines)))
    solver = Solver(path, device="cpu", display=Silent())
    with pytest.raises(Exception, match=r"out of bounds|classes"):
        solver.step(len(lines))
    assert solver.engine.closed is None


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (dense("a", "trunk", 3) + layer("ip", "Sigmoid", "a"), r"layer 'ip' \(Sigmoid\) is not one of InnerProduct"),
        (dense("ip", "trunk", 3).replace("lr_mult: 2", "lr_mult: 0"), "only a part of layer 'ip' learns"),
        (dense("ip", "trunk", 3) + dense("b", "trunk", 3) + layer("more", "EuclideanLoss", "ip b"), "compares more"),
        (dense("ip", "trunk", 3) + dense("spare", "trunk", 2), "between those that learn"),
    ],
)
def test_the_reason_is_told(project: Make, head: str, reason: str) -> None:
    path = project(frozen=True, snapshot=0)
    with_head(head)
    solver = Solver(path, device="cpu", display=Silent())
    solver.step(1)
    with pytest.raises(NoClosedFormError, match=reason):
        ClosedForm(solver.nets[0].active_net, next(solver.nets[0].batches))
    assert solver.engine.choice.startswith("gradients: autograd, because ")


@pytest.mark.parametrize(
    ("change", "reason"), [({"iter_size": 2}, "iter_size is 2"), ({"debug_info": "true"}, "debug")]
)
def test_settings_that_want_autograd(project: Make, change: dict[str, object], reason: str) -> None:
    solver = Solver(project(frozen=True, snapshot=0, **change), device="cpu", display=Silent())
    solver.step(1)
    assert f"autograd, because {reason}" in solver.engine.choice


def test_what_does_not_fit_into_memory_is_no_closed_form(project: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from fusion.solver.step import closed_form

    monkeypatch.setattr(closed_form, "_ROOM", 22 * 3 * 4 - 1)
    solver = Solver(project(frozen=True, snapshot=0), device="cpu", display=Silent())
    solver.step(1)
    assert "of 22 records take" in solver.engine.choice
    monkeypatch.setattr(closed_form, "_ROOM", 22 * 3 * 4)
    solver = Solver(project(frozen=True, snapshot=0), device="cpu", display=Silent())
    solver.step(1)
    assert solver.engine.closed is not None


def test_labels_that_later_batches_may_ignore_need_autograd(project: Make) -> None:
    """The first batch holds no ignored label: on a live trunk that says nothing about the next."""
    path = project(frozen=True, snapshot=0)
    lines = [line.split()[0] for line in Path("train.txt").read_text().splitlines()]
    Path("train.txt").write_text("".join(f"{name} {2 if n > 8 else n % 2}\n" for n, name in enumerate(lines)))
    net = Path("net.prototxt").read_text()
    Path("net.prototxt").write_text(net.replace('top: "loss" }', 'top: "loss" loss_param { ignore_label: 2 } }'))
    solver = run(path, 0, 5)
    assert solver.engine.choice.endswith("because labels that are ignored change the divisor from batch to batch")
    kept = run(path, 1 << 30, 5)
    assert "some labels are ignored" in kept.engine.choice
