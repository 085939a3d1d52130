"""A run: how far it is, snapshots of it, and going on from them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fusion.errors import TrainingError
from fusion.nets.weights import save_weights
from fusion.solver.snapshots import files
from fusion.solver.snapshots.files import exact_beside
from fusion.solver.snapshots.find import Found, MissingWeights, open_snapshot
from fusion.solver.snapshots.momentum import histories, restore_histories
from fusion.solver.snapshots.resume_state import (
    ENGINE,
    ResumeState,
    below,
    carried,
    carry,
    generators,
    read_exact,
    set_generators,
    write_exact,
)
from fusion.solver.step.autotune import RunConfig
from fusion.solver.step.loss_window import Losses
from prototxt.errors import WeightsError
from prototxt.formats.solverstate import SolverState, write_solverstate

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fusion.solver.logging.console import Display
    from fusion.solver.solver import Solver


@dataclass(eq=False)
class Progress:
    """How far a run is.

    iteration  iterations done
    step       of the learning rate's policy
    losses     the recent ones
    last_good  the newest complete snapshot
    traced     whether the loop runs a traced step; None before it is made, unless a snapshot tells
    compiled   whether torch's compiler has made the step; None where nobody asked for it
    kept       whether the frozen trunk's outputs are kept, not worked out in each iteration
    """

    losses: Losses
    iteration: int = 0
    step: int = 0
    last_good: str | None = field(default=None)
    traced: bool | None = None
    compiled: bool | None = None
    kept: bool | None = None

    def compare(self, traced: bool, kept: bool, display: Display) -> None:
        """Note how the loop runs, and say where it did otherwise before the snapshot."""
        if self.kept is not None and self.kept != kept:
            before = "kept the trunk's outputs" if self.kept else "ran the trunk in each iteration (--no-cache)"
            display.say(f"warning: the run that wrote the snapshot {before}: the last bits may differ")
        elif self.traced is not None and self.traced != traced:
            display.say("warning: the snapshot was written by another kind of loop: the last bits may differ")
        self.traced, self.kept = traced, kept


def take(solver: Solver) -> str:
    """Write the weights and the state; returns the solverstate's path.

    Raises: TrainingError when they cannot be written; an earlier snapshot is left as it was.
    """
    run, team, settings = solver.progress, solver.team, solver.settings
    losses = run.losses.recent
    if team is not None:
        team.settle()
    drawn = generators() if team is None else team.generators()
    model, state, exact = files.names(settings.prefix, run.iteration, hdf5=settings.snapshot_hdf5)
    content = SolverState(run.iteration, model, histories(solver.arena, solver.optimizer), run.step)
    ours = ResumeState(
        iteration=run.iteration,
        positions=tuple(job.feed.position for job in solver.jobs),
        losses=losses,
        seed=solver.seed,
        weights=files.checksum(solver.arena.updated),
        choices={
            "processes": str(_processes(solver)),
            "channels_last": str(solver.pacemaker.channels_last),
            "traced": str(run.traced),
            "compiled": str(run.compiled),
            "kept": str(run.kept),
            "updates": str(solver.optimizer.updates),
            "data": "\n".join(solver.data),
            **solver.extras.to_choices(),
        },
        generators=drawn,
        kept=_kept(solver),
    )
    if solver.writes:
        files.write_all(
            [
                (model, lambda path: save_weights(solver.net, path)),
                (exact, lambda path: write_exact(path, ours)),
                (state, lambda path: write_solverstate(path, content)),
            ],
            last_good=run.last_good,
        )
        solver.observers.call("saved", run.iteration, (model, exact, state))
    run.last_good = state
    return state


def restore(solver: Solver, path: str | os.PathLike[str]) -> None:
    """Go on from a solverstate: exactly, with our own file beside it; else as Caffe does, data from its start.

    Raises: TrainingError when the state is that of another net; WeightsError when the file is none.
    """
    found = open_snapshot(path)
    _go_on(solver, found, exactly=_take_over(solver, found))


def resume(solver: Solver) -> bool:
    """Go on from the newest complete snapshot of the solver's prefix; returns whether there is one.

    Raises: TrainingError when the snapshots are those of another net, or none of them can be used.
    """
    say, prefix = solver.display.say, solver.settings.prefix
    paths = files.states(prefix)
    for index, path in enumerate(paths):
        try:
            found = open_snapshot(path)
            if found.exact is None and any(read_exact(exact_beside(older)) for older in paths[index + 1 :]):
                say(f"passing over {path}: {exact_beside(path)} is missing or damaged, and an older snapshot is whole")
                continue
            exactly = _take_over(solver, found)
        except (WeightsError, MissingWeights, OSError) as error:
            say(f"passing over {path}, of which a file is missing or damaged: {error}")
            continue
        if found.exact is not None and not exactly:
            say(f"passing over {path}: the files beside it belong to another run")
            continue
        _go_on(solver, found, exactly)
        return True
    if paths:
        hint = "remove them, or change snapshot_prefix, to start anew"
        raise TrainingError(f"none of {len(paths)} snapshots can be used", place=prefix, hint=hint)
    say(f"no snapshot of {prefix} to go on from: training starts anew")
    return False


def _take_over(solver: Solver, found: Found) -> bool:
    """Take over weights and history; returns whether our own part belongs to them."""
    solver.load([found.weights])
    restore_histories(solver.arena, solver.optimizer, found.state.history, found.path)
    return found.exact is not None and found.exact.weights == files.checksum(solver.arena.updated)


def _go_on(solver: Solver, found: Found, exactly: bool) -> None:
    """Take over the rest of a snapshot."""
    run, state = solver.progress, found.state
    run.iteration, run.step, run.last_good = state.iter, state.current_step, found.path
    solver.optimizer.updates = state.iter
    how = "as Caffe does: the data starts anew"
    kept: dict[str, NDArray[Any]] = {}
    if found.exact is not None and exactly:
        how = _take_over_exactly(solver, found.exact)
        kept = below(found.exact.kept, "observers/")
    solver.observers.restore(kept)
    solver.display.say(f"Restored iteration {state.iter} from {found.path}, {how}")


def _take_over_exactly(solver: Solver, exact: ResumeState) -> str:
    """Take over what Caffe's files do not hold; returns how exactly the run goes on."""
    team = solver.team
    solver.progress.losses = Losses(solver.settings.average_loss, exact.losses)
    for line in solver.extras.differences(exact.choices):
        solver.display.say(f"warning: {line}, so the run goes on otherwise than it began")
    set_generators(exact.generators if team is None else team.own(exact.generators))
    solver.pacemaker.replayed = RunConfig(exact.threads, exact.choices.get("channels_last") == "True")
    for job, position in zip(solver.jobs, exact.positions, strict=False):
        job.feed.position = position
    for number, job in enumerate(solver.jobs):
        carry(job.net, below(exact.kept, f"{number}/"), solver.device)
    solver.optimizer.updates = int(exact.choices.get("updates", exact.iteration))
    processes = exact.choices.get("processes", "1")
    told = {"True": True, "False": False}
    solver.progress.traced = told.get(exact.choices.get("traced", ""))
    solver.progress.compiled = told.get(exact.choices.get("compiled", ""))
    solver.progress.kept = told.get(exact.choices.get("kept", ""))
    if processes != str(_processes(solver)):
        return f"but not what is drawn at random: {processes} processes wrote it"
    if exact.seed != solver.seed:
        return f"but not what is drawn at random: set random_seed: {exact.seed}, which it was trained with"
    if exact.engine != ENGINE:
        return f"but perhaps not to the last bit: {exact.engine} wrote it, this is {ENGINE}"
    return _on_other_data(exact.choices.get("data", ""), solver.data) or "exactly"


def _on_other_data(before: str, now: Sequence[str]) -> str:
    """How the data differs from that of the snapshot; "" where it does not, or an older snapshot does not tell."""
    if not before or before.split("\n") == list(now):
        return ""
    counts = [" and ".join(one.partition(" ")[0] for one in sources) for sources in (before.split("\n"), now)]
    if counts[0] != counts[1]:
        return f"but on other data: there were {counts[0]} records, and are {counts[1]} now"
    return "but perhaps not on the same data: its files, labels or transform have changed since"


def _processes(solver: Solver) -> int:
    return 1 if solver.team is None else solver.team.world.size


def _kept(solver: Solver) -> dict[str, NDArray[Any]]:
    """What recurrent layers carry over, by the number of their net, and what the observers keep."""
    parts = {str(number): carried(job.net) for number, job in enumerate(solver.jobs)}
    parts["observers"] = solver.observers.state()
    return {f"{part}/{name}": values for part, arrays in parts.items() for name, values in arrays.items()}
