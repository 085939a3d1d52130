"""The parts of a solver: its message, its start weights, its update rule."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fusion.errors import TrainingError
from fusion.nets.weights import load_weights
from fusion.solver.kept_references import KEPT, copy_kept, lost_copies
from fusion.solver.optimizers import RULES, CaffeOptimizer
from fusion.solver.overrides import override
from prototxt.schema.load import load_solver
from prototxt.schema.messages import SolverParameter

if TYPE_CHECKING:
    from fusion.solver.net_with_data import NetWithData
    from fusion.solver.settings import Settings
    from fusion.solver.step.flat_params import FlatParams

Path = str | os.PathLike[str]


def read_message(
    solver: SolverParameter | Path, max_iter: int | None, overrides: Sequence[str]
) -> tuple[SolverParameter, str | None]:
    """Return a copy of a solver's message with the overridden fields, and its path."""
    if isinstance(solver, SolverParameter):
        message = SolverParameter()
        message.CopyFrom(solver)  # the caller's message must not change
        path = None
    else:
        path = os.fspath(solver)
        message = load_solver(path)
    override(message, overrides)
    if max_iter is not None:
        message.max_iter = max_iter
    return message, path


def as_paths(weights: Path | Sequence[Path]) -> Sequence[Path]:
    """Return one path or several as a sequence."""
    return [weights] if isinstance(weights, (str, os.PathLike)) else weights


def load_into(nets: Sequence[NetWithData], path: Path) -> list[str]:
    """Copy trained weights into the layers of the same names; returns log lines about the first net.

    Raises: WeightsMismatch, WeightsError; TrainingError where references would read layers that learned.
    """
    reports = [load_weights(each.net, path) for each in nets]
    for each, report in zip(nets, reports, strict=True):
        copy_kept(each.net, report.missing)
        if lost := lost_copies(each.message, report.unused):
            names = ", ".join(name.removeprefix(KEPT) for name in lost)
            hint = "thaw them again, also at rate 0 (--thaw REGEX --lr-mult REGEX=0): references then read the copies"
            problem = f"the references of the net depend on layers that learned, and whose copies it lacks: {names}"
            raise TrainingError(problem, place=os.fspath(path), hint=hint)
    report, kept = reports[0], tuple(name for name in reports[0].missing if name.startswith(KEPT))
    lines = [f"weights from {os.fspath(path)}: {len(report.loaded)} layers"]
    own = tuple(name for name in report.missing if name not in kept)
    copies = ("are copies of the originals, for the references", kept)
    for verb, layers in (("keep their own", own), copies, ("are in the file only", report.unused)):
        if layers:
            lines.append(f"  {len(layers)} layers {verb}: {', '.join(layers[:8])}{', ...' * (len(layers) > 8)}")
    return lines


def optimizer_of(settings: Settings, flat_params: FlatParams) -> CaffeOptimizer:
    """Return the update rule with its settings, on a net's parameters."""
    return RULES[settings.type](flat_params.groups, settings.schedule.base_lr, **settings.optimizer_options)
