"""A solver file's settings, checked as Caffe checks them but all at once."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fusion.errors import TrainingError, raise_all
from fusion.solver.lr_policy import BEYOND, POLICIES, Schedule
from fusion.solver.optimizers import RULES, OptimizerOptions
from prototxt.schema import forks

if TYPE_CHECKING:
    from prototxt.schema.messages import SolverParameter

REGULARIZATIONS = ("L1", "L2")
_FALLING = ("step", "exp", "inv", "multistep", "sigmoid")
_COPIED = (
    *("type", "momentum", "momentum2", "weight_decay", "delta", "rms_decay", "clip_gradients", "iter_size", "max_iter"),
    *("average_loss", "display", "test_interval", "test_initialization", "test_compute_loss", "snapshot"),
    *("snapshot_after_train", "debug_info"),
)
# Settings of NVCaffe's and Intel's solvers that change the numbers; their others change speed, or belong to these.
_FORK_RULES = (
    *("min_lr", "rampup_interval", "local_lr_auto", "warmup_iter", "momentum_policy", "larc", "weight_decay_policy"),
    *("stagelr", "stageiter", "disabled_update"),
)


@dataclass(frozen=True)
class Settings:
    """The settings of training, in Caffe's names.

    prefix  of snapshot files
    seed    None: drawn when training starts
    """

    schedule: Schedule
    type: str
    momentum: float
    momentum2: float
    weight_decay: float
    regularization: str
    delta: float
    rms_decay: float
    clip_gradients: float
    iter_size: int
    max_iter: int
    average_loss: int
    display: int
    test_iter: tuple[int, ...]
    test_interval: int
    test_initialization: bool
    test_compute_loss: bool
    snapshot: int
    prefix: str
    snapshot_hdf5: bool
    snapshot_after_train: bool
    seed: int | None
    weights: tuple[str, ...]
    debug_info: bool = False

    @property
    def optimizer_options(self) -> OptimizerOptions:
        """Return the constants of the update rule."""
        return {name: getattr(self, name) for name in OptimizerOptions.__annotations__}  # type: ignore[return-value]


def read_settings(
    solver: SolverParameter, *, path: str | None = None, policy: str | None = None, warmup: int = 0
) -> Settings:
    """Return the settings of a solver message.

    path    its file, for messages and the default snapshot prefix
    policy  instead of its lr_policy; one that Caffe lacks is possible
    warmup  iterations of linear warm-up, which Caffe lacks

    Raises: TrainingError naming every setting that Caffe would refuse.
    """
    raise_all(_mistakes(solver, path, policy, warmup))
    return Settings(
        schedule=Schedule(
            policy=policy or solver.lr_policy,
            base_lr=solver.base_lr,
            gamma=solver.gamma,
            power=solver.power,
            stepsize=solver.stepsize,
            steps=tuple(solver.stepvalue),
            max_iter=solver.max_iter,
            warmup=warmup,
        ),
        regularization=solver.regularization_type,
        test_iter=tuple(solver.test_iter),
        prefix=prefix_of(solver, path),
        snapshot_hdf5=solver.snapshot_format == solver.HDF5,
        seed=solver.random_seed if solver.random_seed >= 0 else None,
        weights=tuple(part for item in solver.weights for part in item.split(",") if part),
        **{name: getattr(solver, name) for name in _COPIED},
    )


def prefix_of(solver: SolverParameter, path: str | None) -> str:
    """Return the snapshot prefix as Caffe completes it: by default, and in a folder, the solver file's name."""
    prefix = solver.snapshot_prefix
    stem = os.path.splitext(path)[0] if path else "snapshot"
    if not prefix:
        return stem
    return os.path.join(prefix, os.path.basename(stem)) if os.path.isdir(prefix) else prefix


def _mistakes(
    solver: SolverParameter, path: str | None, policy: str | None = None, warmup: int = 0
) -> list[TrainingError]:
    found: list[TrainingError] = []  # Caffe stops at the first of these; here all are reported at once
    policies = (*POLICIES, *BEYOND) if policy else tuple(POLICIES)
    policy = policy or solver.lr_policy

    def refuse(message: str, hint: str) -> None:
        found.append(TrainingError(message, place=path, hint=hint))

    if solver.type not in RULES:
        refuse(f"unknown solver type '{solver.type}'", _suggest(solver.type, tuple(RULES)))
    if policy in BEYOND and policy not in policies:
        refuse(
            f"Caffe knows no learning rate policy '{policy}'", f"take it out of the file and give --lr-policy {policy}"
        )
    elif policy not in policies:
        refuse(f"unknown learning rate policy '{policy}'", _suggest(policy, policies))
    if warmup < 0:
        refuse(f"warm-up must not be negative: {warmup}", "give the number of iterations")
    if solver.regularization_type not in REGULARIZATIONS:
        refuse(f"unknown regularization type '{solver.regularization_type}'", "known are L1 and L2")
    if policy in ("step", "sigmoid") and solver.stepsize <= 0:
        refuse(f'lr_policy "{policy}" needs a positive stepsize', "add stepsize: 1000")
    if policy in _FALLING and solver.gamma < 0:
        refuse(f"gamma must not be negative: {solver.gamma:g}", "try 0.1")
    if policy in ("poly", "cosine") and solver.max_iter <= 0:
        refuse(f'lr_policy "{policy}" needs max_iter', "add max_iter")
    if solver.type in ("AdaGrad", "RMSProp") and solver.momentum != 0:
        refuse(f"momentum cannot be used with {solver.type}", "remove momentum, or set it to 0")
    if solver.type == "RMSProp" and not 0 <= solver.rms_decay < 1:
        refuse(f"rms_decay must lie in [0, 1), not {solver.rms_decay:g}", "try 0.98")
    for name in ("iter_size", "average_loss"):
        if getattr(solver, name) < 1:
            refuse(f"{name} must be at least 1, not {getattr(solver, name)}", f"remove {name}")
    own = forks.fields(solver)
    for name in _FORK_RULES:
        if getattr(own, name) != getattr(type(own)(), name):
            refuse(f"{name} is a setting of a fork that training here does not know", f"remove {name} to do without")
    for name in ("max_iter", "display", "test_interval", "snapshot"):
        if getattr(solver, name) < 0:
            refuse(f"{name} must not be negative: {getattr(solver, name)}", f"set {name} to 0 or more")
    return found


def _suggest(name: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(name, known, 1, 0.5)
    return f"did you mean '{near[0]}'?" if near else f"known are {', '.join(known)}"
