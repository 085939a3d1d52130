"""A sweep from a solver file: trunk and references once, heads in groups, figures on two splits, files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fusion.errors import TrainingError
from fusion.references import Reference
from fusion.solver.descriptions import read_nets
from fusion.solver.jobs import choose_device
from fusion.solver.options.splits import held_back
from fusion.solver.settings import Settings, read_settings
from fusion.solver.trunks import DEFAULT_BUDGET
from fusion.solver.watching.display import Display, for_stream
from fusion.sweep.grid import Axes, cells
from fusion.sweep.judging import Panel
from fusion.sweep.preparing import PathLike, groups_of, prepare
from fusion.sweep.results import Result
from fusion.sweep.training import one_thread, train
from fusion.sweep.verdicts import judge, selecting
from prototxt.loading import load_solver

if TYPE_CHECKING:
    from prototxt.messages import SolverParameter


def sweep(
    solver: PathLike,
    axes: Axes,
    *,
    references: Sequence[Reference | str] = (),
    weights: PathLike | Sequence[PathLike] | None = None,
    kd_alpha: float | None = None,
    select_on: float | PathLike = 0.1,
    slack: float = 0.003,
    out: PathLike | None = None,
    device: str = "auto",
    max_iter: int | None = None,
    cache_budget: int = DEFAULT_BUDGET,
    display: Display | None = None,
) -> Result:
    """Train a head for every combination of the axes and choose a setting.

    axes       values for loss, weight, lr, seed and for options of the losses (alpha, beta, temperature, margin, ...)
    select_on  the share of the training records that is kept back to choose on, or a list file to choose on; what is
               reported are the records of the solver's (first) test net
    slack      a setting may be chosen up to so much below the best accuracy
    out        folder for new/NAME.npz, old/NAME.npz, table.csv, table.json and best.caffemodel
    `seed` is that of the fillers of the head, which then wins over `weights`; the records come in the solver's order.

    Raises: TrainingError for what cannot be swept; the errors of Solver.
    """
    display = display or for_stream()
    message: SolverParameter = load_solver(solver)
    if max_iter is not None:
        message.max_iter = max_iter
    settings = read_settings(message, path=os.fspath(solver))
    _check(settings)
    todo = cells(axes)
    nets = read_nets(message, path=os.fspath(solver))
    if not nets.tests:
        raise TrainingError("a sweep reports on the solver's test net, and there is none", place=os.fspath(solver))
    start = settings.weights if weights is None else [weights] if isinstance(weights, (str, os.PathLike)) else weights
    chosen = choose_device(device)
    bench = prepare(nets.train, nets.tests[0], todo, references, start, settings, chosen, cache_budget, display)
    held = held_back(len(bench.train.sources[0]), select_on, settings.seed or 0)
    groups = groups_of(bench, todo, settings, kd_alpha)
    with one_thread() if chosen.type == "cpu" else nullcontext():
        losses = train(bench, groups, held, settings, display)
    select = selecting(bench, nets.tests[0], held, select_on, display)
    report = Panel(bench.test, np.arange(len(bench.test.sources[0])))
    result = judge(bench, groups, losses, select, report, slack, None if out is None else Path(out))
    lost = [entry.cell.name for entry in result.entries if entry.diverged]
    if lost:
        display.say(f"diverged, without figures or predictions: {', '.join(lost)}")
    display.say(f"chosen: {result.best.name}")
    return result


def _check(settings: Settings) -> None:
    for name, wrong in (
        ("iter_size above 1", settings.iter_size != 1),
        ("clip_gradients", settings.clip_gradients >= 0),
    ):
        if wrong:
            raise TrainingError(f"heads are trained together without {name}", hint="leave it out of the solver file")
