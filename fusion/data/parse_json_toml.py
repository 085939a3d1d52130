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
        return json.loads(text)


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
    return found
