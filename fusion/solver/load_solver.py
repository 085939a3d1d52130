"""What a solver is made from: its message, its start weights, its update rule."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fusion.nets.weights import load_weights
from fusion.solver.optimizers import RULES, CaffeOptimizer
from fusion.solver.overrides import override
from prototxt.schema.load import load_solver
from prototxt.schema.messages import SolverParameter

if TYPE_CHECKING:
    from fusion.nets.graph import Net
    from fusion.solver.settings import Settings
    from fusion.solver.step.flat_params import FlatParams

Path = str | os.PathLike[str]


def read_message(
    solver: SolverParameter | Path, max_iter: int | None, overrides: Sequence[str]
) -> tuple[SolverParameter, str | None]:
    """A solver's message, to be changed at will, and its path; with fields set from outside."""
    if isinstance(solver, SolverParameter):
        message = SolverParameter()
        message.CopyFrom(solver)
        path = None
    else:
        path = os.fspath(solver)
        message = load_solver(path)
    override(message, overrides)
    if max_iter is not None:
        message.max_iter = max_iter
    return message, path


def paths_of(weights: Path | Sequence[Path]) -> Sequence[Path]:
    """One path or several as several."""
    return [weights] if isinstance(weights, (str, os.PathLike)) else weights


def load_into(nets: Sequence[Net], path: Path) -> list[str]:
    """Copy trained weights into the layers of the same names; returns what to say of those of the first net.

    Raises: WeightsMismatch, WeightsError.
    """
    report, *_ = [load_weights(net, path) for net in nets]
    lines = [f"weights from {os.fspath(path)}: {len(report.loaded)} layers"]
    for what, layers in (("keep their own", report.missing), ("are in the file only", report.unused)):
        if layers:
            lines.append(f"  {len(layers)} layers {what}: {', '.join(layers[:8])}{', ...' * (len(layers) > 8)}")
    return lines


def optimizer_of(settings: Settings, arena: FlatParams) -> CaffeOptimizer:
    """The update rule with its settings, on a net's parameters."""
    return RULES[settings.type](
        arena.groups,
        settings.schedule.base_lr,
        momentum=settings.momentum,
        momentum2=settings.momentum2,
        weight_decay=settings.weight_decay,
        regularization=settings.regularization,
        delta=settings.delta,
        rms_decay=settings.rms_decay,
        clip_gradients=settings.clip_gradients,
        iter_size=settings.iter_size,
    )
