"""The solver of a fused net as text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace

from fusion.composition.net_text import format_value, quoted
from fusion.errors import ComposeError
from prototxt.errors import did_you_mean

_POLICIES = ("fixed", "step", "exp", "inv", "multistep", "poly", "sigmoid")


@dataclass(frozen=True)
class SolverSettings:
    """How the head is trained; the defaults are the tutorial's.

    test_interval  0 for no tests
    further        more fields of SolverParameter, such as {"random_seed": 1} or {"stepvalue": [10, 20]}
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

    def with_fields(self, values: Mapping[str, object]) -> SolverSettings:
        """Return the settings with some fields of SolverParameter replaced."""
        own = {item.name for item in fields(self)} & values.keys()
        further = {**self.further, **{name: value for name, value in values.items() if name not in own}}
        known: dict[str, object] = {name: values[name] for name in own}
        return replace(self, **known, further=further)  # type: ignore[arg-type]  # values come from parsed text

    def changed_fields(self) -> dict[str, object]:
        """Return the fields of SolverParameter that differ from the defaults."""
        own = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "further"}
        default = SolverSettings()
        return {**{name: value for name, value in own.items() if value != getattr(default, name)}, **self.further}


def check_settings(settings: SolverSettings) -> list[ComposeError]:
    """Return the errors in the settings."""
    errors = []
    if settings.lr_policy not in _POLICIES:
        hint = did_you_mean(settings.lr_policy, _POLICIES, also=f"one of {', '.join(_POLICIES)}")
        errors.append(ComposeError(f"there is no lr_policy '{settings.lr_policy}'", hint=hint))
    errors += [
        ComposeError(f"{name} must be at least {least}, not {getattr(settings, name)}")
        for name, least in (("max_iter", 1), ("stepsize", 1), ("test_interval", 0), ("display", 0))
        if getattr(settings, name) < least
    ]
    if settings.base_lr < 0:
        errors.append(ComposeError(f"base_lr must not be negative, as {settings.base_lr} is"))
    return errors


def solver_text(settings: SolverSettings, test_iter: int) -> str:
    """Return the solver as text; paths in it are as if it were run in its own directory."""
    tests = [f"test_iter: {test_iter}", f"test_interval: {settings.test_interval}", "test_initialization: false", ""]
    lines = [
        "# How the head of the fused net is trained; the branches are frozen.",
        'net: "train_val.prototxt"',
        "",
        *(tests if settings.test_interval else []),  # without tests Caffe takes no test_iter either
        f"base_lr: {settings.base_lr:.9g}",
        f"momentum: {settings.momentum:.9g}",
        f"weight_decay: {settings.weight_decay:.9g}",
        f"lr_policy: {quoted(settings.lr_policy)}",
    ]
    if settings.lr_policy != "fixed":
        lines.append(f"gamma: {settings.gamma:.9g}")
    if settings.lr_policy == "step":
        lines.append(f"stepsize: {settings.stepsize}")
    lines += [
        "",
        f"display: {settings.display}",
        f"max_iter: {settings.max_iter}",
        f"snapshot: {settings.snapshot or settings.max_iter}",
        'snapshot_prefix: "fused"',
    ]
    lines += [f"{name}: {text}" for name, value in settings.further.items() for text in _literals(name, value)]
    return "\n".join(lines) + "\n"


def _literals(name: str, value: object) -> list[str]:
    """Return a field's value in text format; one per element of a list."""
    if isinstance(value, (list, tuple)):
        return [text for item in value for text in _literals(name, item)]
    if not isinstance(value, str):
        return [format_value(value)]
    from prototxt.schema.messages import SolverParameter

    field = SolverParameter.DESCRIPTOR.fields_by_name.get(name)
    return [value if field is not None and field.enum_type is not None else quoted(value)]
