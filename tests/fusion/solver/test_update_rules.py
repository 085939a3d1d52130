"""Caffe's update rules against their formulas in NumPy, with every constant at work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from fusion.solver.optimizers import RULES, SGD, Adam, CaffeOptimizer

Array = np.ndarray
Rule = Callable[[Array, Array, list[Array], float, int], None]
M, M2, DELTA, RMS = 0.8, 0.95, 1e-2, 0.7


def sgd(w: Array, g: Array, h: list[Array], lr: float, t: int) -> None:
    h[0][:] = M * h[0] + lr * g
    w -= h[0]


def nesterov(w: Array, g: Array, h: list[Array], lr: float, t: int) -> None:
    before = h[0].copy()
    h[0][:] = M * h[0] + lr * g
    w -= (1 + M) * h[0] - M * before


def adagrad(w: Array, g: Array, h: list[Array], lr: float, t: int) -> None:
    h[0] += g**2
    w -= lr * g / (np.sqrt(h[0]) + DELTA)


def rmsprop(w: Array, g: Array, h: list[Array], lr: float, t: int) -> None:
    h[0][:] = RMS * h[0] + (1 - RMS) * g**2
    w -= lr * g / (np.sqrt(h[0]) + DELTA)


def adadelta(w: Array, g: Array, h: list[Array], lr: float, t: int) -> None:
    h[0][:] = M * h[0] + (1 - M) * g**2
    step = g * np.sqrt((DELTA + h[1]) / (DELTA + h[0]))
    h[1][:] = M * h[1] + (1 - M) * step**2
    w -= lr * step


def adam(w: Array, g: Array, h: list[Array], lr: float, t: int) -> None:
    h[0][:] = M * h[0] + (1 - M) * g
    h[1][:] = M2 * h[1] + (1 - M2) * g**2
    w -= lr * np.sqrt(1 - M2**t) / (1 - M**t) * h[0] / (np.sqrt(h[1]) + DELTA)


FORMULAS: dict[str, tuple[Rule, int]] = {
    "SGD": (sgd, 1), "Nesterov": (nesterov, 1), "AdaGrad": (adagrad, 1), "RMSProp": (rmsprop, 1),
    "AdaDelta": (adadelta, 2), "Adam": (adam, 2),
}  # fmt: skip
CONSTANTS = {"momentum": M, "momentum2": M2, "delta": DELTA, "rms_decay": RMS}


@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize(
    "more",
    [{}, {"weight_decay": 0.1}, {"weight_decay": 0.1, "regularization": "L1", "iter_size": 4}, {"clip_gradients": 0.5}],
    ids=str,
)
@pytest.mark.parametrize("kind", RULES)
def test_updates_are_those_of_the_formula(kind: str, more: dict[str, Any], prepared: bool) -> None:
    rule, histories = FORMULAS[kind]
    rng = np.random.default_rng(1)
    weights = [rng.standard_normal(shape) for shape in ((3, 2), (4,))]
    blobs = [torch.nn.Parameter(torch.tensor(w)) for w in weights]
    mults = [(1.0, 1.0), (2.0, 0.5)]
    groups = [
        {"params": [blob], "lr_mult": lr, "decay_mult": decay} for blob, (lr, decay) in zip(blobs, mults, strict=True)
    ]
    optimizer = RULES[kind](groups, 9.9, **CONSTANTS, **more)
    past = [[np.zeros_like(w) for _ in range(histories)] for w in weights]
    for blob in blobs:
        blob.grad = torch.zeros_like(blob)
    update = optimizer.prepared() if prepared else None
    for number, lr in enumerate((0.1, 0.03, 0.05), 1):
        gradients = [rng.standard_normal(w.shape) for w in weights]
        for blob, gradient in zip(blobs, gradients, strict=True):
            blob.grad.copy_(torch.tensor(gradient))  # type: ignore[union-attr]
        with torch.no_grad():
            if update is not None:
                update(lr)
            else:
                for group in optimizer.param_groups:
                    group["lr"] = lr
                optimizer.step()
        norm = np.sqrt(sum((g**2).sum() for g in gradients))
        for w, g, h, (lr_mult, decay_mult) in zip(weights, gradients, past, mults, strict=True):
            if "clip_gradients" in more and norm > more["clip_gradients"]:
                g = g * more["clip_gradients"] / norm
            decayed = np.sign(w) if more.get("regularization") == "L1" else w
            g = g / more.get("iter_size", 1) + more.get("weight_decay", 0) * decay_mult * decayed
            rule(w, g, h, lr * lr_mult, number)
    for blob, w, h in zip(blobs, weights, past, strict=True):
        np.testing.assert_allclose(blob.detach().numpy(), w, rtol=1e-9)
        for found, expected in zip(optimizer.history(blob), h, strict=True):
            np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9, atol=1e-15)
    assert optimizer.updates == 3


def one(value: float = 1.0, gradient: float | None = 2.0, **options: Any) -> tuple[torch.nn.Parameter, CaffeOptimizer]:
    blob = torch.nn.Parameter(torch.tensor([value]))
    blob.grad = None if gradient is None else torch.tensor([gradient])
    return blob, SGD([blob], **options)


@pytest.mark.parametrize(("limit", "step"), [(-1.0, 2.0), (2.0, 2.0), (2.5, 2.0), (0.5, 0.5), (0.0, 0.0)])
def test_gradients_are_clipped_to_a_norm(limit: float, step: float) -> None:
    blob, optimizer = one(lr=1.0, clip_gradients=limit)
    optimizer.step()
    assert blob.item() == 1 - step


def test_defaults_are_caffes() -> None:
    blob, optimizer = one()
    optimizer.step()
    assert blob.item() == pytest.approx(1 - 0.01 * 2)
    settings = (Adam.momentum, Adam.momentum2, Adam.weight_decay, Adam.delta, Adam.rms_decay, Adam.clip_gradients)
    assert settings == (0.0, 0.999, 0.0, 1e-8, 0.99, -1.0)
    assert (Adam.iter_size, Adam.regularization) == (1, "L2")
    with pytest.raises(TypeError, match="SGD\\(\\) got an unexpected keyword argument 'nesterov'"):
        one(nesterov=True)


@pytest.mark.parametrize("iter_size", [1, 2])
def test_parameters_without_gradients_stay(iter_size: int) -> None:
    blob, optimizer = one(gradient=None, lr=1.0, weight_decay=0.5, clip_gradients=1.0, iter_size=iter_size)
    optimizer.step()
    optimizer.prepared()(1.0)
    assert (blob.item(), optimizer.updates) == (1.0, 2)


def test_a_closure_gives_its_loss_and_new_gradients() -> None:
    blob, optimizer = one(lr=0.5)

    def closure() -> float:
        blob.grad = None
        loss = (blob * 3).sum()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) == 3.0
    assert blob.item() == 1 - 0.5 * 3
    assert optimizer.step() is None


def test_a_history_follows_the_layout_of_its_parameter() -> None:
    blob = torch.nn.Parameter(torch.randn(2, 3, 4, 5))
    optimizer = SGD([blob])
    (history,) = optimizer.history(blob)
    history.copy_(torch.randn(2, 3, 4, 5))
    values = history.clone()
    assert optimizer.history(blob)[0] is history
    blob.data = blob.data.contiguous(memory_format=torch.channels_last)
    (moved,) = optimizer.history(blob)
    assert moved.stride() == blob.stride()
    assert torch.equal(moved, values)
    assert optimizer.history(blob)[0] is moved


def test_a_state_without_a_count_begins_at_zero() -> None:
    _, optimizer = one()
    optimizer.step()
    state = optimizer.state_dict()
    assert state["updates"] == 1
    del state["updates"]
    optimizer.load_state_dict(state)
    assert optimizer.updates == 0
