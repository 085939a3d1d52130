"""Gradients in closed form against autograd, and distances at the edges of their settings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fusion.errors import TrainingError
from fusion.pct.aligned_logits import AlignedLogits, compare
from fusion.pct.distances import LogitDifference, kl, kl_gradient, log_excess, squared, squared_gradient

NEW = torch.tensor([[1.0, 2.5, -1.0, 0.2], [0.0, 0.5, 3.0, -2.0], [0.3, 0.1, 0.2, 0.4]], dtype=torch.float64)
OLD = torch.tensor([[0.4, 1.75, 1.5, 0.0], [-1.25, -0.5, -3.0, -2.0], [0.3, 0.1, 0.2, 0.4]], dtype=torch.float64)
TARGET = torch.tensor([1, 0, 3])


def pair(new: torch.Tensor, old: torch.Tensor = OLD) -> AlignedLogits:
    return compare(new, old, TARGET, None)


SETTINGS: list[dict[str, Any]] = [
    {},
    {"margin": 0.0},
    {"margin": 0.5, "p": 1.0},
    {"p": 3.0, "margin": 0.1},
    {"topk": 1},
    {"topk": 3, "topk_by_reference": True},
    {"topk": 9},
    {"exclude_gt": True},
    {"one_sided": True, "margin": 0.25},
    {"relative": True, "margin": 0.1},
    {"p_norm": True, "margin": 0.1},
    {"p_norm": True, "p": 3.0, "margin": 0.0, "exclude_gt": True, "topk": 2},
    {"relative": True, "one_sided": True, "p_norm": True, "margin": 0.05},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_gradient_of_a_difference_is_autograds(settings: dict[str, Any]) -> None:
    distance = LogitDifference(**settings)
    new = NEW.clone().requires_grad_()
    distance(pair(new)).sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(distance.gradient(NEW, OLD, TARGET[:, None]), new.grad, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_gradients_of_several_heads_are_those_of_each(settings: dict[str, Any]) -> None:
    distance = LogitDifference(**settings)
    heads = torch.stack([NEW, NEW.flip(0) + 0.25])
    found = distance.gradient(heads, OLD, TARGET[:, None])
    torch.testing.assert_close(found, torch.stack([distance.gradient(head, OLD, TARGET[:, None]) for head in heads]))


def test_small_totals_have_large_slopes() -> None:
    distance = LogitDifference(margin=0.0, p_norm=True, p=2.0)
    for size in (0.01, 0.5, 1.0, 4.0):
        found = distance.gradient(OLD + torch.tensor([3.0, 4.0, 0.0, 0.0]) * size, OLD, TARGET[:, None])
        torch.testing.assert_close(found, torch.tensor([0.6, 0.8, 0.0, 0.0], dtype=torch.float64).expand(3, 4))


def test_there_is_no_gradient_at_the_margin_itself() -> None:
    """So a new net that begins as its reference stays there where only increases count, as under autograd."""
    all_settings: tuple[dict[str, Any], ...] = ({"p": 1.0, "margin": 0.0, "one_sided": True}, {"p": 1.0, "margin": 0.5})
    for settings in all_settings:
        distance = LogitDifference(**settings)
        at, above = OLD + settings["margin"], OLD + settings["margin"] + 0.125
        assert not distance.gradient(at, OLD, TARGET[:, None]).any()
        assert distance.gradient(above, OLD, TARGET[:, None]).tolist() == [[0.25] * 4] * 3


def test_a_difference_at_the_margin_counts_nothing_and_just_above_it_little() -> None:
    one = torch.zeros(3, 4, dtype=torch.float64)
    for shift, expected in ((0.5, 0.0), (-0.5, 0.0), (1.5, 1.0), (-1.5, 1.0)):
        moved = one.clone()
        moved[:, 0] = shift
        assert LogitDifference()(pair(moved, one)).tolist() == [expected / 4] * 3
    assert LogitDifference(one_sided=True)(pair(one - 3, one)).tolist() == [0.0] * 3
    assert LogitDifference(one_sided=True)(pair(one + 1.5, one)).tolist() == [1.0] * 3


def test_a_reference_without_a_positive_logit_has_no_relative_difference() -> None:
    values = LogitDifference(relative=True, margin=0.0)(pair(NEW))
    assert (values > 0).tolist() == [True, False, False]
    expected = (((NEW - OLD)[0] / 1.75) ** 2).mean()
    torch.testing.assert_close(values[0], expected)
    zero = OLD - OLD.amax(1, keepdim=True)
    assert LogitDifference(relative=True, margin=0.0)(pair(NEW, zero)).tolist() == [0.0] * 3
    assert not LogitDifference(relative=True, margin=0.0).gradient(NEW, zero, TARGET[:, None]).any()


@pytest.mark.parametrize(
    ("settings", "allowed"),
    [({"p": 1.0}, True), ({"p": 0.99}, False), ({"margin": 0.0}, True), ({"margin": -0.01}, False), ({"topk": 1}, True),
     ({"topk": 0}, False)],
)  # fmt: skip
def test_settings_at_the_ends_of_their_ranges(settings: dict[str, Any], allowed: bool) -> None:
    if allowed:
        LogitDifference(**settings)
        return
    with pytest.raises(TrainingError, match="p >= 1, margin >= 0, topk >= 1"):
        LogitDifference(**settings)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_gradients_of_divergence_and_square_are_autograds(temperature: float) -> None:
    new = NEW.clone().requires_grad_()
    kl(pair(new), temperature).sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(kl_gradient(NEW, OLD, temperature), new.grad, rtol=1e-9, atol=1e-12)
    new.grad = None
    squared(pair(new)).sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(squared_gradient(NEW, OLD), new.grad)


@pytest.mark.parametrize(("kind", "rtol"), [(torch.float32, 4e-7), (torch.float64, 4e-14)])
def test_the_excess_keeps_its_digits_on_all_branches(kind: torch.dtype, rtol: float) -> None:
    values = [-30.0, -2.0, -0.25, -0.2499, -1e-3, 1e-4, 0.2499, 0.25, 0.9999, 1.0, 1.0001, 3.0, 40.0]
    d = torch.tensor(values, dtype=kind)
    exact = []
    for value in d.double().tolist():
        term, total = value * value / 2, 0.0
        if abs(value) < 2:
            for n in range(3, 40):
                total += term
                term *= value / n
        else:
            total = float(np.expm1(np.longdouble(value)) - np.longdouble(value))
        exact.append(np.log(total))
    np.testing.assert_allclose(log_excess(d).double().numpy(), exact, rtol=3 * rtol, atol=3 * rtol)
    assert torch.isfinite(log_excess(torch.tensor([0.0, 800.0], dtype=kind))).all()
