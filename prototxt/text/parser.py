"""Parse text to a tree: one regular expression per field, one flat loop, no recursion."""

from __future__ import annotations

import gc
import os

from prototxt.errors import ParseError, raise_all
from prototxt.sniff.text_encoding import read_source
from prototxt.text.tokens import (
    BROKEN,
    ELEMENT,
    EXTENSION_NAME,
    FIELD,
    IDENTIFIER,
    LIST,
    MESSAGE,
    NAME,
    NUMBER,
    STRING,
    skip_blank,
)
from prototxt.text.tree import Document, Message, Tape, scan_scalar

MAX_DEPTH = 100
MAX_ERRORS = 100
_CLOSING = {"{": "}", "<": ">", "[": "]"}
_KIND = {"string": STRING, "number": NUMBER, "identifier": IDENTIFIER}


def parse(text: str, name: str = "<text>", *, tolerant: bool = False) -> Document:
    """Parse protobuf text format, keeping every byte.

    tolerant  keep unreadable spans unchanged and list the reasons in the document's `errors`

    Raises: ParseError with the place of every mistake (at most 100), unless tolerant.
    """
    if len(text) >= 2**32 - 1:
        raise ParseError("a text of 4 GiB or more cannot be read", place=name)
    parser = _Parser(text)
    collecting = gc.isenabled()
    gc.disable()  # nothing created here is cyclic, and the collector's passes take half the time
    try:
        parser.read()
    finally:
        if collecting:
            gc.enable()
    document = Document(text, name, Message(parser.tape, -1))
    if parser.mistakes:
        errors = tuple(_error(document, *mistake) for mistake in parser.mistakes)
        if not tolerant:
            raise_all(errors)
        document.errors = errors
        document.broken = tuple(parser.broken)
    return document


def parse_file(path: str | os.PathLike[str], *, tolerant: bool = False) -> Document:
    """Parse a file, see `parse`. Raises: ParseError, also for a file that is not text; OSError.

    Warns: RecodedWarning for UTF-16
    """
    return parse(read_source(path), os.fspath(path), tolerant=tolerant)


class _Parser:
    """The state of one pass over a text: the records so far, the open brackets, the mistakes."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tape = Tape(text)
        self.open: list[int] = []  # records of the messages and lists not closed yet
        self.mistakes: list[tuple[int, str, str | None]] = []
        self.broken: list[tuple[int, int]] = []  # spans that no node covers; empty for an unmatched bracket
        self.cut = False  # whether reading stopped before the end
        self.value_end = -1  # end of the last field, which one separator may follow
        self.barrier = 0  # end of the last separator or opening bracket

    def read(self) -> None:
        """Read the whole text to the tape."""
        # Attributes are bound to locals: the loop runs once per field, of which large nets have a million.
        text, tape, match_field = self.text, self.tape, FIELD.match
        ids = tape.ids
        add_name, add_start, add_value = tape.name.append, tape.start.append, tape.value.append
        add_end, add_next, add_kind = tape.end.append, tape.next.append, tape.kind.append
        pos = 1 if text.startswith("\ufeff") else 0
        count = 0
        while True:
            match = match_field(text, pos)
            if match is None:
                pos = self._unusual(pos)
                if pos < 0:
                    break
                count = len(tape.next)
                continue
            group = match.lastindex
            pos = match.end()
            # Groups of FIELD: 2 to 4 a scalar, 5 or 6 an opening bracket, 7 a closing one, 8 a comment, 9 a separator.
            if group < 7:  # type: ignore[operator]
                word = match[1]
                identifier = ids.get(word)
                add_name(self._name(word) if identifier is None else identifier)
                add_start(match.start(1))
                add_value(match.start(group))  # type: ignore[arg-type]
                add_end(pos)
                count += 1
                add_next(count)
                add_kind(group - 2 if group < 6 else MESSAGE)  # type: ignore[operator]
                if group >= 5:  # type: ignore[operator]
                    if len(self.open) >= MAX_DEPTH:
                        self._too_deep(pos - 1)
                        break
                    self.open.append(count - 1)
                    self.barrier = pos
                else:
                    self.value_end = pos
            elif group == 7:
                pos = self._close(pos - 1)
                count = len(tape.next)
            elif group == 9:
                self._separator(pos - 1)
        self._finish()

    def _name(self, word: str) -> int:
        names = self.tape.names
        self.tape.ids[word] = len(names)
        names.append(word)
        return len(names) - 1

    def _add(self, word: str, start: int, value: int, end: int, kind: int) -> int:
        """Add a record and return its index."""
        tape = self.tape
        identifier = tape.ids.get(word)
        tape.name.append(self._name(word) if identifier is None else identifier)
        tape.start.append(start)
        tape.value.append(value)
        tape.end.append(end)
        tape.next.append(len(tape.next) + 1)
        tape.kind.append(kind)
        return len(tape.kind) - 1

    def _mistake(self, pos: int, message: str, hint: str | None = None) -> None:
        if len(self.mistakes) < MAX_ERRORS:
            self.mistakes.append((pos, message, hint))

    def _too_deep(self, pos: int) -> None:
        self._mistake(pos, f"brackets are nested more than {MAX_DEPTH} deep")
        self.broken.append((pos, len(self.text)))
        self.cut = True

    def _separator(self, pos: int) -> None:
        if self.value_end < self.barrier or self.value_end < 0:
            self._mistake(pos, f"{self.text[pos]!r} without a field before it", "remove it")
        self.barrier = pos + 1

    def _close(self, pos: int) -> int:
        """Close the innermost bracket with the one at `pos` and return the position to continue from."""
        text, tape = self.text, self.tape
        self.value_end = pos + 1
        if not self.open:
            if len(self.broken) < MAX_ERRORS:
                self.broken.append((pos, pos + 1))
            self._mistake(pos, f"{text[pos]!r} closes nothing", "remove it, or add the opening bracket that is missing")
            return pos + 1
        record = self.open.pop()
        opening = text[tape.value[record]]
        if text[pos] != _CLOSING[opening]:
            self._mistake(pos, f"expected {_CLOSING[opening]!r} to close {opening!r}, found {text[pos]!r}")
        tape.end[record] = pos + 1
        tape.next[record] = len(tape.next)
        if self.open and tape.kind[self.open[-1]] == LIST:
            return self._after_element(pos + 1)
        return pos + 1

    def _unusual(self, pos: int) -> int:
        """Read one field at `pos` that FIELD does not match; return the next position, -1 at the end of the text."""
        text = self.text
        pos = skip_blank(text, pos)
        if pos >= len(text):
            return -1
        name = NAME.match(text, pos) or EXTENSION_NAME.match(text, pos)
        if name is None:
            return self._broken(pos, pos, f"expected a field name, found {_shown(text, pos)}")
        word = name[0] if name[0][0] != "[" else "[" + name[0][1:-1].strip() + "]"
        at = skip_blank(text, name.end())
        colon = text[at : at + 1] == ":"
        if colon:
            at = skip_blank(text, at + 1)
        first = text[at : at + 1]
        if first in ("{", "<") and first:
            return self._open(self._add(word, pos, at, at + 1, MESSAGE))
        if first == "[":
            return self._open_list(self._add(word, pos, at, at + 1, LIST), colon)
        if not colon:
            return self._broken(pos, at, f"expected ':' or '{{' after {word!r}, found {_shown(text, at)}")
        scalar = scan_scalar(text, at)
        if scalar is None:
            return self._bad_value(word, pos, at)
        self._add(word, pos, at, scalar.end, _KIND[scalar.kind])
        self.value_end = scalar.end
        return scalar.end

    def _bad_value(self, word: str, start: int, at: int) -> int:
        text = self.text
        if text[at : at + 1] in ('"', "'") and at < len(text):
            return self._broken(
                start, at, f"the string of {word!r} is not closed on its line", f"add a {text[at]} at its end"
            )
        return self._broken(start, at, f"expected a value for {word!r}, found {_shown(text, at)}")

    def _open(self, record: int) -> int:
        pos = self.tape.value[record] + 1
        if len(self.open) >= MAX_DEPTH:
            self._too_deep(pos - 1)
            return -1
        self.open.append(record)
        self.barrier = pos
        return pos

    def _open_list(self, record: int, colon: bool) -> int:
        """Read a list up to its end, or to its first message, whose fields the main loop reads."""
        pos = self._open(record)
        if pos < 0:
            return pos
        inner = skip_blank(self.text, pos)
        if not colon and self.text[inner : inner + 1] not in ("{", "<"):
            self._mistake(pos - 1, f"expected ':' before the list of {self.tape.names[self.tape.name[record]]!r}")
        if self.text[inner : inner + 1] == "]":
            return self._close(inner)
        return self._element(inner)

    def _element(self, pos: int) -> int:
        """Read elements of the innermost list, starting at `pos`."""
        text, tape, record = self.text, self.tape, self.open[-1]
        while True:
            while record + 1 == len(tape.next) and (match := ELEMENT.match(text, pos)):
                pos = match.end()
                if text[pos - 1] == "]":
                    return self._close(pos - 1)
            pos = skip_blank(text, pos)
            if text[pos : pos + 1] in ("{", "<") and pos < len(text):
                if record + 1 == len(tape.next) and skip_blank(text, tape.value[record] + 1) != pos:
                    self._mistake(pos, "a list holds either messages or plain values, not both")
                return self._open(self._add(tape.names[tape.name[record]], pos, pos, pos + 1, MESSAGE))
            scalar = scan_scalar(text, pos)
            if scalar is None:
                return self._broken_list(pos, f"expected a value in the list, found {_shown(text, pos)}")
            if record + 1 < len(tape.next):
                self._mistake(pos, "a list holds either messages or plain values, not both")
            pos = skip_blank(text, scalar.end)
            if text[pos : pos + 1] != ",":
                return self._end_of_list(pos)
            pos += 1

    def _after_element(self, pos: int) -> int:
        pos = skip_blank(self.text, pos)
        return self._element(pos + 1) if self.text[pos : pos + 1] == "," else self._end_of_list(pos)

    def _end_of_list(self, pos: int) -> int:
        if self.text[pos : pos + 1] == "]":
            return self._close(pos)
        return self._broken_list(pos, f"expected ',' or ']' in the list, found {_shown(self.text, pos)}")

    def _broken_list(self, pos: int, message: str) -> int:
        record = self.open.pop()
        self.tape.end[record] = pos
        self.tape.next[record] = len(self.tape.next)
        return self._broken(self.tape.start[record], pos, message)

    def _broken(self, start: int, pos: int, message: str, hint: str | None = None) -> int:
        """Record a mistake at `pos` in the field that began at `start`, and skip the rest of the line.

        A bracket that belongs to the structure ends the broken span, so that the enclosing blocks stay balanced.
        """
        text = self.text
        self._mistake(pos, message, hint)
        opened = -1
        if text[pos : pos + 1] in ('"', "'") and pos < len(text):
            newline = text.find("\n", pos)  # an unclosed string: later brackets on the line are part of it
            pos = len(text) if newline < 0 else newline
        else:
            pos, opened = _end_of_broken(text, pos)
        if len(self.broken) < MAX_ERRORS:
            self.broken.append((start, pos if opened < 0 else opened))
        if opened >= 0:
            return self._open(self._add("", opened, opened, opened + 1, MESSAGE))
        self.value_end = pos
        return pos

    def _finish(self) -> None:
        tape = self.tape
        for record in reversed(self.open):
            tape.end[record] = len(self.text)
            tape.next[record] = len(tape.next)
        if self.open and not self.cut:
            at = tape.value[self.open[-1]]
            opening = self.text[at]
            self._mistake(at, f"{opening!r} is never closed", f"add the missing {_CLOSING[opening]!r}")
            self.broken.append((at, at))


def _end_of_broken(text: str, pos: int) -> tuple[int, int]:
    """Return the end of a broken span, and the offset of a block opened in it that its line does not close, or -1."""
    opened = -1
    while True:
        match = BROKEN.match(text, pos)
        pos = match.end() if match else pos
        mark = text[pos : pos + 1]
        if mark not in ("{", "}") or (mark == "}" and opened < 0) or (mark == "{" and opened >= 0):
            return pos, opened
        # A block opened and closed on the line is part of the span; one left open is read as a block.
        opened = pos if mark == "{" else -1
        pos += 1


def _shown(text: str, pos: int) -> str:
    if pos >= len(text):
        return "the end of the text"
    if text[pos] == "\n":
        return "the end of the line"
    return repr(text[pos : pos + 1])


def _error(document: Document, pos: int, message: str, hint: str | None) -> ParseError:
    """Return the error with its source line and a caret below it; a very long line is cut around the place."""
    place = document.place(pos)
    line = document.line(place.line)
    column = min(pos - document.text.rfind("\n", 0, pos) - 1, len(line))
    first = max(0, column - 60)
    shown = line[first : column + 40].replace("\t", " ")
    message = f"{message}\n    {shown}\n    {' ' * (column - first)}^"
    return ParseError(message, place=place, hint=hint)
