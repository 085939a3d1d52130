"""Every loss against a direct evaluation in NumPy, against finite differences, and at the edges of its arithmetic."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from fusion import pct
from fusion.errors import TrainingError
from fusion.pct.losses import combine, mean_logits

CLASSES = [1, 3, 4]
TARGET = torch.tensor([0, 3, 1, 4, 2, 1])


def logits(width: int = 5, seed: int = 0, scale: float = 2.0) -> torch.Tensor:
    return torch.randn(6, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def kl(z: np.ndarray, t: np.ndarray, temperature: float) -> np.ndarray:
    p, q = softmax(t / temperature), softmax(z / temperature)
    return temperature**2 * (p * (np.log(p) - np.log(q))).sum(1)


def condition(name: str, z: np.ndarray, t: np.ndarray, y: np.ndarray, classes: list[int]) -> np.ndarray:
    right, wrong = np.array(classes)[t.argmax(1)] == y, z.argmax(1) != y
    return {"old_correct": right, "new_incorrect": wrong, "neg_flip": right & wrong}[name]


LOSSES = {
    "kd": functools.partial(pct.kd, temperature=3.0),
    "fd_kl": functools.partial(pct.focal_distillation, temperature=3.0),
    "fd_lm": functools.partial(pct.focal_distillation, distance="l2"),
    "fd_li": functools.partial(pct.focal_distillation, distance="li"),
    "lm": pct.logit_matching,
    "ldi": pct.ldi,
    "ldi_p3": functools.partial(pct.ldi, p=3.0, margin=0.1),
    "ldi_topk": functools.partial(pct.ldi, topk=2),
    "ldi_topk_reference": functools.partial(pct.ldi, topk=2, topk_by_reference=True),
    "ldi_exclude_gt": functools.partial(pct.ldi, exclude_gt=True),
    "ldi_one_sided": functools.partial(pct.ldi, one_sided=True),
    "ldi_relative": functools.partial(pct.ldi, relative=True, margin=0.1),
    "ldi_norm": functools.partial(pct.ldi, p_norm=True),
    "elodi": lambda *, old, **rest: pct.elodi(old=[old, old.flip(0)], reference_weights=[1, 3], **rest),
    "naive": pct.naive,
}


def li(z, t, y, classes, *, margin=0.5, p=2, g=None, top=None, one_sided=False, relative=False, norm=False):
    d = z - t
    if relative:
        d = d / t.max(1, keepdims=True)
    over = np.maximum((d if one_sided else np.abs(d)) - margin, 0) ** p
    if g:
        over[np.arange(len(y)), [classes.index(c) if c in classes else 0 for c in y]] = 0
    if top is not None:
        over = np.take_along_axis(over, np.argsort(-top, axis=1)[:, :2], axis=1)
    return over.sum(1) ** (1 / p) if norm else over.mean(1)


def direct(name: str, z: np.ndarray, t: np.ndarray, y: np.ndarray, classes: list[int]) -> np.ndarray:
    """Per-sample distance, unweighted, over the whole batch."""
    near = z[:, classes]
    values = {
        "kd": lambda: kl(near, t, 3),
        "fd_kl": lambda: kl(near, t, 3) * (1 + 5 * condition("old_correct", z, t, y, classes)),
        "fd_lm": lambda: ((near - t) ** 2).mean(1) / 2 * (1 + 5 * condition("old_correct", z, t, y, classes)),
        "fd_li": lambda: li(near, t, y, classes) * (1 + 5 * condition("old_correct", z, t, y, classes)),
        "lm": lambda: ((near - t) ** 2).mean(1) / 2,
        "ldi": lambda: li(near, t, y, classes),
        "ldi_p3": lambda: li(near, t, y, classes, p=3, margin=0.1),
        "ldi_topk": lambda: li(near, t, y, classes, top=near),
        "ldi_topk_reference": lambda: li(near, t, y, classes, top=t),
        "ldi_exclude_gt": lambda: li(near, t, y, classes, g=True),
        "ldi_one_sided": lambda: li(near, t, y, classes, one_sided=True),
        "ldi_relative": lambda: li(near, t, y, classes, relative=True, margin=0.1),
        "ldi_norm": lambda: li(near, t, y, classes, norm=True),
        "elodi": lambda: li(near, (t + 3 * t[::-1]) / 4, y, classes, margin=0),
        "naive": lambda: -np.log(softmax(z))[np.arange(len(y)), y] * condition("old_correct", z, t, y, classes),
    }
    return values[name]()


@pytest.mark.parametrize("subset", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_against_numpy(name: str, subset: bool) -> None:
    classes = CLASSES if subset else list(range(5))
    z, t = logits(), logits(len(classes), seed=1) + 1
    given = {"new": z, "old": t, "target": TARGET, "classes": classes if subset else None}
    covered = np.isin(TARGET.numpy(), classes)
    expected = np.where(covered, direct(name, z.numpy(), t.numpy(), TARGET.numpy(), classes), 0)
    np.testing.assert_allclose(LOSSES[name](**given, reduction="none").numpy(), expected, rtol=1e-9, atol=1e-12)
    assert LOSSES[name](**given).item() == pytest.approx(expected.sum() / 6)
    assert LOSSES[name](**given, reduction="sum").item() == pytest.approx(expected.sum())


@pytest.mark.parametrize("subset", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_gradient(name: str, subset: bool) -> None:
    z = logits().requires_grad_()
    t = (logits(3 if subset else 5, seed=1) + 1).requires_grad_()
    given = {"target": TARGET, "classes": CLASSES if subset else None, "reduction": "none"}
    assert torch.autograd.gradcheck(lambda new: LOSSES[name](new=new, old=t.detach(), **given), (z,))
    LOSSES[name](new=z, old=t, **given).sum().backward()
    assert t.grad is None
    if subset:
        assert not z.grad[[0, 4]].any()


@pytest.mark.parametrize("filter", ["old_correct", "new_incorrect", "neg_flip"])
@pytest.mark.parametrize("subset", [False, True])
def test_filters(filter: str, subset: bool) -> None:
    classes = CLASSES if subset else list(range(5))
    z, t = logits(seed=3), logits(len(classes), seed=4)
    given = {"new": z, "old": t, "target": TARGET, "classes": classes, "reduction": "none"}
    m = condition(filter, z.numpy(), t.numpy(), TARGET.numpy(), classes)
    weighted = pct.logit_matching(**given, filter=filter, alpha=0.5, beta=2.0)
    torch.testing.assert_close(weighted, pct.logit_matching(**given) * torch.tensor(0.5 + 2.0 * m))


def test_a_masked_samples_gradient_is_larger_by_the_focal_factor() -> None:
    """Weights of shape [N, 1] would broadcast to [N, N] and give both samples the same gradient."""
    new = torch.zeros(2, 3, requires_grad=True)
    old = torch.tensor([[2.0, 0.0, 0.0], [2.0, 0.0, 0.0]])
    for distance in ("kl", "l2"):
        gradient = torch.autograd.grad(
            pct.focal_distillation(new=new, old=old, target=torch.tensor([0, 1]), alpha=2, beta=5, distance=distance),
            new,
        )[0]
        torch.testing.assert_close(gradient[0], gradient[1] * (2 + 5) / 2)


@pytest.mark.parametrize("temperature", [1.0, 5.0, 100.0])
@pytest.mark.parametrize("size", [0.01, 1.0, 10.0, 100.0])
@pytest.mark.parametrize("spread", [1.0, 10.0])
def test_float32_keeps_five_digits(temperature: float, size: float, spread: float) -> None:
    generator = torch.Generator().manual_seed(5)
    old = torch.randn(256, 100, generator=generator) * spread
    new = old + torch.randn(256, 100, generator=generator) * size
    given = {"temperature": temperature, "reduction": "none"}
    single = pct.kd(new=new, old=old, **given)
    double = pct.kd(new=new.double(), old=old.double(), **given)
    assert (single >= 0).all()
    torch.testing.assert_close(single.double(), double, rtol=1e-5 if size <= 10 else 3e-5, atol=0)


def test_kl_far_apart_is_finite() -> None:
    new = torch.tensor([[0.0, 3e4, -3e4]], requires_grad=True)
    loss = pct.kd(new=new, old=torch.tensor([[3e4, 0.0, -3e4]]), temperature=1.0)
    loss.backward()
    assert loss.item() == pytest.approx(3e4)
    assert new.grad is not None
    assert new.grad.isfinite().all()


def test_hot_kl_becomes_logit_matching_of_centred_logits() -> None:
    z, t = logits(), logits(seed=1)
    z, t = z - z.mean(1, keepdim=True), t - t.mean(1, keepdim=True)
    hot = pct.kd(new=z, old=t, temperature=1e5)
    torch.testing.assert_close(hot, pct.logit_matching(new=z, old=t), rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_and_autocast(name: str) -> None:
    z, t = logits().bfloat16(), (logits(seed=1) + 1).bfloat16()
    expected = LOSSES[name](new=z.double(), old=t.double(), target=TARGET)
    with torch.autocast("cpu", torch.bfloat16):
        loss = LOSSES[name](new=z.requires_grad_(), old=t, target=TARGET)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    assert z.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("case", ["empty batch", "nobody covered"])
def test_nothing_to_say_is_zero(name: str, case: str) -> None:
    empty = case == "empty batch"
    z = torch.zeros(0, 5, requires_grad=True) if empty else logits().requires_grad_()
    t = torch.zeros(len(z), 3)
    target = torch.zeros(len(z), dtype=torch.int64)
    loss = LOSSES[name](new=z, old=t, target=target, classes=CLASSES)
    loss.backward()
    assert loss.item() == 0
    assert not z.grad.any()


def test_a_reference_without_numbers_for_uncovered_samples_does_no_harm() -> None:
    z = logits().requires_grad_()
    t = logits(3, seed=1)
    t[[0, 4]] = -torch.inf
    for name, loss in LOSSES.items():
        if name != "elodi":
            loss(new=z, old=t, target=TARGET, classes=CLASSES).backward()
    assert z.grad.isfinite().all()


def test_labels_to_ignore_count_nothing() -> None:
    target = torch.tensor([-1, 3, 1, 255, 2, 1])
    values = pct.kd(new=logits(), old=logits(seed=1), target=target, reduction="none")
    assert (values == 0).tolist() == [True, False, False, True, False, False]
    assert pct.naive(new=logits(), old=logits(), target=target).isfinite()


def test_norm_at_zero_has_a_gradient() -> None:
    z = logits().requires_grad_()
    pct.ldi(new=z, old=z.detach(), p_norm=True, margin=0).backward()
    assert not z.grad.any()


@pytest.mark.parametrize("classes", [None, [2, 0, 4]])
def test_bct(classes: list[int] | None) -> None:
    features = logits(4).requires_grad_()
    weight, bias = torch.randn(3, 4, dtype=torch.float64, requires_grad=True), torch.randn(3, dtype=torch.float64)
    target = TARGET.clamp_max(2) if classes is None else TARGET
    loss = pct.bct(new=features, weight=weight, bias=bias, target=target, classes=classes, reduction="none")
    scores = features.detach().numpy() @ weight.detach().numpy().T + bias.numpy()
    known = classes or [0, 1, 2]
    expected = [-np.log(softmax(scores))[i, known.index(y)] if y in known else 0 for i, y in enumerate(target.tolist())]
    np.testing.assert_allclose(loss.detach().numpy(), expected)
    loss.sum().backward()
    assert weight.grad is None
    given = {"weight": weight, "bias": bias, "target": target, "classes": classes}
    assert torch.autograd.gradcheck(lambda new: pct.bct(new=new, **given), (features,))


def test_mean_of_references() -> None:
    a, b = logits(), logits(seed=1)
    torch.testing.assert_close(mean_logits([a, b]), (a + b) / 2)
    torch.testing.assert_close(mean_logits(torch.stack([a, b]), [1, 3]), (a + 3 * b) / 4)
    one = pct.elodi(new=a, old=[b], target=TARGET, margin=0.5)
    torch.testing.assert_close(one, pct.ldi(new=a, old=b, target=TARGET))


def test_both_ways_of_mixing_with_the_task() -> None:
    task, loss = torch.tensor(2.0), torch.tensor(3.0)
    assert combine(task=task, pct=loss, weight=0.5).item() == 3.5
    assert combine(task=task, pct=loss, weight=0.5, kd_alpha=0.8).item() == pytest.approx(0.2 * 2 + 0.8 * 0.5 * 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"old": torch.zeros(6, 3)}, "new net has 5 classes and the reference 3"),
        ({"old": torch.zeros(5, 5)}, "new logits of 6 samples and reference logits of 5"),
        ({"old": torch.zeros(6, 5, 1, 1)}, r"old: floating point logits of shape \[N, C\].*float32 \[6, 5, 1, 1\]"),
        ({"new": torch.zeros(6, 5, dtype=torch.int64)}, "new: floating point"),
        ({"target": torch.zeros(6, 1, dtype=torch.int64)}, r"int64 \[6\]\) is needed, not int64 \[6, 1\]"),
        ({"target": torch.zeros(6)}, "not float32"),
        ({"classes": [1, 2]}, "2 classes for 5 reference logits"),
        ({"classes": [0, 1, 2, 3, 5]}, "below the new net's 5"),
        ({"classes": [0, 1, 2, 3, 3]}, "each must occur once"),
        ({"filter": "sometimes"}, "unknown filter"),
        ({"filter": "neg_flip", "target": None}, "needs the target"),
        ({"reduction": "median"}, "unknown reduction"),
        ({"temperature": 0.0}, "temperature"),
    ],
)
def test_refusals(change: dict[str, object], message: str) -> None:
    given = {"new": torch.zeros(6, 5), "old": torch.zeros(6, 5), "target": TARGET, **change}
    with pytest.raises(TrainingError, match=message):
        pct.kd(**given)


def test_more_refusals() -> None:
    z = torch.zeros(6, 5)
    for settings in ({"p": 0.5}, {"margin": -1.0}, {"topk": 0}, {"exclude_gt": True}):
        with pytest.raises(TrainingError):
            pct.ldi(new=z, old=z, **settings)
    with pytest.raises(TrainingError, match="unknown distance"):
        pct.focal_distillation(new=z, old=z, target=TARGET, distance="cosine")
    with pytest.raises(TrainingError, match="do not fit the old classifier"):
        pct.bct(new=z, weight=torch.zeros(3, 4), target=TARGET)
    for shares in ([1.0], [-1.0, 2.0], [0.0, 0.0]):
        with pytest.raises(TrainingError, match="reference weights"):
            mean_logits([z, z], shares)
    for references in ([], [z, torch.zeros(6, 4)]):
        with pytest.raises(TrainingError, match="equal shapes"):
            mean_logits(references)


def test_filters_judge_each_net_by_its_own_classes() -> None:
    """The new net answers among all of its classes, the reference among those of its columns, in their order."""
    classes = [4, 1, 3]
    new = torch.tensor([
        [9.0, 5.0, 0.0, 0.0, 0.0],  # answers 0, which the reference does not know; among its classes it would be right
        [0.0, 5.0, 0.0, 0.0, 0.0],  # right
        [0.0, 5.0, 0.0, 0.0, 0.0],  # wrong
        [0.0, 5.0, 9.0, 0.0, 0.0],  # wrong, on a class that the reference does not know
    ])  # fmt: skip
    old = torch.tensor([
        [0.0, 7.0, 0.0],  # column 1 is class 1: right
        [5.0, 0.0, 0.0],  # column 0 is class 4: wrong, though a column number 1 would be right
        [0.0, 0.0, 5.0],  # column 2 is class 3: right
        [0.0, 5.0, 0.0],
    ])  # fmt: skip
    target = torch.tensor([1, 1, 3, 0])
    given = {"new": new, "old": old, "target": target, "classes": classes, "reduction": "none"}
    plain = pct.logit_matching(**given)
    assert (plain[:3] > 0).all()
    assert plain[3] == 0
    for name, factors in (
        ("old_correct", [3.0, 1.0, 3.0, 1.0]),
        ("new_incorrect", [3.0, 1.0, 3.0, 1.0]),
        ("neg_flip", [3.0, 1.0, 3.0, 1.0]),
    ):
        torch.testing.assert_close(
            pct.logit_matching(**given, filter=name, alpha=1.0, beta=2.0), plain * torch.tensor(factors)
        )
    # Where the two conditions part: the reference is wrong and the new net too.
    given["old"] = old.clone()
    given["old"][0] = torch.tensor([5.0, 0.0, 0.0])
    plain = pct.logit_matching(**given)
    for name, first in (("old_correct", 1.0), ("new_incorrect", 3.0), ("neg_flip", 1.0)):
        weighted = pct.logit_matching(**given, filter=name, alpha=1.0, beta=2.0)
        torch.testing.assert_close(weighted[0], plain[0] * first)
    naive = pct.naive(**{**given, "old": old})
    expected = torch.nn.functional.cross_entropy(new, target, reduction="none") * torch.tensor([1.0, 0.0, 1.0, 0.0])
    torch.testing.assert_close(naive, expected)


def test_a_share_of_nothing_gives_no_nan() -> None:
    good, endless = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, -torch.inf]])
    new, target = torch.tensor([[0.5, 0.0]]), torch.tensor([0])
    alone = pct.elodi(new=new, old=[good], target=target)
    assert pct.elodi(new=new, old=[good, endless], reference_weights=[2, 0], target=target) == alone
    assert pct.elodi(new=new, old=[endless, good], reference_weights=[0, 0.5], target=target) == alone
    with pytest.raises(TrainingError, match="reference weights"):
        pct.elodi(new=new, old=[good, good], reference_weights=[0, 0])
