"""The tree over a text: every node is a pair of offsets, so printing it returns the text and nothing can get lost.

The parser writes one flat record per field (`Tape`, 21 bytes each); nodes are created from it on access. A
fifty-megabyte file takes a few times its size, where a tree of objects would take a hundred times.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

from prototxt.errors import ParseError, Place
from prototxt.text.tokens import (
    ELEMENT,
    KINDS,
    LIST,
    MESSAGE,
    SCALAR as SCALAR_PATTERN,
    STRING,
    skip_blank,
    strings_end,
    unquote,
)


class Tape:
    """One record per field, in text order; the fields of a message follow it, up to the record `next`."""

    __slots__ = ("end", "ids", "kind", "name", "names", "next", "start", "text", "value")

    def __init__(self, text: str) -> None:
        self.text = text
        self.names: list[str] = []
        self.ids: dict[str, int] = {}
        self.name = array("I")  # index into names
        self.start = array("I")  # offset of the field, that is of its name
        self.value = array("I")  # offset of the value
        self.end = array("I")  # end of the value
        self.next = array("I")  # the first record after this one and its content
        self.kind = array("B")

    def field(self, record: int) -> Field:
        """Return the field node of a record."""
        kind, start = self.kind[record], self.start[record]
        values: tuple[Scalar | Message, ...]
        if kind < MESSAGE:
            values = (self.scalar(record),)
        elif kind == MESSAGE:
            values = (Message(self, record),)
        else:
            values = tuple(self.elements(record))
        return Field(self.names[self.name[record]], start, self.end[record], start, values)

    def scalar(self, record: int) -> Scalar:
        """Return the value of a field that is one literal."""
        start, end = self.value[record], self.end[record]
        return Scalar(start, end, KINDS[self.kind[record]], self.text[start:end])

    def elements(self, record: int) -> Iterator[Scalar | Message]:
        """Yield the elements of a list: messages have records, scalars are read again from the text."""
        inner, stop = record + 1, self.next[record]
        if inner < stop:
            while inner < stop:
                yield Message(self, inner)
                inner = self.next[inner]
            return
        text, pos, end = self.text, self.value[record] + 1, self.end[record]
        while pos < end:
            match = ELEMENT.match(text, pos)
            if match and match.lastgroup:
                yield Scalar(*match.span(match.lastgroup), match.lastgroup, match[match.lastgroup])
                pos = match.end()
                continue
            pos = skip_blank(text, pos)
            scalar = scan_scalar(text, pos)
            if scalar is None:
                pos += 1
            else:
                yield scalar
                pos = scalar.end


class Scalar(NamedTuple):
    """A literal: `raw` is its text, including adjacent strings and the blanks between them."""

    start: int
    end: int
    kind: str  # "string", "number" or "identifier"; a signed `-inf` is a number, a bare `inf` an identifier
    raw: str

    @property
    def value(self) -> str:
        """Return a string's content with escapes resolved; for other kinds the raw text."""
        return unquote(self.raw) if self.kind == "string" else self.raw


class Field(NamedTuple):
    """`name: value`, `name { ... }` or `name: [ ... ]`, without a separator that follows."""

    name: str  # "[a.b.c]" with its brackets for extensions and Any; "" for the opening of a broken block
    start: int
    end: int
    name_start: int
    values: tuple[Scalar | Message, ...]

    @property
    def value(self) -> Scalar | Message:
        """Return the first value. Raises: IndexError for an empty list."""
        return self.values[0]


class Message:
    """The text between two brackets, brackets included; the root is the whole text and has none."""

    __slots__ = ("_record", "_tape")

    def __init__(self, tape: Tape, record: int) -> None:
        self._tape = tape
        self._record = record

    @property
    def start(self) -> int:
        """Return the offset of the opening bracket."""
        return self._tape.value[self._record] if self._record >= 0 else 0

    @property
    def end(self) -> int:
        """Return the offset after the closing bracket."""
        return self._tape.end[self._record] if self._record >= 0 else len(self._tape.text)

    @property
    def is_root(self) -> bool:
        """Return whether this is the whole document."""
        return self._record < 0

    @property
    def fields(self) -> tuple[Field, ...]:
        """Return the fields in text order; a new tuple at each call."""
        return tuple(self)

    def __iter__(self) -> Iterator[Field]:
        tape, record, stop = self._tape, self._record + 1, self._stop
        while record < stop:
            yield tape.field(record)
            record = tape.next[record]

    def all(self, name: str) -> list[Field]:
        """Return all fields of this name, in order."""
        field = self._tape.field
        return [field(record) for record in self._named(name)]

    def get(self, name: str) -> Field | None:
        """Return the last field of this name, which is the effective one of a singular field."""
        records = self._named(name)
        return self._tape.field(records[-1]) if records else None

    def scalars(self, name: str) -> list[Scalar]:
        """Return the scalars of all fields of this name, lists flattened."""
        tape = self._tape
        found: list[Scalar] = []
        for record in self._named(name):
            if tape.kind[record] < MESSAGE:
                found.append(tape.scalar(record))
            elif tape.kind[record] == LIST:
                found += [value for value in tape.elements(record) if isinstance(value, Scalar)]
        return found

    def messages(self, name: str) -> list[Message]:
        """Return the messages of all fields of this name, lists flattened."""
        tape = self._tape
        found: list[Message] = []
        for record in self._named(name):
            if tape.kind[record] == MESSAGE:
                found.append(Message(tape, record))
            elif tape.kind[record] == LIST:
                found += [value for value in tape.elements(record) if isinstance(value, Message)]
        return found

    def string(self, name: str, default: str | None = None) -> str | None:
        """Return the value of the last scalar of this name, as text."""
        scalars = self.scalars(name)
        return scalars[-1].value if scalars else default

    @property
    def _stop(self) -> int:
        return self._tape.next[self._record] if self._record >= 0 else len(self._tape.next)

    def _named(self, name: str) -> list[int]:
        """Return the records of the fields of this name."""
        tape = self._tape
        identifier = tape.ids.get(name)
        if identifier is None:
            return []
        names, following = tape.name, tape.next
        record, stop = self._record + 1, self._stop
        found = []
        while record < stop:
            if names[record] == identifier:
                found.append(record)
            record = following[record]
        return found

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Message) and self._tape is other._tape and self._record == other._record

    def __hash__(self) -> int:
        return hash((id(self._tape), self._record))

    def __repr__(self) -> str:
        return f"Message(start={self.start}, end={self.end})"


class Document:
    """A text and the tree over it; immutable. `str(document)` is the text, byte for byte."""

    def __init__(self, text: str, name: str, root: Message, errors: tuple[ParseError, ...] = ()) -> None:
        self.text = text
        self.name = name
        self.root = root
        self.errors = errors
        self.broken: tuple[tuple[int, int], ...] = ()  # unreadable spans; empty for an unmatched bracket

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"<Document {self.name!r}: {len(self.text)} characters, {len(self.errors)} errors>"

    @cached_property
    def _lines(self) -> array[int]:
        starts = array("Q", [0])
        pos = self.text.find("\n")
        while pos >= 0:
            starts.append(pos + 1)
            pos = self.text.find("\n", pos + 1)
        return starts

    def place(self, offset: int) -> Place:
        """Return the file, line and column of an offset; both count from 1, columns in characters."""
        line = bisect_right(self._lines, offset)
        column = offset - self._lines[line - 1] + 1
        if line == 1 and self.text.startswith("\ufeff"):
            column = max(1, column - 1)
        return Place(self.name, line, column)

    def line(self, number: int) -> str:
        """Return the line of this number, without its line end."""
        start = self._lines[number - 1]
        end = self._lines[number] - 1 if number < len(self._lines) else len(self.text)
        return self.text[start:end].removesuffix("\r")


def scan_scalar(text: str, pos: int) -> Scalar | None:
    """Return the literal that starts at `pos`, None if there is none or a string is not closed."""
    first = text[pos : pos + 1]
    if first in ('"', "'") and first:
        end = strings_end(text, pos)
        return Scalar(pos, end, KINDS[STRING], text[pos:end]) if end >= 0 else None
    # protobuf allows blanks and comments between a sign and its number.
    inner = skip_blank(text, pos + 1) if first == "-" else pos
    match = SCALAR_PATTERN.match(text, inner)
    if match is None:
        return None
    if first == "-" and match[2] and match[2].lower() not in ("inf", "infinity", "nan"):
        return None
    kind = "number" if first == "-" or match[1] else "identifier"
    return Scalar(pos, match.end(), kind, text[pos : match.end()])


__all__ = ["LIST", "Document", "Field", "Message", "Scalar", "Tape", "scan_scalar"]
