"""Open a snapshot: all of its files are read before anything in the run is changed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from fusion.errors import TrainingError
from fusion.solver.snapshots.files import resume_state_path
from fusion.solver.snapshots.resume_state import ResumeState, read_resume_state
from prototxt.formats.solverstate import SolverState, read_solverstate


class MissingWeights(TrainingError):  # noqa: N818 - the name says the error
    """The weights that belong to a solverstate are missing."""


@dataclass(frozen=True, eq=False)
class OpenSnapshot:
    """A snapshot that has been read, except for its weights.

    path          of the solverstate
    weights       path of the weights
    resume_state  our own part, None where there is none; whether it belongs to the weights is not known yet
    """

    path: str
    state: SolverState
    weights: str
    resume_state: ResumeState | None


def open_snapshot(path: str | os.PathLike[str]) -> OpenSnapshot:
    """Read a snapshot by its solverstate.

    Raises: TrainingError when it is another file of a snapshot, or its weights are missing; prototxt's WeightsError
    when the file is damaged or no state.
    """
    place = os.fspath(path)
    if place.endswith(".fusionstate"):
        solverstate = f"{place.removesuffix('.fusionstate')}.solverstate"
        raise TrainingError(
            "this file is only the part of a snapshot that Caffe lacks", place=place, hint=f"give {solverstate}"
        )
    state = read_solverstate(place)
    weights = _weights_of(state, place)
    state = replace(state, history=[np.asarray(array, np.float32) for array in state.history])
    own = read_resume_state(resume_state_path(place))
    return OpenSnapshot(place, state, weights, own if own is not None and own.iteration == state.iter else None)


def _weights_of(state: SolverState, path: str) -> str:
    """Return the weights beside the state, which may have been moved together, or else those that the state names."""
    beside = os.path.join(os.path.dirname(path), os.path.basename(state.learned_net))
    for candidate in (beside, state.learned_net):
        if state.learned_net and os.path.exists(candidate):
            return candidate
    raise MissingWeights(
        f"the weights of this state are missing: {state.learned_net or '(not named)'}",
        place=path,
        hint="keep the caffemodel beside its solverstate",
    )


def recorded_decisions(solverstate: str) -> Mapping[str, str]:
    """Return the decisions in the snapshot of a solverstate; empty where it has none."""
    own = read_resume_state(resume_state_path(solverstate))
    return {} if own is None else own.decisions
