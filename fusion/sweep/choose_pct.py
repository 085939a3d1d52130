"""`--pct auto`: the loss towards the references is chosen on training records that are kept back.

options = choose_pct("solver.prototxt", "init.caffemodel", references=["old.prototxt:old.caffemodel"], pct=["auto"])
Solver("solver.prototxt", "init.caffemodel", **options).train()
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusion.errors import TrainingError, translate_errors
from fusion.file_lock import locked
from fusion.solver.load_solver import as_paths, read_message
from fusion.solver.logging.caffe_log import for_training
from fusion.solver.logging.console import Display
from fusion.solver.settings import prefix_of
from fusion.solver.snapshots.files import states
from fusion.solver.solver_options import SolverOptions
from fusion.solver.train_options import TrainOptions
from fusion.sweep.auto_pct import AutoPct, parse_auto, pct_text
from fusion.sweep.grid import NONE, Trial, cells
from fusion.sweep.results import Result, mean_figures, with_choice
from fusion.sweep.stacked_heads import NotSweepableError
from fusion.sweep.sweep import SweepOptions, sweep
from fusion.sweep.train_apart import train_apart
from prototxt.files import write_text

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from prototxt.schema.messages import SolverParameter

PathLike = str | os.PathLike[str]
KINDS, WEIGHTS = ("kd", "focal", "ldi"), (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
KINDS_APART, WEIGHTS_APART = ("kd",), (0.3, 1.0, 3.0, 10.0)  # where each candidate is a training of its own


def choose_pct(
    solver: SolverParameter | PathLike,
    weights: PathLike | Sequence[PathLike] | None = None,
    *,
    select_on: float | PathLike = 0.1,
    slack: float = 0.003,
    resume: bool = False,
    **options: Unpack[SolverOptions],
) -> SolverOptions:
    """Return the options with `auto` in `pct` replaced by the loss that suits them best; without `auto`, as they are.

    The candidates are trained on the records that are not kept back, in a sweep, or one after the other where the net
    cannot be swept. The folder PREFIX_pct beside the snapshots gets the choice, a table and the trade-off as a picture.

    solver, weights, options  as in Solver
    select_on  the share of the training records that is kept back for the choice, or a list to choose on
    slack      how far below the best accuracy a loss may be that is chosen for its few negative flips
    resume     keep the choice in that folder; without one only a run without snapshots may choose

    Raises: TrainingError without references, for a kept choice from other candidates, in several processes;
            ComposeError for unknown losses and options; the errors of Solver.
    """
    pct = options.get("pct", ())
    auto = parse_auto([pct] if isinstance(pct, str) else pct)
    if auto is None:
        return options
    if not options.get("references"):
        raise TrainingError("--pct auto needs a reference to compare with", hint="add --reference")
    if int(os.environ.get("WORLD_SIZE") or 1) > 1:
        hint = "let one process choose, and give all of them its choice as --pct"
        raise TrainingError("--pct auto chooses in one process, without torchrun", hint=hint)
    message, path = read_message(solver, options.get("max_iter"), options.get("overrides", ()))
    prefix = prefix_of(message, path)
    file, asked = Path(f"{prefix}_pct", "choice.json"), _asked(auto, options, select_on, slack)
    display = options.get("display") or for_training()
    chosen = _kept(file, asked) if resume else None
    if chosen is not None:
        display.say(f"--pct {chosen or NONE}, as {file} says")
    else:
        if resume and (states(prefix) or not (weights is None or as_paths(weights))):
            hint = "give the loss that it was trained with, as --pct KIND,weight=W"
            raise TrainingError(
                "the snapshot was not trained with a loss that --pct auto chose", place=str(file), hint=hint
            )
        with locked(prefix, display.say), suppress(FileNotFoundError):
            file.unlink()
        options_tried: SolverOptions = {**_trial_options(message, options), "display": display}
        swept = SweepOptions(
            weights=weights, select_on=select_on, slack=slack, report=False, **_in_sweeps(options_tried)
        )
        result = _compare(solver, auto, swept, options_tried)
        chosen = pct_text(result.best)
        with locked(prefix, display.say):
            file.parent.mkdir(parents=True, exist_ok=True)
            result.write(file.parent)
            write_text(file, json.dumps({"pct": chosen, "asked": asked}, indent=1) + "\n")
        for line in _reasons(result, slack, file.parent):
            display.say(line)
    # references without a loss would be computed for nothing
    without: SolverOptions = {"references": (), "pct": (), "kd_alpha": None}
    return {**options, "pct": [chosen]} if chosen else {**options, **without}


def _asked(auto: AutoPct, options: SolverOptions, select_on: float | PathLike, slack: float) -> dict[str, Any]:
    """Return what a choice depends on, in JSON's types, except for the net, its data and its solver."""
    references = [item if isinstance(item, str) else item.name or "object" for item in options["references"]]
    values = {"references": references, "select_on": select_on, "slack": slack, "kd_alpha": options.get("kd_alpha")}
    found: dict[str, Any] = json.loads(json.dumps({**asdict(auto), **values}, default=os.fspath))
    return found


def _kept(file: Path, asked: Mapping[str, Any]) -> str | None:
    """Return the choice in a file, "" for no loss; None without a file.

    Raises: TrainingError for a choice from other candidates.
    """
    if not file.exists():
        return None
    with translate_errors(TrainingError, "not a choice of --pct auto", str(file)):
        found = json.loads(file.read_bytes())
        chosen, before = str(found["pct"]), dict(found["asked"])
    changes = [
        f"{key} was {before.get(key)} and is now {value}" for key, value in asked.items() if value != before.get(key)
    ]
    if changes:
        hint = f"give its choice (--pct {chosen}), or start again without --resume"
        message = f"the loss was chosen from other candidates: {'; '.join(changes)}"
        raise TrainingError(message, place=str(file), hint=hint)
    return chosen


def _trial_options(message: SolverParameter, options: SolverOptions) -> SolverOptions:
    """Return the options for candidates, without those that change nothing of the choice."""
    extras = options.get("extras") or TrainOptions()
    extras = replace(extras, best_on=None, early_stopping=0, snapshot_epochs=0, keep=0, save_init=None)
    overrides = [*options.get("overrides", ())]
    if message.random_seed < 0:  # all candidates must keep back the same records
        overrides.append("random_seed=0")
    return {**options, "extras": extras, "overrides": overrides}


def _in_sweeps(options: SolverOptions) -> dict[str, Any]:
    """Return the options that a sweep has too; its heads take one thread."""
    names = {field.name for field in fields(SweepOptions)} - {"threads"}
    return {name: value for name, value in options.items() if name in names}


def _compare(solver: SolverParameter | PathLike, auto: AutoPct, swept: SweepOptions, options: SolverOptions) -> Result:
    """Return the figures of all candidates, from a sweep if that is possible."""
    try:
        if options.get("arrays") is not None:
            raise NotSweepableError("a sweep takes no arrays")
        return sweep(solver, auto.axes(KINDS, WEIGHTS), swept)
    except NotSweepableError as error:
        reason = error.message
    trials = cells(auto.axes(KINDS_APART, WEIGHTS_APART))
    iterations = read_message(solver, swept.max_iter, swept.overrides)[0].max_iter
    say = (swept.display or Display()).say
    say(f"--pct auto: {len(trials)} trainings of {iterations} iterations one after the other, since {reason}")
    say("  kind=KIND and weight=LOW:HIGH:NUMBER limit their number")
    return with_choice(train_apart(solver, swept.weights, trials, swept.select_on, options, say), swept.slack)


def _reasons(result: Result, slack: float, folder: Path) -> Iterator[str]:
    """Yield why the loss was chosen, in lines."""
    found, chosen = mean_figures(result.entries), result.best.setting

    def described(setting: Trial) -> str:
        accuracy, flips = found[setting]
        return f"{pct_text(setting) or 'no loss'}: {flips:.2%} negative flips, {accuracy:.2%} accuracy"

    most = max(found, key=lambda setting: found[setting].accuracy)
    yield f"--pct auto chose {described(chosen)}"
    yield f"  of {len(found)} candidates the fewest flips with at most {slack:.2%} less accuracy than {described(most)}"
    if Trial(NONE) in found and Trial(NONE) not in (chosen, most):
        yield f"  {described(Trial(NONE))}"
    weights = sorted({setting.weight for setting in found if setting.loss == chosen.loss})
    if len(weights) > 1 and chosen.weight in (weights[0], weights[-1]):
        which = "smallest" if chosen.weight == weights[0] else "largest"
        yield f"  its weight is the {which} of those tried; weight=LOW:HIGH:NUMBER tries others"
    yield f"  all candidates: {folder}/table.csv and trade_off.png"
