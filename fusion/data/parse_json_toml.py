"""JSON and TOML from files of unknown origin, with errors that name the place."""

from __future__ import annotations

import json
import re
import sys
from importlib import import_module
from typing import Any

from fusion.errors import FusionError, TrainingError, translate_errors

# The parser takes quadratic time for the parts of a key.
_MOST_PARTS = 64
_LONG_KEY = re.compile(rb"(?<![\w-])(?:[\w-]+[ \t]*\.[ \t]*){%d}" % _MOST_PARTS)


def parse_json(text: str | bytes, place: str, kind: type[FusionError] = TrainingError) -> Any:
    """Parse JSON. Raises: an error of `kind` for invalid JSON, and for values nested too deeply."""
    with translate_errors(kind, "this is no JSON", place):
        return json.loads(text, parse_int=_int64)


def parse_toml(data: bytes, place: str, kind: type[FusionError] = TrainingError) -> dict[str, Any]:
    """Parse TOML. Raises: an error of `kind`, with line and column of the mistake."""
    name = "tomllib" if sys.version_info >= (3, 11) else "tomli"
    try:
        loads = import_module(name).loads
    except ModuleNotFoundError as error:
        raise kind("reading TOML needs tomli on Python 3.10", place=place, hint="pip install tomli") from error
    if _LONG_KEY.search(data):
        raise kind(f"a key has more than {_MOST_PARTS} parts", place=place, hint="no setting has more than three")
    with translate_errors(kind, "this is no TOML", place, hint='strings are quoted: head = "sum"'):
        found: dict[str, Any] = loads(data.decode())
        _check_integers(found)
    return found


def _int64(text: str) -> int:
    """Return an integer of 64 bits, as TOML has them. Raises: ValueError."""
    number = int(text)
    if not -(1 << 63) <= number < 1 << 63:
        raise ValueError(f"the integer {text:.30} has more than 64 bits")
    return number


def _check_integers(value: object) -> None:
    """Check integers at any depth, which the parser takes at any size. Raises: ValueError."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            _check_integers(part)
    elif type(value) is int:
        _int64(str(value))
