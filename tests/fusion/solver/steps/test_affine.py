"""Gradients that are affine in scores and their softmax become one sum; others stay as they are."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx
from torch.nn import functional

from fusion import pct
from fusion.solver.steps.columns import fill, settle, take_out
from fusion.solver.steps.programs import shorten
from fusion.solver.steps.recording import record

BATCH, RECORDS, FEATURES, CLASSES = 4, 12, 6, 5
EVEN = [0, 2, 4]
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]  # scores, reference scores, labels


def rows() -> list[Tensor]:
    """Features, reference scores and labels of all records."""
    generator = torch.Generator().manual_seed(3)
    return [
        torch.randn(RECORDS, FEATURES, generator=generator),
        torch.randn(RECORDS, CLASSES, generator=generator),
        torch.randint(0, CLASSES, (RECORDS,), generator=generator),
    ]


def step(loss: Loss, weight: Tensor) -> Callable[..., Tensor]:
    """Features, reference scores and labels to the gradient of the weight."""

    def gradient(features: Tensor, old: Tensor, labels: Tensor) -> Tensor:
        leaf = weight.detach().requires_grad_()
        return torch.autograd.grad(loss(features @ leaf.t(), old, labels), leaf)[0]

    return gradient


def gathered(loss: Loss) -> tuple[set[str], list[Tensor]]:
    """The operations left in the step, and its columns; that it gives what autograd gives is asserted."""
    weight = torch.randn(CLASSES, FEATURES, generator=torch.Generator().manual_seed(5))
    inputs, gradient = rows(), step(loss, weight)
    program: fx.GraphModule = record(gradient, *(value[:BATCH] for value in inputs))
    shorten(program, [weight])
    maker = take_out(program, BATCH, [weight])
    columns = [] if maker is None else settle(program, fill(maker, inputs, BATCH), BATCH)
    for start in (0, 4, 7):
        batch = [value[start : start + BATCH] for value in [*inputs, *columns]]
        torch.testing.assert_close(program(*batch), gradient(*batch[:3]), rtol=1e-5, atol=1e-6)
    calls = [node for node in program.graph.nodes if node.op == "call_function"]
    return {str(node.target).split(".")[1] for node in calls} - {"t"}, columns


def cross_entropy(new: Tensor, old: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(new, labels, reduction="none").sum() / BATCH


def focal(new: Tensor, old: Tensor, labels: Tensor) -> Tensor:
    return pct.focal_distillation(new=new, old=old[:, :3], target=labels, distance="l2", classes=EVEN)


def naive(new: Tensor, old: Tensor, labels: Tensor) -> Tensor:
    return pct.naive(new=new, old=old, target=labels)


def pulled(new: Tensor, old: Tensor, labels: Tensor) -> Tensor:
    return 0.5 * (old * 3 - (2 - new)).neg().square().sum()


@pytest.mark.parametrize(
    ("losses", "columns"),
    [
        ((cross_entropy,), 1),
        ((cross_entropy, naive), 2),
        ((cross_entropy, focal), 2),
        ((cross_entropy, naive, focal), 3),
        ((pulled,), 1),
    ],
    ids=lambda value: "+".join(loss.__name__ for loss in value) if isinstance(value, tuple) else str(value),
)
def test_one_sum_for_all_losses(losses: tuple[Loss, ...], columns: int) -> None:
    left, made = gathered(lambda *values: sum((loss(*values) for loss in losses), torch.zeros(())))
    assert left <= {"mm", "_softmax", "addcmul", "add"}
    assert 1 <= len(made) <= columns


def test_what_bends_stays() -> None:
    left, _ = gathered(lambda new, old, labels: (new - old).relu().sum() + new.square().mul(new).sum())
    assert left & {"relu", "threshold_backward", "gt", "le"}


def test_ignored_labels_count_nothing() -> None:
    def loss(new: Tensor, old: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(new, labels, reduction="none", ignore_index=2).sum()

    assert "nll_loss_backward" not in gathered(loss)[0]


def test_a_class_named_twice_counts_twice() -> None:
    chosen = torch.tensor([1, 3, 1])

    def loss(new: Tensor, old: Tensor, labels: Tensor) -> Tensor:
        return (new[:, chosen] - old[:, :3]).square().sum() + new.sum()

    assert "index_add" not in gathered(loss)[0]


def test_wide_scores_keep_their_labels() -> None:
    """A coefficient for each of many classes would take more room than the labels that it follows from."""
    features, labels = torch.randn(RECORDS, 3), torch.arange(RECORDS)
    weight = torch.randn(100, 3)

    def gradient(features: Tensor, labels: Tensor) -> Tensor:
        leaf = weight.detach().requires_grad_()
        return torch.autograd.grad(functional.cross_entropy(features @ leaf.t(), labels, reduction="sum"), leaf)[0]

    program = record(gradient, features[:BATCH], labels[:BATCH])
    shorten(program, [weight])
    take_out(program, BATCH, [weight])
    torch.testing.assert_close(program(features[:BATCH], labels[:BATCH]), gradient(features[:BATCH], labels[:BATCH]))
