"""Candidates that cannot be swept: each in a training of its own, measured on the records that are kept back."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from fusion.composition import Pct
from fusion.errors import TrainingError
from fusion.references import Objective, Reference, References, class_scores_blob, parse_reference
from fusion.solver.logging.console import Silent
from fusion.solver.solver import Solver
from fusion.solver.solver_options import SolverOptions
from fusion.solver.train_options import TrainOptions
from fusion.sweep.evaluate_heads import EvalSet, blob_values, known_answers, records_of
from fusion.sweep.grid import NONE, Trial
from fusion.sweep.results import FIGURES, Entry, Judge

if TYPE_CHECKING:
    from prototxt.schema.messages import SolverParameter

PathLike = str | os.PathLike[str]
_QUIET = ("snapshot=0", "snapshot_after_train=false", "display=0", "test_interval=2147483647",
          "test_initialization=false")  # fmt: skip


def train_apart(
    solver: SolverParameter | PathLike,
    weights: PathLike | Sequence[PathLike] | None,
    trials: Sequence[Trial],
    select_on: float | PathLike,
    options: SolverOptions,
    say: Callable[[str], None],
) -> list[Entry]:
    """Train a net for each trial, one after the other, without tests, snapshots and logs; return their figures.

    options  of a Solver; best_on, which keeps records back, is replaced by select_on
    Raises: the errors of Solver.
    """
    references = [parse_reference(item) if isinstance(item, str) else item for item in options["references"]]
    # a cache file holds the logits of all training records
    references = [replace(item, cache=None) for item in references]
    entries, judge = [], None
    for number, trial in enumerate(trials, 1):
        run = _solver(solver, weights, trial, references, select_on, options)
        judge = judge or _judge(run, references)
        loss, figures = _train(run, judge)
        entries.append(Entry(trial, loss, figures))
        accuracy, flips = (figures[name] for name in FIGURES[:2])
        rate = "unknown" if flips is None else f"{flips:.2%}"  # of references that know none of the records
        shown = "diverged" if accuracy is None else f"accuracy {accuracy:.2%}, NFR {rate}"
        say(f"{number} of {len(trials)}, {trial.name}: {shown}")
    return entries


def _solver(
    solver: SolverParameter | PathLike,
    weights: PathLike | Sequence[PathLike] | None,
    trial: Trial,
    references: Sequence[Reference],
    select_on: float | PathLike,
    options: SolverOptions,
) -> Solver:
    share = select_on if isinstance(select_on, float) else os.fspath(select_on)
    compared = trial.loss != NONE
    changed: SolverOptions = {
        **options,
        "references": references if compared else (),
        "pct": [Objective(Pct(trial.loss, trial.weight, dict(trial.options)))] if compared else (),
        "kd_alpha": options.get("kd_alpha") if compared else None,
        "extras": replace(options.get("extras") or TrainOptions(), best_on=share),
        "overrides": [*options.get("overrides", ()), *_QUIET],
        "display": Silent(),
        "callbacks": (),
    }
    return Solver(solver, weights, **changed)


def _judge(run: Solver, references: Sequence[Reference]) -> Judge:
    panel = _panel(run)
    return Judge(records_of(panel), known_answers(panel, References(tuple(references)), run.device))


def _panel(run: Solver) -> EvalSet:
    """Return the validation records, which are those of the last net."""
    return EvalSet(run.nets[-1], np.arange(len(run.nets[-1].sources[0])))


def _train(run: Solver, judge: Judge) -> tuple[float, dict[str, float | None]]:
    """Return the mean of the recent losses and the figures; all None for a net that diverges."""
    panel, _ = _panel(run), run.engine  # prepares the run, whose errors are none of a loss
    try:
        loss = run.step(run.settings.max_iter)
    except TrainingError:
        return math.nan, dict.fromkeys(FIGURES)
    run.callbacks.call("on_tests_start", run.iter)  # averaged weights take the place of the others
    logits = blob_values(panel.job, class_scores_blob(panel.job.message), run.device)
    run.callbacks.call("on_tests_end", run.iter)
    return loss, judge.figures(logits.numpy())
