"""Edit a text through its tree: collect edits, then apply them together to get a new document.

Inserted text follows its neighbours in indentation, line ends, separators, and one-line or multi-line blocks.
"""

from __future__ import annotations

import re

from prototxt.errors import EditError
from prototxt.text.parser import parse
from prototxt.text.tree import Document, Field, Message, Scalar

_TAIL = re.compile(r"[ \t]*([,;]?)[ \t]*")
_INDENTED = re.compile(r"^([ \t]*)(?![ \t])[^\n{}#]*\{[ \t]*(?:#[^\n]*)?\r?\n\1([ \t]+)[^\s}]", re.MULTILINE)


class Edits:
    """Edits of one document; `apply` makes the new one. All nodes passed must belong to this document.

    edits = Edits(doc)
    edits.set(layer, "name", '"conv1"')
    doc = edits.apply()
    """

    def __init__(self, document: Document) -> None:
        self.document = document
        self._text = document.text
        self._spans: list[tuple[int, int, str]] = []
        self._newline = "\r\n" if "\r\n" in document.text[:10_000] else "\n"
        self._unit: str | None = None
        self._laid: dict[tuple[str, str, bool], str] = {}

    def __len__(self) -> int:
        return len(self._spans)

    def replace(self, node: Scalar | Message | Field, text: str) -> None:
        """Replace the node by `text`."""
        self._spans.append((node.start, node.end, text))

    def insert_text(self, offset: int, text: str) -> None:
        """Insert `text` unchanged at an offset."""
        self._spans.append((offset, offset, text))

    def insert_field(
        self, message: Message, text: str, *, before: Field | None = None, after: Field | None = None
    ) -> None:
        """Insert one or more fields, given as text (`param { lr_mult: 0 }`), next to a field or at the end."""
        if before is not None:
            self._insert_before(before, text)
            return
        fields = message.fields if after is None else ()
        if after is None and not fields:
            self._insert_into_empty(message, text)
            return
        self._insert_after(message, after if after is not None else fields[-1], text)

    def append_field(self, message: Message, text: str) -> None:
        """Insert a field at the end of `message`."""
        self.insert_field(message, text)

    def set(self, message: Message, name: str, literal: str) -> None:
        """Set the field of this name to `literal` (text format), appending it if missing."""
        field = message.get(name)
        if field is None:
            self.append_field(message, f"{name} {literal}" if literal[:1] in ("{", "<") else f"{name}: {literal}")
        elif field.values and self._text[field.values[0].start - 1 : field.values[0].start] != "[":  # not a list
            self._spans.append((field.values[0].start, field.values[-1].end, literal))
        else:
            self._spans.append((self._text.index("[", field.start + len(name)), field.end, literal))

    def remove(self, field: Field) -> None:
        """Remove a field and its separator, and its line if nothing else is on it."""
        text = self._text
        tail = _TAIL.match(text, field.end)
        end = tail.end(1) if tail and tail[1] else field.end
        line = self._line_start(field.start)
        alone_before = text[line : field.start].strip(" \t") == ""
        following = _skip_spaces(text, end)
        if alone_before and (following == len(text) or text.startswith(("\n", "\r\n"), following)):
            stop = text.find("\n", following)
            self._spans.append((line, len(text) if stop < 0 else stop + 1, ""))
        elif alone_before:
            self._spans.append((field.start, following, ""))
        else:
            start = field.start
            # The blank before the field goes too; one is put back if words would run together.
            while text[start - 1] in " \t":
                start -= 1
            glue = " " if text[end : end + 1].isalnum() or text[end : end + 1] in ("_", "[") else ""
            self._spans.append((start, end, glue))

    def apply(self) -> Document:
        """Return the document with all edits applied.

        Raises: EditError if two edits overlap, or the result does not parse.
        """
        if not self._spans:
            return self.document
        parts: list[str] = []
        pos = 0
        for start, end, text in sorted(self._spans, key=lambda span: span[:2]):
            if start < pos:  # overlapping spans are allowed only if all of them are removals
                if text or end - start == 0 or not parts or parts[-1]:
                    raise EditError("two edits overlap", place=self.document.place(start))
                pos = max(pos, end)  # two removals may share the blank between them
                continue
            parts += [self._text[pos:start], text]
            pos = end
        parts.append(self._text[pos:])
        return self._parsed("".join(parts))

    def _parsed(self, text: str) -> Document:
        document = parse(text, self.document.name, tolerant=True)
        if len(document.errors) > len(self.document.errors):
            known = {error.message for error in self.document.errors}
            error = next((error for error in document.errors if error.message not in known), document.errors[0])
            raise EditError(f"the edit would break the text: {error.message}", place=error.place)
        return document

    def _insert_after(self, message: Message, field: Field, text: str) -> None:
        source = self._text
        tail = _TAIL.match(source, field.end)
        separator = tail[1] if tail else ""
        at = tail.end(1) if tail and separator else field.end
        following = _skip_spaces(source, at)
        if source[following : following + 1] not in ("", "\n", "\r", "#") or self._is_one_line(message):
            lead = "" if separator else self._separator_of(message)
            laid = self._laid_out(message, text, None)
            self._spans.append((at, at, f"{lead} {laid}{separator}"))
            return
        end = source.find("\n", following)
        end = len(source) if end < 0 else end - (source[end - 1] == "\r")
        if lead := "" if separator else self._separator_of(message):
            self._spans.append((at, at, lead))
        indent = self._indent_of(message, field)
        laid = self._laid_out(message, text, indent)
        self._spans.append((end, end, f"{self._newline}{indent}{laid}{separator}"))

    def _insert_before(self, field: Field, text: str) -> None:
        line = self._line_start(field.start)
        indent = self._text[line : field.start]
        if indent.strip(" \t"):
            self._spans.append((field.start, field.start, f"{text} "))
        else:
            self._spans.append((field.start, field.start, f"{text}{self._newline}{indent}"))

    def _insert_into_empty(self, message: Message, text: str) -> None:
        source = self._text
        if message.is_root:
            lead = self._newline if source and not source.endswith("\n") else ""
            self._spans.append((len(source), len(source), f"{lead}{text}{self._newline}"))
            return
        close = message.end - 1
        line = source.rfind("\n", message.start, close) + 1
        if line > message.start and not source[line:close].strip(" \t"):
            indent = source[line:close] + self._indent_unit()
            laid = self._laid_out(message, text, indent)
            self._spans.append((line, line, f"{indent}{laid}{self._newline}"))
        elif line > message.start:  # a comment or a broken span shares the last line
            self._spans.append((close, close, f" {text} "))
        else:
            before = "" if source[close - 1] in " \t" and close - 1 > message.start else " "
            self._spans.append((close, close, f"{before}{text} "))

    def _is_one_line(self, message: Message) -> bool:
        return not message.is_root and self._text.find("\n", message.start, message.end) < 0

    def _separator_of(self, message: Message) -> str:
        """Return the separator that this message uses between its fields, "" if none."""
        first = next(iter(message), None)
        tail = _TAIL.match(self._text, first.end) if first else None
        return tail[1] if tail else ""

    def _indent_of(self, message: Message, field: Field) -> str:
        """Return the indentation of the field's line, of a neighbour that starts a line, or one derived from both."""
        text = self._text
        line = self._line_start(field.start)
        if not text[line : field.start].strip(" \t"):
            return text[line : field.start]
        for other in message.fields:
            start = self._line_start(other.start)
            if not text[start : other.start].strip(" \t"):
                return text[start : other.start]
        blank = text[line : _skip_spaces(text, line)]
        return blank if message.is_root or message.start < line else blank + self._indent_unit()

    def _indent_unit(self) -> str:
        """Return the document's indentation unit, taken from its first indented block; two blanks without one."""
        if self._unit is None:
            match = _INDENTED.search(self._text, 0, 20_000)
            self._unit = match[2] if match else "  "
        return self._unit

    def _laid_out(self, message: Message, text: str, indent: str | None) -> str:
        """Return a line per field, blocks spread over lines if the neighbours are; `indent` None: all on one line."""
        if indent is None or "\n" in text:
            return text
        spread = "{" in text and self._spreads_blocks(message)
        key = (text, indent, spread)
        if key not in self._laid:
            parts = [
                self._spread(text, field, indent) if spread else text[field.start : field.end]
                for field in parse(text, "<inserted text>").root
            ]
            self._laid[key] = (self._newline + indent).join(parts)
        return self._laid[key]

    def _spread(self, text: str, field: Field, indent: str) -> str:
        if not field.values or not isinstance(field.values[0], Message) or not field.values[0].fields:
            return text[field.start : field.end]
        inner = indent + self._indent_unit()
        lines = [self._spread(text, part, inner) for part in field.values[0].fields]
        head = text[field.start : field.values[0].start + 1]
        return f"{head}{self._newline}{inner}{(self._newline + inner).join(lines)}{self._newline}{indent}}}"

    def _spreads_blocks(self, message: Message) -> bool:
        blocks = (field for field in message if field.values and isinstance(field.values[0], Message))
        first = next(blocks, None)
        return first is None or self._text.find("\n", first.start, first.end) >= 0

    def _line_start(self, offset: int) -> int:
        start = self._text.rfind("\n", 0, offset) + 1
        return 1 if start == 0 and self._text.startswith("\ufeff") else start


def find(document: Document | Message, path: str) -> list[Field]:
    """Find all fields on a path such as `layer[name=conv1].param[0].lr_mult`.

    A segment is a field name; `[key=value]` selects the blocks that contain this scalar, `[0]` the first match.

    Raises: EditError for an invalid path.
    """
    segment_pattern = re.compile(r"(\w+|\[[\w./]+\])((?:\[[^\]]*\])*)(?:\.|$)", re.ASCII)
    predicate = re.compile(r"\[(?:(\w+)=)?(?:\"([^\"]*)\"|'([^']*)'|([^\]]*))\]")
    messages = [document.root if isinstance(document, Document) else document]
    fields: list[Field] = []
    pos = 0
    while pos < len(path) or not pos:
        segment = segment_pattern.match(path, pos)
        if segment is None:
            raise EditError(f"cannot read the path {path!r} at {path[pos:]!r}", hint="e.g. layer[name=conv1].top")
        fields = [field for message in messages for field in message.all(segment[1])]
        for key, double, single, bare in predicate.findall(segment[2]):
            value_text = double or single or bare
            if key:
                fields = [field for field in fields if any(_has(value, key, value_text) for value in field.values)]
            else:
                index = int(value_text) if value_text.isdigit() else -1
                fields = fields[index : index + 1] if index >= 0 else []
        messages = [value for field in fields for value in field.values if isinstance(value, Message)]
        pos = segment.end()
    return fields


def _has(value: Scalar | Message, key: str, value_text: str) -> bool:
    return isinstance(value, Message) and any(scalar.value == value_text for scalar in value.scalars(key))


def _skip_spaces(text: str, pos: int) -> int:
    while text[pos : pos + 1] in (" ", "\t") and pos < len(text):
        pos += 1
    return pos
