"""The losses that `--pct auto` chooses from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

import numpy as np

from fusion.errors import TrainingError
from fusion.references import Objective
from fusion.sweep.grid import NONE, Axes, Trial, Value, read_value
from prototxt.errors import did_you_mean

_FORM = "auto[,kind=kd+ldi][,weight=0.1:10:5][,OPTION=VALUE...]"


@dataclass(frozen=True)
class AutoPct:
    """The losses to choose from, and none at all.

    kinds    such as kd; empty: the default ones
    weights  of each; empty: the default ones
    options  the same for all that take them, such as temperature
    """

    kinds: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    options: tuple[tuple[str, Value], ...] = ()

    def axes(self, kinds: Sequence[str], weights: Sequence[float]) -> Axes:
        """Return the axes of a sweep, with these kinds and weights where none are given."""
        return {
            "loss": [NONE, *(self.kinds or kinds)],
            "weight": [*(self.weights or weights)],
            **{name: [value] for name, value in self.options},
        }


def parse_auto(pct: Sequence[Objective | str]) -> AutoPct | None:
    """Read `auto,kind=kd+ldi,weight=0.1:10:5,temperature=2`; None where the losses are given. Raises: TrainingError."""
    texts = [item for item in pct if isinstance(item, str) and item.partition(",")[0] == "auto"]
    if not texts:
        return None
    if len(pct) > 1:
        raise TrainingError("--pct auto chooses the only loss, and others are given", hint="leave the others out")
    found = AutoPct()
    for part in texts[0].split(",")[1:]:
        key, equals, value = part.partition("=")
        if not equals or not value:
            _refuse(texts[0], f"'{part}' has no value")
        if key in ("of", "on", "kinds", "weights"):
            _refuse(texts[0], f"unknown option '{key}'", did_you_mean(key, ("kind", "weight")))
        if key == "kind":
            found = replace(found, kinds=tuple(dict.fromkeys(value.split("+"))))
        elif key == "weight":
            found = replace(found, weights=_weights(texts[0], value))
        else:
            found = replace(found, options=(*found.options, (key, read_value(value))))
    return found


def pct_text(trial: Trial) -> str:
    """Return the loss as `--pct` takes it; "" for none."""
    if trial.loss == NONE:
        return ""
    return ",".join([trial.loss, f"weight={trial.weight:g}", *(f"{name}={value}" for name, value in trial.options)])


def _weights(text: str, value: str) -> tuple[float, ...]:
    """Return one weight, or those of a range, in equal ratios: `0.1:10:5`."""
    low, *rest = value.split(":")
    try:
        numbers = [float(low), *(float(high) for high in rest[:1])]
        count = int(rest[1]) if len(rest) == 2 else 1
    except ValueError:
        _refuse(text, f"'{value}' is neither a weight nor a range of weights")
    if len(rest) not in (0, 2) or not all(0 < number < math.inf for number in numbers) or count < 1 + len(rest) // 2:
        _refuse(text, f"'{value}' is neither a weight above 0 nor LOW:HIGH:NUMBER with two weights or more")
    return tuple(float(f"{weight:.3g}") for weight in np.geomspace(numbers[0], numbers[-1], count).tolist())


def _refuse(text: str, message: str, hint: str | None = None) -> NoReturn:
    raise TrainingError(f"--pct {text}: {message}", hint=hint or _FORM)
