"""Learning-rate policies: the rate as a function of the iteration. Caffe's policies, cosine, and warm-up."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Schedule:
    """The fields of a solver file that the policies read; `steps` are the stepvalues of "multistep".

    warmup  in the first N iterations the policy's rate is multiplied by (iteration + 1) / N; Caffe has no such field
    """

    policy: str
    base_lr: float
    gamma: float = 0.0
    power: float = 0.0
    stepsize: int = 0
    steps: tuple[int, ...] = ()
    max_iter: int = 0
    warmup: int = 0  # none


def advance(schedule: Schedule, iteration: int, current_step: int) -> int:
    """Return the step of the policy in this iteration.

    "multistep" advances by at most one step per iteration, so two equal stepvalues take effect one after the other,
    and the step survives in a solverstate.
    """
    if schedule.policy == "step":
        return iteration // schedule.stepsize
    # one step per iteration, even where several values are passed at once
    due = current_step < len(schedule.steps) and iteration >= schedule.steps[current_step]
    return current_step + 1 if schedule.policy == "multistep" and due else current_step


def learning_rate(schedule: Schedule, iteration: int, current_step: int = 0) -> float:
    """Return the rate of an iteration, rounded to float32 as in Caffe; `current_step` is the result of `advance`."""
    rate = _ALL[schedule.policy](schedule, iteration, current_step)
    if iteration < schedule.warmup:
        rate *= (iteration + 1) / schedule.warmup
    return float(np.float32(rate))  # Caffe computes the rate in float and logs it


def _fixed(s: Schedule, iteration: int, step: int) -> float:
    return s.base_lr


def _step(s: Schedule, iteration: int, step: int) -> float:
    return s.base_lr * _power(s.gamma, step)


def _exp(s: Schedule, iteration: int, step: int) -> float:
    return s.base_lr * _power(s.gamma, iteration)


def _inv(s: Schedule, iteration: int, step: int) -> float:
    return s.base_lr * _power(1.0 + s.gamma * iteration, -s.power)


def _poly(s: Schedule, iteration: int, step: int) -> float:
    return s.base_lr * _power(1.0 - iteration / s.max_iter, s.power)


def _sigmoid(s: Schedule, iteration: int, step: int) -> float:
    exponent = -s.gamma * (iteration - s.stepsize)
    return s.base_lr / (1.0 + math.exp(exponent)) if exponent < 700.0 else 0.0  # math.exp overflows beyond


def _cosine(s: Schedule, iteration: int, step: int) -> float:
    """Return half a wave from base_lr down to 0 at max_iter (Loshchilov and Hutter 2017, without restarts)."""
    return s.base_lr * 0.5 * (1.0 + math.cos(math.pi * min(iteration / s.max_iter, 1.0)))


def _power(base: float, exponent: float) -> float:
    """Return the result of C's pow: a negative base gives NaN and an overflow infinity, where Python's ** does not."""
    try:
        return math.pow(base, exponent)
    except ValueError:
        return math.nan if base < 0 else math.inf
    except OverflowError:
        return math.inf


POLICIES: dict[str, Callable[[Schedule, int, int], float]] = {
    "fixed": _fixed,
    "step": _step,
    "exp": _exp,
    "inv": _inv,
    "multistep": _step,
    "poly": _poly,
    "sigmoid": _sigmoid,
}
BEYOND: dict[str, Callable[[Schedule, int, int], float]] = {"cosine": _cosine}
"""Policies that Caffe lacks, so that a solver file cannot name them."""
_ALL = {**POLICIES, **BEYOND}
