"""What follows from a label and a few truths is looked up, and gives what was worked out."""

from __future__ import annotations

import operator
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from fusion import pct
from fusion.solver.steps.programs import shorten
from fusion.solver.steps.recording import record
from fusion.solver.steps.tables import tabulate

BATCH, FEATURES, CLASSES = 4, 6, 5
EVEN = [0, 2, 4]
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]  # scores, reference scores, labels


def task(new: Tensor, old: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(new, labels, reduction="none").sum()


def focal(new: Tensor, old: Tensor, labels: Tensor) -> Tensor:
    return pct.focal_distillation(new=new, old=old, target=labels, distance="l2", classes=EVEN)


def flips(new: Tensor, old: Tensor, labels: Tensor) -> Tensor:
    return pct.focal_distillation(new=new, old=old, target=labels, distance="l2", classes=EVEN, filter="neg_flip")


def naive(new: Tensor, old: Tensor, labels: Tensor) -> Tensor:
    return pct.naive(new=new, old=old, target=labels, classes=EVEN)


def looked_up(loss: Loss) -> set[str]:
    """The operations left in the step; that it gives what autograd gives is asserted for many batches."""
    generator = torch.Generator().manual_seed(5)
    weight = torch.randn(CLASSES, FEATURES, generator=generator)

    def gradient(features: Tensor, old: Tensor, labels: Tensor) -> Tensor:
        leaf = weight.detach().requires_grad_()
        return torch.autograd.grad(loss(features @ leaf.t(), old, labels.long()), leaf)[0]

    def batch() -> tuple[Tensor, Tensor, Tensor]:
        features, old = (torch.randn(BATCH, width, generator=generator) for width in (FEATURES, len(EVEN)))
        return features, old, torch.randint(0, CLASSES, (BATCH,), generator=generator).float()

    program = record(gradient, *batch())
    shorten(program, [weight])
    tabulate(program, BATCH, [weight], 2, CLASSES)
    for _ in range(20):
        values = batch()
        torch.testing.assert_close(program(*values), gradient(*values), rtol=1e-5, atol=1e-6)
    called = (node.target for node in program.graph.nodes if node.op == "call_function")
    return {str(target).split(".")[1] for target in called if target is not operator.getitem}


@pytest.mark.parametrize("losses", [(task, focal), (task, naive), (task, focal, naive)])
def test_one_sum_for_all_losses(losses: tuple[Loss, ...]) -> None:
    left = looked_up(lambda *values: sum((loss(*values) for loss in losses), torch.zeros(())))
    assert "_softmax" in left
    assert not left & {"nll_loss_backward", "_log_softmax_backward_data", "bitwise_and", "any", "ge", "where"}


def test_truths_about_what_learns() -> None:
    looked_up(lambda *values: task(*values) + flips(*values))


def test_nothing_to_look_up() -> None:
    assert looked_up(lambda new, old, labels: new.square().sum()) == {"t", "mm", "mul"}
