"""Every loss's gradient in closed form is autograd's."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fusion.distributed import process_group
from fusion.layers.distances import EuclideanLoss, HingeLoss
from fusion.layers.losses import InfogainLoss, SigmoidCrossEntropyLoss, SoftmaxWithLoss
from fusion.layers.pct import CompatibilityLoss, EnsembleLoss, ReferenceLoss
from fusion.layers.score_gradients import NoClosedFormError, ScoreGradient, terms_of
from fusion.pct import contrastive, losses

N, C = 12, 6
SOME = [1, 3, 4]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


LABELS = torch.tensor([0, 1, 2, 3, 4, 5, 1, 3, 4, 1, 3, 0], dtype=torch.float64)


def references(classes: list[int] | None, count: int = 2) -> list[Tensor]:
    return [draw(N, len(classes) if classes else C, seed=7 + n) for n in range(count)] + [LABELS]


def pct(loss: Any, count: int = 2, shares: tuple[float, ...] = (), **options: Any) -> tuple[nn.Module, list[Tensor]]:
    module = EnsembleLoss if loss is losses.elodi else ReferenceLoss
    return module(partial(loss, **options), shares), references(options.get("classes"), count)


def smoothed(share: float) -> nn.Module:
    loss = SoftmaxWithLoss(1, None, "VALID", probabilities=False)
    loss.smoothing = share
    return loss


CASES: dict[str, tuple[nn.Module, list[Tensor]]] = {
    **{
        f"softmax {mode}": (SoftmaxWithLoss(1, None, mode, probabilities=False), [LABELS])
        for mode in ("VALID", "FULL", "BATCH_SIZE", "NONE")
    },
    "softmax smoothed": (smoothed(0.1), [LABELS]),
    "softmax, a label that no record has is ignored": (SoftmaxWithLoss(-1, 255, "VALID", False), [LABELS]),
    "infogain": (InfogainLoss(1, None, "VALID", False, draw(C, C, seed=3).abs()), [LABELS]),
    "euclidean": (EuclideanLoss(), [draw(N, C, 1, seed=4)]),
    "hinge L1": (HingeLoss(squared=False), [LABELS]),
    "hinge L2": (HingeLoss(squared=True), [LABELS]),
    **{
        f"sigmoid {mode}": (SigmoidCrossEntropyLoss(None, mode), [draw(N, C, seed=5).sigmoid()])
        for mode in ("BATCH_SIZE", "VALID", "NONE")
    },
    **{
        f"{name} {rule} {classes}": pct(loss, classes=classes, filter=rule, alpha=0.7, beta=3.0)
        for name, loss in (("kd", losses.kd), ("lm", losses.logit_matching), ("ldi", losses.ldi))
        for rule in ("all_pass", "old_correct", "new_incorrect", "neg_flip")
        for classes in (None, SOME)
    },
    "kd at T 1 beside the softmax": pct(losses.kd, temperature=1.0),
    "kd at T 100": pct(losses.kd, temperature=100.0, filter="old_correct"),
    "kd with shares": pct(losses.kd, shares=(0.2, 0.8)),
    "naive": pct(losses.naive),
    "naive of some": pct(losses.naive, classes=SOME),
    "ldi margin 0, p 1": pct(losses.ldi, margin=0.0, p=1.0),
    "ldi p 3": pct(losses.ldi, p=3.0),
    "ldi top 2": pct(losses.ldi, topk=2),
    "ldi top 2 of the reference": pct(losses.ldi, topk=2, topk_by_reference=True),
    "ldi without the label": pct(losses.ldi, exclude_gt=True),
    "ldi without the label, of some": pct(losses.ldi, exclude_gt=True, classes=SOME),
    "ldi one-sided": pct(losses.ldi, one_sided=True),
    "ldi relative": pct(losses.ldi, relative=True, margin=0.1),
    "ldi p-norm": pct(losses.ldi, p_norm=True, topk=3, topk_by_reference=True),
    "elodi": pct(losses.elodi, count=3),
    "elodi with shares, of some": pct(losses.elodi, count=2, shares=(1.0, 3.0), classes=SOME, margin=0.2),
}


@pytest.mark.parametrize("name", CASES)
def test_autograd_gives_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    loss, others = CASES[name]
    z = draw(N, C).requires_grad_()
    (wanted,) = torch.autograd.grad(0.3 * loss(z, *others), z)
    terms = terms_of(loss, 0.3, C, N, others)
    found = ScoreGradient(terms)(z.detach(), terms.rows()) / N
    assert wanted.abs().max() > 1e-4
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_stacked_scores_have_the_gradients_of_each(name: str) -> None:
    """Scores [N, H, C] of several heads, of which rows hold one for all: as many gradients, in place of H calls."""
    loss, others = CASES[name]
    terms = terms_of(loss, 0.3, C, N, others)
    gradient, rows = ScoreGradient(terms), terms.rows()
    scores = [draw(N, C, seed=seed).float() for seed in range(3)]
    found = gradient(torch.stack(scores, 1), [row[:, None] for row in rows])
    for head, z in enumerate(scores):
        torch.testing.assert_close(found[:, head], gradient(z, rows), rtol=1e-5, atol=1e-6)


def test_losses_add_up_and_a_factor_scales_them() -> None:
    z = draw(N, C)
    names = ("softmax VALID", "naive of some", "kd all_pass None", "kd all_pass [1, 3, 4]", "lm old_correct None")
    every = [CASES[name] for name in names]
    total = terms_of(*[every[0][0], 1.0, C, N, every[0][1]])  # type: ignore[arg-type]
    apart = ScoreGradient(total)(z, total.rows())
    for loss, others in every[1:]:
        terms = terms_of(loss, 0.5, C, N, others)
        apart = apart + ScoreGradient(terms)(z, terms.rows())
        total.add(terms)
    torch.testing.assert_close(ScoreGradient(total)(z, total.rows()), apart, rtol=1e-5, atol=1e-6)
    factor = torch.full((1,), 0.25)
    torch.testing.assert_close(ScoreGradient(total, factor)(z, total.rows()), 0.25 * apart, rtol=1e-5, atol=1e-6)


def test_a_sum_over_processes_has_no_closed_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_group, "current_group", object)
    with pytest.raises(NoClosedFormError, match="NONE in several processes"):
        terms_of(SoftmaxWithLoss(1, None, "NONE", False), 1.0, C, N, [LABELS])
    assert terms_of(SoftmaxWithLoss(1, None, "VALID", False), 1.0, C, N, [LABELS]).rows()


@pytest.mark.parametrize(
    ("loss", "others", "reason"),
    [
        (SoftmaxWithLoss(1, 3, "VALID", False), [LABELS], "labels are ignored"),
        (SoftmaxWithLoss(1, None, "VALID", False), [LABELS - 1], r"not in 0\.\.5"),
        (SoftmaxWithLoss(1, None, "VALID", False), [LABELS + 1], r"not in 0\.\.5"),
        (SoftmaxWithLoss(0, None, "VALID", False), [LABELS], "axis 0"),
        (SoftmaxWithLoss(1, None, "VALID", False), [LABELS, torch.ones(C)], "weights of classes"),
        (InfogainLoss(1, None, "VALID", False, None), [LABELS, torch.eye(C)], "matrix from a blob"),
        (SigmoidCrossEntropyLoss(255, "BATCH_SIZE"), [torch.zeros(N, C)], "ignore_label"),
        (CompatibilityLoss([]), [LABELS], "CompatibilityLoss"),
        (ReferenceLoss(partial(contrastive.cna), (), labelled=False), [draw(N, C)], "losses of features"),
    ],
)
def test_what_has_no_closed_form_says_why(loss: nn.Module, others: list[Tensor], reason: str) -> None:
    with pytest.raises(NoClosedFormError, match=reason):
        terms_of(loss, 1.0, C, N, others)
