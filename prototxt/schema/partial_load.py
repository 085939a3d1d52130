"""Load a net from a text with mistakes: the readable fields are kept, the others listed with their places."""

from __future__ import annotations

import os
import re
import warnings
from dataclasses import dataclass

from prototxt.errors import Place, PrototxtError
from prototxt.schema.decode import UnknownFieldWarning
from prototxt.schema.load import load_net
from prototxt.schema.messages import NetParameter
from prototxt.text.parser import parse, parse_file
from prototxt.text.tree import Document, Field, Message

_ROUNDS = 6  # removing a field may reveal the next mistake
_INK = re.compile(r"[^\r\n]")


@dataclass(frozen=True)
class PartialNet:
    """The readable part of a net.

    problems  the omitted fields, with reasons
    strange   fields kept although Caffe does not know them: place, or "", and description
    """

    net: NetParameter
    problems: tuple[str, ...]
    strange: tuple[tuple[str, str], ...]


def load_partial(source: str | os.PathLike[str] | Document) -> PartialNet:
    """Load the upgraded net of a file or document; unreadable fields are omitted and listed.

    Raises: PrototxtError if no layer can be read; OSError.
    """
    doc = source if isinstance(source, Document) else parse_file(source, tolerant=True)
    problems = [str(error) for error in doc.errors]
    for _ in range(_ROUNDS):
        doc = Document(doc.text, doc.name, doc.root)  # drops the errors, which are in `problems` already
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                net = load_net(doc, strict=False)
            except PrototxtError as error:
                doc = _without(doc, error)
                problems += [f"left out: {part}" for part in error.errors]
                continue
        if problems and not net.layer:
            message = f"no layer can be read: {problems[0]}"
            raise PrototxtError(message, hint=None if "hint:" in message else "check that this is a net's prototxt")
        return PartialNet(net, tuple(problems), tuple(part for warning in caught for part in _strange(warning.message)))
    raise PrototxtError(f"too many mistakes: {problems[-1]}", place=doc.name, hint="mend these first")


def _strange(warning: Warning | str) -> list[tuple[str, str]]:
    if isinstance(warning, UnknownFieldWarning):
        return [(str(place), text) for place, text in warning.fields]
    return [("", str(warning))]


def _without(doc: Document, error: PrototxtError) -> Document:
    """Blank out the fields at the places of the errors. Raises: the error, if it has no such place."""
    spans = []
    for part in error.errors:
        if isinstance(part.place, Place):
            offset = _offset(doc, part.place)
            field = _innermost(doc.root, offset)
            if field is not None:
                spans.append((field.start, field.end))
    if not spans:
        raise error
    text = doc.text
    for start, end in spans:
        text = text[:start] + _INK.sub(" ", text[start:end]) + text[end:]
    return parse(text, doc.name, tolerant=True)


def _offset(doc: Document, place: Place) -> int:
    start = 0
    for _ in range(place.line - 1):
        start = doc.text.index("\n", start) + 1
    bom = place.line == 1 and doc.text.startswith("\ufeff")
    return start + place.column - 1 + bom


def _innermost(message: Message, offset: int) -> Field | None:
    for field in message:
        if field.start <= offset < field.end:
            inner = (value for value in field.values if isinstance(value, Message) and value.start < offset < value.end)
            block = next(inner, None)
            return (_innermost(block, offset) if block is not None else None) or field
    return None
