"""The grid of a sweep: axes of values, and the trials that they make."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fusion.composition import Pct
from fusion.composition.references import check_pct, pct_options
from fusion.data.parse_json_toml import parse_json, parse_toml
from fusion.errors import TrainingError, raise_all

Value = str | float | int
Axes = Mapping[str, Sequence[Value]]
NONE = "none"
OWN = ("loss", "weight", "lr", "seed")
TENSORS = ("alpha", "beta", "temperature", "margin")  # numbers that may differ between heads with the same loss layers
_SHORT = {"weight": "w", "temperature": "T", "seed": "s", "lr": "lr", "alpha": "a", "beta": "b", "margin": "m"}


@dataclass(frozen=True)
class Trial:
    """One head: its loss, the options of it, its weight, its learning rate and the seed of its fillers.

    lr, seed  None: the solver's
    """

    loss: str
    options: tuple[tuple[str, Value], ...] = ()
    weight: float = 1.0
    lr: float | None = None
    seed: int | None = None

    @property
    def setting(self) -> Trial:
        """Return the trial without its seed, as settings are chosen."""
        return Trial(self.loss, self.options, self.weight, self.lr)

    @property
    def structure(self) -> tuple[str, tuple[tuple[str, Value], ...], float | None]:
        """Return the common part of heads that differ in weights and seeds alone."""
        return self.loss, self.options, self.lr

    @property
    def name(self) -> str:
        """Return a file name: `focal_b5_w0.01_s1`."""
        parts = [(_SHORT.get(key, key), value) for key, value in self.options]
        if self.loss != NONE:
            parts.append(("w", self.weight))
        parts += [(key, value) for key, value in (("lr", self.lr), ("s", self.seed)) if value is not None]
        return "_".join([self.loss, *(f"{key}{_plain(value)}" for key, value in parts)])


def read_axes(texts: Sequence[str]) -> dict[str, list[Value]]:
    """Read axes from `loss=kd,focal`, or from a TOML or JSON file of lists. Raises: TrainingError; OSError."""
    axes: dict[str, list[Value]] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        if not equals and not os.path.splitext(text)[1]:
            raise TrainingError(f"--sweep {text} names no values", hint=f"--sweep {text}=V,V or a TOML or JSON file")
        given = [read_value(value.strip()) for value in values.split(",") if value.strip()]
        found = {key.strip(): given} if equals else _read_file(text)
        again = [name for name in found if name in axes]
        if again:
            hint = "give all of an axis's values at once: loss=kd,focal"
            raise TrainingError(f"the axis {', '.join(again)} is given twice", hint=hint)
        axes.update(found)
    return axes


def cells(axes: Axes) -> list[Trial]:
    """Return all combinations, each once, without options that their loss does not take.

    Raises: TrainingError for unknown axes; ComposeError for unknown losses and values.
    """
    empty = [key for key, values in axes.items() if not values]
    if not axes or empty:
        raise TrainingError(f"a sweep over nothing: {', '.join(empty) or 'no axis'}", hint="e.g. loss=kd,focal")
    losses = [str(loss) for loss in axes.get("loss", [NONE])]
    raise_all(_mistakes(axes, losses))
    raise_all(check_pct([Pct(loss) for loss in losses if loss != NONE]))
    options = [key for key in axes if key not in OWN]
    found: dict[Trial, None] = {}
    used: set[str] = set()
    for loss in losses:
        for values in itertools.product(*(axes[key] for key in options)):
            given = {key: _upper(key, value) for key, value in zip(options, values, strict=True)}
            known = () if loss == NONE else pct_options(Pct(loss, 1.0, given))
            kept = {key: value for key, value in given.items() if key in known}
            used.update(kept)
            if loss != NONE:
                raise_all(check_pct([Pct(loss, 1.0, kept)]))
            weights = [1.0] if loss == NONE else [float(w) for w in axes.get("weight", [1.0])]
            for weight, lr, seed in itertools.product(weights, axes.get("lr", [None]), axes.get("seed", [None])):
                rate = None if lr is None else float(lr)
                found[Trial(loss, tuple(kept.items()), weight, rate, None if seed is None else int(seed))] = None
    unused = [key for key in options if key not in used]
    if unused:
        raise TrainingError(f"no loss of the sweep takes {', '.join(unused)}", hint=f"losses: {', '.join(losses)}")
    return list(found)


def _mistakes(axes: Axes, losses: Sequence[str]) -> list[TrainingError]:
    """Return errors for values that do not fit their axis."""
    found = []
    for loss in sorted({"cna", "bct"} & set(losses)):
        hint = "train with it by itself: fusion-train --pct"
        found.append(TrainingError(f"loss '{loss}' compares features, which a sweep's frozen trunk gives", hint=hint))
    for axis, least in (("weight", "0 or more"), ("lr", "above 0"), ("seed", "a whole number, 0 or more")):
        for value in axes.get(axis, ()):
            number = value if isinstance(value, (int, float)) and not isinstance(value, bool) else -1
            if not 0 <= number < math.inf or (axis == "lr" and number == 0) or (axis == "seed" and number % 1):
                found.append(TrainingError(f"axis {axis}: {value!r} is not {least}"))
    if set(losses) == {NONE} and "weight" in axes:
        hint = "name losses: --sweep loss=none,kd,focal"
        found.append(TrainingError("weights without a loss that they weigh", hint=hint))
    return found


def _upper(key: str, value: Value) -> Value:
    return str(value).upper() if key in ("distance", "filter") else value


def read_value(text: str) -> Value:
    """Return a number where the text is one, else the text."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _plain(value: Value) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _read_file(path: str) -> dict[str, list[Value]]:
    with open(path, "rb") as file:
        data = file.read()
    found = (parse_json if os.path.splitext(path)[1] == ".json" else parse_toml)(data, path)
    table = found.get("sweep", found) if isinstance(found, dict) else found
    if not isinstance(table, dict):
        hint = '{"loss": ["kd", "focal"], "weight": [0.01, 0.1]}, alone or as "sweep"'
        raise TrainingError(f"not a table of lists but {table!r:.60}", place=path, hint=hint)
    axes = {key: list(value) if isinstance(value, list) else [value] for key, value in table.items()}
    for key, values in axes.items():
        if any(isinstance(value, bool) or not isinstance(value, (str, int, float)) for value in values):
            raise TrainingError(f"axis '{key}' holds more than numbers and words", place=path)
    return axes
