"""Overrides of a solver file's fields: `key=value`, checked as the file itself is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fusion.errors import TrainingError, raise_all
from prototxt.errors import DecodeError, did_you_mean
from prototxt.schema.decode import decode
from prototxt.schema.encode import string_text
from prototxt.schema.messages import SolverParameter
from prototxt.schema.scalars import is_repeated
from prototxt.text.parser import parse

if TYPE_CHECKING:
    from google.protobuf.descriptor import FieldDescriptor


def override(solver: SolverParameter, settings: Sequence[str]) -> None:
    """Set fields, in order: `base_lr=0.1`, `stepvalue=100,200` (replaces the list), `train_state.stage=a,b`.

    Raises: TrainingError naming every invalid setting.
    """
    errors = []
    for setting in settings:
        try:
            _set(solver, setting)
        except TrainingError as error:
            error.place = error.place or f"--set {setting}"
            errors.append(error)
    raise_all(errors)


def _set(solver: SolverParameter, setting: str) -> None:
    key, equals, value = setting.partition("=")
    if not equals or not key:
        raise TrainingError("not KEY=VALUE", hint="for instance base_lr=0.01")
    fields = _path(key.strip())
    leaf = fields[-1]
    if leaf.message_type is not None:
        hint = f"set one of its fields: {key}.{leaf.message_type.fields[0].name}=..."
        raise TrainingError(f"{key} is a block ({leaf.message_type.name})", hint=hint)
    parts = [part.strip() for part in value.split(",")] if is_repeated(leaf) else [value.strip()]
    text = "\n".join(f"{leaf.name}: {_literal(leaf, part)}" for part in parts if part or not is_repeated(leaf))
    for field in reversed(fields[:-1]):
        text = f"{field.name} {{ {text} }}"
    try:
        found = decode(parse(text, f"--set {setting}"), "SolverParameter")
    except DecodeError as error:
        raise TrainingError(error.message, hint=error.hint) from None
    target: Any = solver
    for field in fields[:-1]:
        target = getattr(target, field.name)
    target.ClearField(leaf.name)
    solver.MergeFrom(found)


def _path(key: str) -> list[FieldDescriptor]:
    """Return the fields on the path `a.b.c`. Raises: TrainingError."""
    descriptor: Any = SolverParameter.DESCRIPTOR
    found: list[Any] = []
    for name in key.split("."):
        if descriptor is None:
            raise TrainingError(f"{found[-1].name} has no fields of its own")
        field = descriptor.fields_by_name.get(name)
        if field is None:
            hint = did_you_mean(name, descriptor.fields_by_name)
            raise TrainingError(f"{descriptor.name} has no field '{name}'", hint=hint)
        if found and is_repeated(found[-1]):
            raise TrainingError(f"{found[-1].name} may occur several times", hint="write it into the solver file")
        found.append(field)
        descriptor = field.message_type
    return found


def _literal(field: FieldDescriptor, value: str) -> str:
    if field.type != field.TYPE_STRING:
        return value
    return string_text(value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'" else value)
