"""Convert literals of the text to values of scalar fields, by the rules of protobuf's C++ text format.

Integers are decimal, hexadecimal or octal and in range; floats are decimal, may end in f, may be inf or nan, and may be
written as integers; booleans are true, t, 1, false, f, 0; enums go by name or number; strings are quoted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from typing import Any

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor

from prototxt.errors import closest, did_you_mean
from prototxt.text.tree import Scalar

Value = int | float | str | bytes
ScalarReader = Callable[[Scalar], Value]


class BadValueError(ValueError):
    """A literal does not fit the field; `hint` describes a literal that would."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


_INTEGER = re.compile(r"-?(?:(0[xX][0-9a-fA-F]+)|(0[0-7]*)|([1-9][0-9]*))\Z")
_FLOAT = re.compile(r"-?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?[fF]?\Z")
_LEADING_ZERO = re.compile(r"-?0[0-9]")
_ESCAPE = re.compile(
    r"\\(?:([abfnrtv\\'\"?0-7]|[xX][0-9a-fA-F]|u[0-9a-fA-F]{4}|U00(?:0[0-9a-fA-F]|10)[0-9a-fA-F]{4})|.|\Z)", re.DOTALL
)
_BOOLS = {"true": True, "True": True, "t": True, "false": False, "False": False, "f": False}
_NOT_FINITE = {"inf": math.inf, "infinity": math.inf, "nan": math.nan, "inff": math.inf, "nanf": math.nan}
_RANGES = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}


def is_repeated(field: Any) -> bool:
    """Return whether a field is repeated; protobuf before 6.31 has another attribute for it."""
    return bool(field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED)


def is_required(field: Any) -> bool:
    """Return whether a field is required."""
    return bool(field.is_required if hasattr(field, "is_required") else field.label == field.LABEL_REQUIRED)


def scalar_reader(field: FieldDescriptor) -> ScalarReader:
    """Return the function that converts this field's literals, which may raise BadValueError."""
    if field.cpp_type in _RANGES:
        return _integer_reader(*_RANGES[field.cpp_type])
    if field.enum_type is not None:
        return _enum_reader(field.enum_type)
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return _read_bool
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return _read_bytes if field.type == FieldDescriptor.TYPE_BYTES else _read_string
    return _read_float


def _shown(scalar: Scalar) -> str:
    return scalar.raw if len(scalar.raw) <= 60 else scalar.raw[:57] + "..."


def _literal(scalar: Scalar) -> str:
    """Return the literal's text; blanks and even a comment may separate a sign from its number."""
    raw = scalar.raw
    if raw[0] == "-" and not raw[1:2].isalnum() and raw[1:2] != ".":
        return "-" + raw[1:].split()[-1]
    return raw


def _template_hint(scalar: Scalar) -> str | None:
    if scalar.kind == "identifier":
        return "a number belongs here; in a template, replace the placeholder by its value"
    return "write the number without quotes" if scalar.kind == "string" else None


def parse_integer(text: str) -> int | None:
    """Return the value of an integer literal of any size (decimal, 0x hexadecimal, 0 octal), else None."""
    match = _INTEGER.match(text)
    if match is None:
        return None
    hexadecimal, octal, decimal = match.groups()
    digits, base = (hexadecimal[2:], 16) if hexadecimal else (octal, 8) if octal else (decimal, 10)
    digits = digits.lstrip("0") or "0"
    value = int(digits, base) if len(digits) <= 30 else 2**64  # out of every range; int() is quadratic in the length
    return -value if text[0] == "-" else value


def _integer_reader(low: int, high: int) -> ScalarReader:
    def read(scalar: Scalar) -> int:
        value = parse_integer(_literal(scalar)) if scalar.kind == "number" else None
        if value is None:
            raise BadValueError(f"expected an integer, found {_shown(scalar)}", _template_hint(scalar))
        if not low <= value <= high:
            raise BadValueError(f"integer {_shown(scalar)} is out of range", f"allowed are {low} to {high}")
        return value

    return read


def _read_float(scalar: Scalar) -> float:
    text = _literal(scalar)
    if scalar.kind == "number" and _FLOAT.match(text):
        if _LEADING_ZERO.match(text):
            raise BadValueError(f"expected a decimal number, found {_shown(scalar)}", "drop the leading zeros")
        return float(text.rstrip("fF"))
    if scalar.kind != "string":
        value = _NOT_FINITE.get(text.lstrip("-").lower())
        if value is not None:
            return -value if text[0] == "-" else value
    raise BadValueError(f"expected a number, found {_shown(scalar)}", _template_hint(scalar))


def _read_bool(scalar: Scalar) -> bool:
    if scalar.kind == "identifier" and scalar.raw in _BOOLS:
        return _BOOLS[scalar.raw]
    value = parse_integer(scalar.raw) if scalar.kind == "number" else None
    if value in (0, 1):
        return bool(value)
    raise BadValueError(f"expected true or false, found {_shown(scalar)}", "true, t, 1, false, f and 0 are understood")


def _enum_reader(enum: EnumDescriptor) -> ScalarReader:
    names = {value.name: value.number for value in enum.values}
    numbers = set(names.values())

    def read(scalar: Scalar) -> int:
        if scalar.kind == "identifier":
            if scalar.raw in names:
                return names[scalar.raw]
            hint = did_you_mean(scalar.raw, names, _listed(names))
            raise BadValueError(f"{enum.name} has no value {_shown(scalar)!r}", hint)
        if scalar.kind == "string":
            near = closest(scalar.value, names)
            hint = f"write {near} without quotes" if near else _listed(names)
            raise BadValueError(f"expected a value of {enum.name}, found the string {_shown(scalar)}", hint)
        value = parse_integer(_literal(scalar))
        if value not in numbers or value is None:
            raise BadValueError(f"{enum.name} has no value with number {_shown(scalar)}", _listed(names))
        return value

    return read


def _listed(names: Iterable[str]) -> str:
    known = list(names)
    return "allowed are " + ", ".join(known if len(known) <= 12 else [*known[:12], "..."])


def _string(scalar: Scalar) -> str:
    if scalar.kind != "string":
        raise BadValueError(f"expected a string, found {_shown(scalar)}", "put it into quotes")
    if "\\" in scalar.raw:
        wrong = next((match[0] for match in _ESCAPE.finditer(scalar.raw) if not match[1]), None)
        if wrong is not None:
            raise BadValueError(f"unknown escape {wrong} in {_shown(scalar)}", "write \\\\ for a backslash, / in paths")
    return scalar.value


def _read_bytes(scalar: Scalar) -> bytes:
    return _string(scalar).encode("utf-8", "surrogateescape")


def _read_string(scalar: Scalar) -> str:
    value = _string(scalar)
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise BadValueError(f"string {_shown(scalar)!a} is not UTF-8", "save the file as UTF-8") from None
    return value
