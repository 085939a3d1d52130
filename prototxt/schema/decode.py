"""Decode the tree to Caffe's messages, typed and checked, reporting all mistakes of a file together.

protobuf's own text_format stops at the first mistake, drops unknown fields, and is several times slower.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message as ProtobufMessage

from prototxt.errors import DecodeError, Place, did_you_mean, raise_all
from prototxt.schema import forks, messages
from prototxt.schema.layer_types import KNOWN_TYPES, WEIGHTLESS_TYPES
from prototxt.schema.scalars import BadValueError, ScalarReader, is_repeated, is_required, scalar_reader
from prototxt.text.tree import Document, Field, Message, Scalar

MAX_LISTED = 100  # mistakes, unknown fields and hints of one file: a hostile one could cause millions
_FOREIGN = re.compile(" has no (field|value) ")
_LENIENT = "if it is a fork's: strict=False in Python keeps it with a warning; for commands that run nets remove it"
MAX_PLACES = 10_000  # unknown fields whose places the warning holds
# A layer's message takes kilobytes, `layer{}` seven characters: more layers than this need a minimum average length.
MANY_LAYERS, LAYER_LENGTH = 20_000, 64
_LARGE = ("LayerParameter", "V1LayerParameter", "V0LayerParameter", "NetParameter")


class UnknownFieldWarning(UserWarning):
    """Fields that Caffe itself does not know were found and kept.

    fields   all such fields with their places, including those of known forks
    unknown  the fields that no schema knows
    """

    def __init__(
        self, message: str, fields: Sequence[tuple[Place, str]] = (), unknown: Sequence[tuple[Place, str]] = ()
    ) -> None:
        super().__init__(message)
        self.fields = tuple(fields)
        self.unknown = tuple(unknown)


def decode(doc: Document, type_name: str, *, strict: bool = True) -> Any:
    """Decode a document as a message of the given type, for instance "NetParameter", without upgrading it.

    strict  refuse fields that no schema knows; else they are kept as text (`forks.unknown`) and listed in a warning

    Fields of known forks of Caffe are kept typed (`forks.fields`) and listed in the warning as well.

    Raises: DecodeError with all mistakes. Warns: UnknownFieldWarning, once.
    """
    message = messages.POOL.FindMessageTypeByName(f"caffe.{type_name}")
    result: ProtobufMessage = getattr(messages, message.name)()
    decoder = _Decoder(doc, strict)
    decoder.errors.extend(DecodeError(error.message, place=error.place, hint=error.hint) for error in doc.errors)
    decoder.fill(result, doc.root, _plan(result.DESCRIPTOR))
    errors = sorted(decoder.errors, key=_line_order)
    if strict and (foreign := [error for error in errors if _FOREIGN.search(error.message)]):
        foreign[-1].hint = "; ".join(filter(None, (foreign[-1].hint, _LENIENT)))
    if decoder.more:
        errors.append(DecodeError(f"{decoder.more} more mistakes", place=doc.name))
    raise_all(errors)
    decoder.warn()
    return result


def _line_order(error: Any) -> tuple[int, int]:
    return (error.place.line, error.place.column) if isinstance(error.place, Place) else (0, 0)


@dataclass(frozen=True, slots=True)
class _FieldPlan:
    """The way to read one field: its literals by `read`, or its message by the plan of `descriptor`."""

    name: str
    repeated: bool
    read: ScalarReader | None
    descriptor: Descriptor | None


@dataclass(frozen=True, slots=True)
class _Plan:
    """The way to read a message: its fields by name, the forks' fields by name, the required ones."""

    descriptor: Descriptor
    fields: dict[str, _FieldPlan]
    forks: dict[str, _FieldPlan]
    required: tuple[str, ...]


@cache
def _plan(descriptor: Descriptor) -> _Plan:
    extension = forks.extension_of(descriptor)
    return _Plan(
        descriptor,
        {field.name: _field_plan(field) for field in descriptor.fields},
        {field.name: _field_plan(field) for field in extension.message_type.fields} if extension else {},
        tuple(field.name for field in descriptor.fields if is_required(field)),
    )


def _field_plan(field: FieldDescriptor) -> _FieldPlan:
    is_message = field.message_type is not None
    return _FieldPlan(
        field.name, is_repeated(field), None if is_message else scalar_reader(field), field.message_type or None
    )


class _Listing:
    """Non-Caffe fields: their number, and offset and description of the first ones."""

    __slots__ = ("count", "items")

    def __init__(self) -> None:
        self.count = 0
        self.items: list[tuple[int, str]] = []

    def add(self, item: tuple[int, str]) -> None:
        """Count a field, and keep it up to MAX_PLACES."""
        self.count += 1
        if self.count <= MAX_PLACES:
            self.items.append(item)


class _Decoder:
    """The state of one decoding: the mistakes and non-Caffe fields found so far."""

    def __init__(self, doc: Document, strict: bool) -> None:
        self.doc = doc
        self.strict = strict
        self.errors: list[DecodeError] = []
        self.forks = _Listing()
        self.unknown = _Listing()
        self.seen: set[str] = set()
        self.more = 0
        self.large = 0
        self.most = max(MANY_LAYERS, len(doc.text) // LAYER_LENGTH)

    def fill(self, target: Any, source: Message, plan: _Plan) -> None:
        """Set the fields of `target` from those of `source`."""
        known = plan.fields
        for field in source:
            field_plan = known.get(field.name)
            if field_plan is None:
                self.strange(target, field, plan)
            else:
                self.set(target, field, field_plan, plan)
        if not self.strict and plan.descriptor.name == "LayerParameter":
            self.check_type(target, source)
        for name in plan.required:
            if not target.HasField(name):
                self.error(source.start, f"{plan.descriptor.name} needs the field {name!r}", f"add {name}: ...")

    def set(self, target: Any, field: Field, field_plan: _FieldPlan, plan: _Plan) -> None:
        """Set one field, or record its mistake."""
        name, values = field_plan.name, field.values
        one = len(values) == 1 and field.end == values[0].end  # `name: [1]` is a list, which ends after its value
        if not field_plan.repeated and (not one or target.HasField(name) or self.is_widened(target, name, plan)):
            self.too_many(target, field, plan)
            return
        for value in values:
            if field_plan.read is None:
                self.set_message(target, field, value, field_plan)
            elif isinstance(value, Message):
                self.error(value.start, f"{name!r} takes a value, not a block", f"write {name}: ...")
            else:
                try:
                    read = field_plan.read(value)
                except BadValueError as error:
                    self.bad_value(target, field, value, error, plan)
                    continue
                if field_plan.repeated:
                    getattr(target, name).append(read)
                else:
                    setattr(target, name, read)

    def set_message(self, target: Any, field: Field, value: Scalar | Message, field_plan: _FieldPlan) -> None:
        """Fill a message field, or add one message to a repeated one."""
        name = field_plan.name
        if isinstance(value, Scalar):
            message = f"{name!r} takes a block, not the value {value.raw[:60]}"
            self.error(value.start, message, f"write {name} {{ ... }}")
            return
        part = getattr(target, name)
        if field_plan.descriptor is not None and field_plan.descriptor.name in _LARGE and not self.has_room(value):
            return
        if field_plan.repeated:
            part = part.add()
        else:
            part.SetInParent()
        if field_plan.descriptor is not None:
            self.fill(part, value, _plan(field_plan.descriptor))

    def has_room(self, value: Message) -> bool:
        """Count a layer or net, and return whether a text of this length may have this many."""
        self.large += 1
        if self.large == self.most + 1:
            message = f"more than {self.most} layers in a text of {len(self.doc.text)} characters"
            self.error(value.start, message, "no net has that many nearly empty layers: the file may be damaged")
        return self.large <= self.most

    def strange(self, target: Any, field: Field, plan: _Plan) -> None:
        """Handle a field that Caffe does not know: a fork's, or one of no schema."""
        fork_plan = plan.forks.get(field.name)
        if fork_plan is not None:
            self.forks.add((field.start, _described(field.name, plan)))
            self.set(forks.fields(target), field, fork_plan, plan)
        elif self.strict:
            message = f"{plan.descriptor.name} has no field {field.name!r}"
            self.error(field.start, message, self.hint(field, plan))
        else:
            self.keep(target, field, plan)

    def keep(self, target: Any, field: Field, plan: _Plan) -> None:
        """Keep an unknown field as text in the message."""
        self.unknown.add((field.start, _described(field.name, plan)))
        text = self.doc.text[field.name_start + len(field.name) : field.end].strip()
        forks.keep_unknown(target, field.name, text.encode("utf-8", "replace").decode())

    def is_widened(self, target: Any, name: str, plan: _Plan) -> bool:
        """Return whether earlier values of this singular field are kept in a fork's repeated field."""
        wider = plan.forks.get(name)
        return wider is not None and wider.repeated and len(getattr(forks.fields(target), name)) > 0

    def too_many(self, target: Any, field: Field, plan: _Plan) -> None:
        """Handle several values of a singular field, which a fork may have made repeated."""
        name = field.name
        twice = target.HasField(name)
        wider = plan.forks.get(name)
        if wider is not None and wider.repeated:
            if twice:
                getattr(forks.fields(target), name).append(getattr(target, name))
                target.ClearField(name)
            self.forks.add((field.start, f"several values of {_described(name, plan)}"))
            self.set(forks.fields(target), field, wider, plan)
        elif twice:
            hint = f"{plan.descriptor.name} has one {name!r}: remove this one or the one before it"
            self.error(field.start, f"{name!r} is given twice", hint)
        else:
            self.error(field.start, f"{name!r} takes one value, not a list")

    def bad_value(self, target: Any, field: Field, value: Scalar, error: BadValueError, plan: _Plan) -> None:
        """Handle a literal that does not fit: a fork's enum may have it; if not strict, an enum's value is kept."""
        wider = plan.forks.get(field.name)
        if wider is not None and wider.read is not None and value.kind == "identifier":
            with suppress(BadValueError):
                setattr(forks.fields(target), field.name, wider.read(value))
                self.forks.add((value.start, f"value {value.raw} of {_described(field.name, plan)}"))
                return
        descriptor = plan.descriptor.fields_by_name.get(field.name)
        if not self.strict and value.kind == "identifier" and descriptor is not None and descriptor.enum_type:
            self.keep(target, field, plan)
            return
        self.error(value.start, f"{field.name!r}: {error.message}", error.hint)

    def check_type(self, layer: Any, source: Message) -> None:
        """List an unknown layer type; it is no mistake, since only building the net needs the type."""
        field = source.get("type")
        if field is not None and layer.type and layer.type not in KNOWN_TYPES | WEIGHTLESS_TYPES:
            hint = did_you_mean(layer.type, KNOWN_TYPES) if self.unknown.count < MAX_LISTED else ""
            text = f"type {layer.type!r} of layer {layer.name!r}"
            self.unknown.add((field.start, f"{text}; {hint}" if hint else text))

    def hint(self, field: Field, plan: _Plan) -> str | None:
        """Return a suggestion for an unknown field."""
        key = f"{plan.descriptor.full_name} {field.name}"
        if key in self.seen or len(self.seen) > MAX_LISTED:
            return None
        self.seen.add(key)
        known = [*plan.fields, *plan.forks]
        # `kernelsize` is a field of V0 layers too: another spelling of a field of this message comes first
        spelling = did_you_mean(field.name, known, cutoff=1)
        return spelling or _misplaced(field.name, plan.descriptor) or did_you_mean(field.name, known)

    def error(self, offset: int, message: str, hint: str | None = None) -> None:
        """Record a mistake; after MAX_LISTED only count them."""
        if len(self.errors) >= MAX_LISTED:
            self.more += 1
            return
        self.errors.append(DecodeError(message, place=self.doc.place(offset), hint=hint))

    def warn(self) -> None:
        """Give one warning for all non-Caffe fields."""
        if not self.forks.count and not self.unknown.count:
            return
        parts = []
        for found, origin in ((self.forks, "of forks of Caffe"), (self.unknown, "that no schema knows")):
            if found.count:
                listed = "".join(f"\n  {self.doc.place(offset)}: {text}" for offset, text in found.items[:MAX_LISTED])
                listed += f"\n  and {found.count - MAX_LISTED} more" if found.count > MAX_LISTED else ""
                many = f"{found.count} fields, values or types {origin} were"
                parts.append(f"{many if found.count > 1 else f'a field, value or type {origin} was'} kept:{listed}")
        unknown = [(self.doc.place(offset), text) for offset, text in sorted(self.unknown.items)]
        places = [(self.doc.place(offset), text) for offset, text in sorted(self.forks.items + self.unknown.items)]
        warnings.warn(UnknownFieldWarning("\n".join(parts), places, unknown), stacklevel=3)


def _described(name: str, plan: _Plan) -> str:
    return f"{name!r} of {plan.descriptor.name}"


def _misplaced(name: str, descriptor: Descriptor) -> str | None:
    """Return where a field belongs that is in the wrong message."""
    blocks = {field.name: field.message_type for field in descriptor.fields if field.message_type}
    inside = [block for block, message in blocks.items() if name in message.fields_by_name]
    if inside and descriptor.name == "LayerParameter":
        return f"it belongs in a block: {', '.join(inside[:4])}"
    for other in ("NetParameter", "SolverParameter", "LayerParameter", "V1LayerParameter", "V0LayerParameter"):
        if other != descriptor.name and name in messages.POOL.FindMessageTypeByName(f"caffe.{other}").fields_by_name:
            return f"it is a field of {other}"
    return None
