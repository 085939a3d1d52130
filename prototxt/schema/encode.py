"""Print messages as text, as Caffe's tools do: one field per line, two blanks per level, in the schema's order."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from prototxt.schema import forks
from prototxt.schema.scalars import is_repeated

_SPECIAL = re.compile(r'[\x00-\x1f"\\\x7f]')
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def to_text(message: Message) -> str:
    """Return the message as text that decodes to an equal message, including fields of forks and unknown ones."""
    return "".join(f"{line}\n" for line in _lines(message, ""))


def float_text(value: float) -> str:
    """Return the shortest decimal that reads back as the same float32."""
    if not math.isfinite(value):
        return str(value)
    single = struct.pack("f", value)
    # Nine digits identify any float32; most need six.
    for digits in range(6, 9):
        text = f"{value:.{digits}g}"
        if struct.pack("f", float(text)) == single:
            return text
    return f"{value:.9g}"


def string_text(value: str | bytes) -> str:
    """Return a string or bytes in double quotes; control characters and non-ASCII bytes are escaped."""
    if isinstance(value, bytes):
        return '"' + "".join(_escaped(chr(byte)) if byte < 0x80 else f"\\{byte:03o}" for byte in value) + '"'
    return '"' + _SPECIAL.sub(lambda match: _escaped(match[0]), value) + '"'


def _escaped(character: str) -> str:
    if not _SPECIAL.match(character):
        return character
    return _ESCAPES.get(character) or f"\\{ord(character):03o}"


def _lines(message: Message, indent: str) -> Iterator[str]:
    present = {descriptor.number: value for descriptor, value in message.ListFields() if not descriptor.is_extension}
    for descriptor in message.DESCRIPTOR.fields:
        if descriptor.number in present:
            yield from _field_lines(descriptor, present[descriptor.number], indent)
    if forks.has_fields(message):
        yield from _fork_lines(message, indent)
    for name, text in forks.unknown(message):
        yield _unknown_line(name, text, indent)


def _fork_lines(message: Message, indent: str) -> Iterator[str]:
    """Yield the forks' fields; repeated versions of Caffe's singular fields are lists, so that they decode again."""
    for descriptor, value in forks.fields(message).ListFields():
        if is_repeated(descriptor) and descriptor.name in message.DESCRIPTOR.fields_by_name:
            yield f"{indent}{descriptor.name}: [{', '.join(_scalar(descriptor, item) for item in value)}]"
        else:
            yield from _field_lines(descriptor, value, indent)
    for name, text in forks.unknown(forks.fields(message)):
        yield _unknown_line(name, text, indent)


def _unknown_line(name: str, text: str, indent: str) -> str:
    return f"{indent}{name}{text}" if text.startswith(":") else f"{indent}{name} {text}"


def _field_lines(descriptor: Any, value: Any, indent: str) -> Iterator[str]:
    for item in value if is_repeated(descriptor) else (value,):
        if descriptor.message_type is None:
            yield f"{indent}{descriptor.name}: {_scalar(descriptor, item)}"
        elif item.ListFields() or forks.unknown(item):
            yield f"{indent}{descriptor.name} {{"
            yield from _lines(item, indent + "  ")
            yield f"{indent}}}"
        else:
            yield f"{indent}{descriptor.name} {{}}"


def _scalar(descriptor: Any, value: Any) -> str:
    if descriptor.enum_type is not None:
        return str(descriptor.enum_type.values_by_number[value].name)
    if descriptor.cpp_type == FieldDescriptor.CPPTYPE_FLOAT:
        return float_text(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return string_text(value) if isinstance(value, str | bytes) else repr(value)
