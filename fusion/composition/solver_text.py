"""The solver of a fused net as text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fusion.composition.net_text import quoted
from fusion.errors import ComposeError

_POLICIES = ("fixed", "step", "exp", "inv", "multistep", "poly", "sigmoid")


@dataclass(frozen=True)
class SolverSettings:
    """How the head is to be trained; the defaults are the tutorial's.

    test_interval  0 for no tests
    further  more fields of SolverParameter, such as {"random_seed": 1} or {"stepvalue": [10, 20]}
    """

    base_lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 0.0005
    lr_policy: str = "step"
    gamma: float = 0.707
    stepsize: int = 1000
    max_iter: int = 30000
    test_interval: int = 1000
    test_iter: int | None = None
    display: int = 200
    snapshot: int | None = None
    further: Mapping[str, object] = field(default_factory=dict)


def check_schedule(schedule: SolverSettings) -> list[ComposeError]:
    """What is wrong with the settings."""
    errors = []
    if schedule.lr_policy not in _POLICIES:
        errors.append(
            ComposeError(f"there is no lr_policy '{schedule.lr_policy}'", hint=f"one of {', '.join(_POLICIES)}")
        )
    errors += [
        ComposeError(f"{name} must be at least {least}, not {getattr(schedule, name)}")
        for name, least in (("max_iter", 1), ("stepsize", 1), ("test_interval", 0), ("display", 0))
        if getattr(schedule, name) < least
    ]
    if schedule.base_lr < 0:
        errors.append(ComposeError(f"base_lr must not be negative, as {schedule.base_lr} is"))
    return errors


def solver_text(schedule: SolverSettings, test_iter: int) -> str:
    """The solver; paths in it are as if it were run in its own directory."""
    lines = [
        "# How the head of the fused net is trained; the branches are frozen.",
        'net: "train_val.prototxt"',
        "",
        *_tests(schedule, test_iter),
        f"base_lr: {schedule.base_lr:.9g}",
        f"momentum: {schedule.momentum:.9g}",
        f"weight_decay: {schedule.weight_decay:.9g}",
        f"lr_policy: {quoted(schedule.lr_policy)}",
    ]
    if schedule.lr_policy != "fixed":
        lines.append(f"gamma: {schedule.gamma:.9g}")
    if schedule.lr_policy == "step":
        lines.append(f"stepsize: {schedule.stepsize}")
    lines += [
        "",
        f"display: {schedule.display}",
        f"max_iter: {schedule.max_iter}",
        f"snapshot: {schedule.snapshot or schedule.max_iter}",
        'snapshot_prefix: "fused"',
    ]
    lines += [f"{name}: {text}" for name, value in schedule.further.items() for text in _literals(name, value)]
    return "\n".join(lines) + "\n"


def _tests(schedule: SolverSettings, test_iter: int) -> list[str]:
    """When the net is tested; nothing for an interval of 0, with which Caffe takes no test_iter either."""
    if not schedule.test_interval:
        return []
    return [
        f"test_iter: {test_iter}",
        f"test_interval: {schedule.test_interval}",
        "test_initialization: false",
        "",
    ]


def _literals(name: str, value: object) -> list[str]:
    """A field's value in text format; one per element of a list."""
    if isinstance(value, (list, tuple)):
        return [text for item in value for text in _literals(name, item)]
    if isinstance(value, bool):
        return ["true" if value else "false"]
    if not isinstance(value, str):
        return [str(value)]
    from prototxt.schema.messages import SolverParameter

    field = SolverParameter.DESCRIPTOR.fields_by_name.get(name)
    return [value if field is not None and field.enum_type is not None else quoted(value)]
