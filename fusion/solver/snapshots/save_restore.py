"""Writing snapshots of a run, and resuming from them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fusion.errors import TrainingError
from fusion.nets.weights import save_weights
from fusion.solver.snapshots import files
from fusion.solver.snapshots.files import resume_state_path
from fusion.solver.snapshots.find import MissingWeights, OpenSnapshot, open_snapshot
from fusion.solver.snapshots.momentum import histories, restore_histories
from fusion.solver.snapshots.resume_state import (
    ENGINE,
    ResumeState,
    below,
    generators,
    read_resume_state,
    recurrent_states,
    set_generators,
    set_recurrent_states,
    write_resume_state,
)
from fusion.solver.step.autotune import RunConfig
from fusion.solver.step.loss_window import Losses
from prototxt.errors import WeightsError
from prototxt.formats.solverstate import SolverState, write_solverstate

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fusion.solver.run import Run

    Arrays = dict[str, NDArray[Any]]

_BOOLS = {"True": True, "False": False}


def save_snapshot(run: Run, callbacks: Arrays) -> tuple[str, str, str]:
    """Write the weights and the state; returns the paths of caffemodel, fusionstate and solverstate.

    callbacks  the states of the callbacks
    Raises: TrainingError when they cannot be written; an earlier snapshot is left as it was.
    """
    progress, parallel, settings = run.progress, run.data_parallel, run.settings
    losses = progress.losses.recent
    if parallel is not None:
        parallel.synchronize()
    random = generators() if parallel is None else parallel.generators()
    model, solverstate, exact = files.names(settings.prefix, progress.iteration, hdf5=settings.snapshot_hdf5)
    content = SolverState(progress.iteration, model, histories(run.flat_params, run.optimizer), progress.lr_step)
    parts = {str(number): recurrent_states(job.net) for number, job in enumerate(run.nets)}
    parts["callbacks"] = callbacks
    state = ResumeState(
        iteration=progress.iteration,
        positions=tuple(job.batches.position for job in run.nets),
        losses=losses,
        seed=run.seed,
        weights=files.checksum(run.flat_params.updated),
        decisions={
            "processes": str(_processes(run)),
            "channels_last": str(run.autotuner.channels_last),
            "closed_form": str(progress.closed_form),
            "compiled": str(progress.compiled),
            "cached": str(progress.cached),
            "frozen_engines": ",".join(job.frozen_engine for job in run.nets),
            "updates": str(run.optimizer.updates),
            "data": "\n".join(run.data),
            **run.extras.to_decisions(),
        },
        generators=random,
        arrays={f"{part}/{name}": values for part, arrays in parts.items() for name, values in arrays.items()},
    )
    if run.writes:
        files.write_all(
            [
                (model, lambda path: save_weights(run.net, path)),
                (exact, lambda path: write_resume_state(path, state)),
                (solverstate, lambda path: write_solverstate(path, content)),
            ],
            last_good=progress.last_good,
        )
    progress.last_good = solverstate
    return model, exact, solverstate


def restore_snapshot(run: Run, path: str | os.PathLike[str]) -> Arrays:
    """Resume from a solverstate: exactly, with our own file beside it; else as Caffe does, with data from its start.

    Returns the states of the callbacks.

    Raises: TrainingError when the state is that of another net; WeightsError for a file of another kind.
    """
    snapshot = open_snapshot(path)
    return _resume_from(run, snapshot, exactly=_load(run, snapshot))


def resume(run: Run) -> Arrays | None:
    """Resume from the newest complete snapshot of the run's prefix; returns the callbacks' states, None without one.

    Raises: TrainingError when the snapshots are those of another net, or none of them can be used.
    """
    say, prefix = run.display.say, run.settings.prefix
    paths = files.states(prefix)
    for index, path in enumerate(paths):
        try:
            snapshot = open_snapshot(path)
            # An older whole snapshot resumes exactly, which this one cannot: it is worth a few iterations.
            older = (read_resume_state(resume_state_path(other)) for other in paths[index + 1 :])
            if snapshot.resume_state is None and any(older):
                missing = resume_state_path(path)
                say(f"skipping {path}: {missing} is missing or damaged, and an older snapshot is whole")
                continue
            exactly = _load(run, snapshot)
        except (WeightsError, MissingWeights, OSError) as error:
            say(f"skipping {path}, of which a file is missing or damaged: {error}")
            continue
        if snapshot.resume_state is not None and not exactly:
            say(f"skipping {path}: the files beside it belong to another run")
            continue
        return _resume_from(run, snapshot, exactly)
    if paths:
        hint = "remove them, or change snapshot_prefix, to start from the beginning"
        raise TrainingError(f"none of {len(paths)} snapshots can be used", place=prefix, hint=hint)
    say(f"no snapshot of {prefix} to resume from: training starts from the beginning")
    return None


def _load(run: Run, snapshot: OpenSnapshot) -> bool:
    """Load weights and history; returns whether our own part belongs to them."""
    run.load([snapshot.weights])
    restore_histories(run.flat_params, run.optimizer, snapshot.state.history, snapshot.path)
    state = snapshot.resume_state
    return state is not None and state.weights == files.checksum(run.flat_params.updated)


def _resume_from(run: Run, snapshot: OpenSnapshot, exactly: bool) -> Arrays:
    """Restore the rest of a snapshot; returns the states of the callbacks."""
    progress, state = run.progress, snapshot.state
    progress.iteration, progress.lr_step, progress.last_good = state.iter, state.current_step, snapshot.path
    run.optimizer.updates = state.iter
    how = "as Caffe does: the data starts from its beginning"
    callbacks: Arrays = {}
    if snapshot.resume_state is not None and exactly:
        how = _restore_exactly(run, snapshot.resume_state)
        callbacks = below(snapshot.resume_state.arrays, "callbacks/")
    run.display.say(f"Restored iteration {state.iter} from {snapshot.path}, {how}")
    return callbacks


def _restore_exactly(run: Run, state: ResumeState) -> str:
    """Restore the values that Caffe's files lack; returns how exactly the run resumes, in words."""
    progress, parallel, decisions = run.progress, run.data_parallel, state.decisions
    progress.losses = Losses(run.settings.average_loss, state.losses)
    for line in run.extras.differences(decisions):
        run.display.say(f"warning: {line}, so the run continues differently from how it began")
    set_generators(state.generators if parallel is None else parallel.own_generators(state.generators))
    run.autotuner.replayed = RunConfig(state.threads, decisions.get("channels_last") == "True")
    for job, position in zip(run.nets, state.positions, strict=False):  # a validation net may be new, or gone
        job.batches.position = position
    for number, job in enumerate(run.nets):
        set_recurrent_states(job.net, below(state.arrays, f"{number}/"), run.device)
    run.optimizer.updates = int(decisions.get("updates", state.iteration))  # fp16 may have skipped updates
    progress.closed_form = _BOOLS.get(decisions.get("closed_form", ""))
    progress.compiled = _BOOLS.get(decisions.get("compiled", ""))
    progress.cached = _BOOLS.get(decisions.get("cached", ""))
    only_torch = ",".join(["torch"] * len(run.nets))  # snapshots from before there was a choice
    progress.frozen_engines = tuple(decisions.get("frozen_engines", only_torch).split(","))
    processes = decisions.get("processes", "1")
    if processes != str(_processes(run)):
        return f"but not the random draws: {processes} processes wrote it"
    if state.seed != run.seed:
        return f"but not the random draws: set random_seed: {state.seed}, which it was trained with"
    if state.engine != ENGINE:
        return f"but perhaps not to the last bit: {state.engine} wrote it, this is {ENGINE}"
    return _data_difference(decisions.get("data", ""), run.data) or "exactly"


def _data_difference(before: str, now: Sequence[str]) -> str:
    """Return how the data differs from that of the snapshot; "" where it does not, or where that is not recorded."""
    if not before or before.split("\n") == list(now):
        return ""
    counts = [" and ".join(one.partition(" ")[0] for one in sources) for sources in (before.split("\n"), now)]
    if counts[0] != counts[1]:
        return f"but on other data: there were {counts[0]} records, and are {counts[1]} now"
    return "but perhaps not on the same data: its files, labels or transform have changed since"


def _processes(run: Run) -> int:
    return 1 if run.data_parallel is None else run.data_parallel.group.size
