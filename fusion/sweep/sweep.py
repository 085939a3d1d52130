"""A sweep from a solver file: trunk and references once, heads in groups, figures on two splits, files."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fusion.errors import TrainingError
from fusion.file_lock import locked
from fusion.nets.frozen_engine import AUTO
from fusion.references import Reference
from fusion.solver.callbacks.ema import EMA
from fusion.solver.device import choose_device
from fusion.solver.holdout import validation_records
from fusion.solver.load_solver import as_paths, read_message
from fusion.solver.logging.console import Display, for_stream
from fusion.solver.read_nets import read_nets
from fusion.solver.settings import Settings, read_settings
from fusion.solver.train_options import TrainOptions
from fusion.solver.trunk_cache import DEFAULT_BUDGET
from fusion.solver.trunk_cache_files import trunk_files
from fusion.sweep.evaluate_heads import EvalSet
from fusion.sweep.grid import Axes, cells
from fusion.sweep.prepare import Opening, PathLike, groups_of, prepare
from fusion.sweep.results import Result
from fusion.sweep.select_best import judge, selecting
from fusion.sweep.stacked_heads import NotSweepableError
from fusion.sweep.train_heads import threads_of, train

if TYPE_CHECKING:
    from fusion.data import ReadOptions
    from prototxt.schema.messages import SolverParameter

_APPLIED = ("lr_policy", "warmup", "freeze", "label_smoothing", "ema")  # of TrainOptions


@dataclass(frozen=True)
class SweepOptions:
    """The options of a sweep.

    select_on  the share of the training records that is held out for the choice, or a list file to choose on
    report     whether to measure on the solver's (first) test net too
    slack      how far below the best accuracy a setting may be to be chosen
    output     folder for new/NAME.npz, old/NAME.npz, table.csv, table.json, trade_off.png and best.caffemodel
    overrides  fields that override the solver's: "base_lr=0.1", "momentum=0.95"; the axis lr overrides these
    extras     learning rate policy, warm-up, layers to freeze, label smoothing, averaged weights; no others
    threads    CPU threads of the heads' steps
    The others as in Solver.
    """

    references: Sequence[Reference | str] = ()
    weights: PathLike | Sequence[PathLike] | None = None
    kd_alpha: float | None = None
    select_on: float | PathLike = 0.1
    report: bool = True
    slack: float = 0.003
    output: PathLike | None = None
    device: str = "auto"
    max_iter: int | None = None
    overrides: Sequence[str] = ()
    extras: TrainOptions = field(default_factory=TrainOptions)
    cache_budget: int = DEFAULT_BUDGET
    cache_dir: PathLike | None = None
    frozen_engine: str = AUTO
    reading: ReadOptions | None = None
    threads: int = 1
    display: Display | None = None


def sweep(solver: SolverParameter | PathLike, axes: Axes, options: SweepOptions | None = None) -> Result:
    """Train a head for every combination of the axes and choose a setting.

    axes  values for loss, weight, lr, seed and for options of the losses (alpha, beta, temperature, margin, ...);
          `seed` is that of the head's fillers, which then override `weights`

    The records come in the solver's order.

    Raises: TrainingError for a solver, net or axis that cannot be swept, or if the trunk's outputs are to be written
            beside the snapshots of another running training; the errors of Solver.
    """
    options = options or SweepOptions()
    display, extras = options.display or for_stream(), options.extras
    message, path = read_message(solver, options.max_iter, options.overrides)
    settings = read_settings(message, path=path, policy=extras.lr_policy, warmup=extras.warmup)
    _check(settings, extras)
    trials = cells(axes)
    nets = extras.nets(read_nets(message, path=path))
    if not nets.tests and (options.report or not isinstance(options.select_on, float)):
        raise TrainingError("a sweep measures on the solver's test net, and there is none", place=path)
    chosen = choose_device(options.device)
    start = settings.weights if options.weights is None else as_paths(options.weights)
    with ExitStack() as closing:
        # locked only if files are written, and once for TRAIN and TEST
        claim = cache(lambda: closing.enter_context(locked(settings.prefix, display.say)))
        files = replace(trunk_files(options.cache_dir, settings.prefix), claim=claim)
        seed, budget = settings.seed or 0, options.cache_budget
        opening = Opening(seed, chosen, extras, options.reading, budget, files, display, options.frozen_engine)
        bench = prepare(nets.train, trials, options.references, start, opening)
        reported = bench.open_test(nets.tests[0]) if options.report else None
        held = validation_records(bench.train.sources[0], options.select_on, settings.seed or 0)
        groups = groups_of(bench, trials, settings, options.kd_alpha, extras.ema)
        with threads_of(options.threads) if chosen.type == "cpu" else nullcontext():
            losses = train(bench, groups, held, settings, display)
        select = selecting(bench, nets, held, options.select_on, display)
        report = None if reported is None else EvalSet(reported, np.arange(len(reported.sources[0])))
        out = None if options.output is None else Path(options.output)
        result = judge(bench, groups, losses, select, report, options.slack, out)
    diverged = [entry.cell.name for entry in result.entries if entry.diverged]
    if diverged:
        display.say(f"diverged, without figures or predictions: {', '.join(diverged)}")
    display.say(f"chosen: {result.best.name}")
    return result


def _check(settings: Settings, extras: TrainOptions) -> None:
    extras.check(settings)
    if extras.ema:
        EMA(extras.ema)  # raises for a decay outside (0, 1)
    for item in fields(extras):
        if item.name not in _APPLIED and getattr(extras, item.name):
            raise NotSweepableError(f"a sweep has no use for {item.name}", hint=f"it applies {', '.join(_APPLIED)}")
    for name, refused in (
        ("iter_size above 1", settings.iter_size != 1),
        ("clip_gradients", settings.clip_gradients >= 0),
    ):
        if refused:
            raise NotSweepableError(
                f"heads are trained together without {name}", hint="leave it out of the solver file"
            )
