"""Finding the state that a run can go on from, and reading it whole before anything is changed."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

import numpy as np

from fusion.errors import TrainingError
from fusion.solver.snapshots.files import exact_beside
from fusion.solver.snapshots.resume_state import ResumeState, read_exact
from prototxt.formats.solverstate import SolverState, read_solverstate


class MissingWeights(TrainingError):  # noqa: N818 - what it says is what is wrong
    """The weights that belong to a solverstate are not there."""


@dataclass(frozen=True, eq=False)
class Found:
    """A snapshot that has been read, but for its weights.

    path     of the solverstate
    weights  path of the weights
    exact    our own part, None where there is none; whether it belongs to the weights is yet to be seen
    """

    path: str
    state: SolverState
    weights: str
    exact: ResumeState | None


def open_snapshot(path: str | os.PathLike[str]) -> Found:
    """Read a snapshot by its solverstate.

    Raises: TrainingError when it is another file of a snapshot, or its weights are missing; prototxt's WeightsError
    when the file is damaged or no state.
    """
    place = os.fspath(path)
    if place.endswith(".fusionstate"):
        state_beside = f"{place.removesuffix('.fusionstate')}.solverstate"
        raise TrainingError(
            "this is what Caffe's files do not hold of a snapshot", place=place, hint=f"give {state_beside}"
        )
    state = read_solverstate(place)
    weights = _weights_of(state, place)
    state = replace(state, history=[np.asarray(array, np.float32) for array in state.history])
    exact = read_exact(exact_beside(place))
    return Found(place, state, weights, exact if exact is not None and exact.iteration == state.iter else None)


def _weights_of(state: SolverState, path: str) -> str:
    """The weights beside the state, as Caffe names them, or those that it names: they may have been moved together."""
    beside = os.path.join(os.path.dirname(path), os.path.basename(state.learned_net))
    for candidate in (beside, state.learned_net):
        if state.learned_net and os.path.exists(candidate):
            return candidate
    raise MissingWeights(
        f"the weights of this state are missing: {state.learned_net or '(not named)'}",
        place=path,
        hint="keep the caffemodel beside its solverstate",
    )
