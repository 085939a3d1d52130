"""What a net's classes are called, and which of them the scores of its parts stand for: two comments in its prototxt.

    # class-names: ["zero", "one", "two"]
    # class-numbers: {"odd": [1], "even": [0, 2]}

The first names class 0, 1, ... of the net; an empty name stands for none. The second tells for the blobs of a branch
(`odd/ip2`) which classes of the net their scores are, in their order. The values are JSON; Caffe ignores comments.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from prototxt.errors import PrototxtError
from prototxt.text.tree import Document

_NAMES: Final = "class-names"
_NUMBERS: Final = "class-numbers"
_COMMENT: Final = re.compile(rf"^#[ \t]*({_NAMES}|{_NUMBERS}):[ \t]*(.*?)[ \t\r]*$", re.MULTILINE)


@dataclass(frozen=True)
class ClassNames:
    """The classes of a net.

    names    of class 0, 1, ...; empty: not known
    numbers  per prefix or blob the classes that its scores stand for, in their order
    """

    names: tuple[str, ...] = ()
    numbers: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def numbers_of(self, blob: str) -> tuple[int, ...] | None:
        """Return the classes of a blob's scores: its own entry, or that of the longest prefix of its name."""
        found = [key for key in self.numbers if blob == key or blob.startswith(f"{key}/")]
        return self.numbers[max(found, key=len)] if found else None


def class_names_of(document: Document) -> ClassNames:
    """Read a net's comments. Raises: PrototxtError for a comment whose value is not of its form."""
    found: dict[str, Any] = {}
    for match in _COMMENT.finditer(document.text):
        key, place = match[1], document.place(match.start())
        try:
            value = json.loads(match[2])
        except (ValueError, RecursionError):
            value = None
        if not (_is_names(value) if key == _NAMES else _is_numbers(value)):
            form = 'a list of texts: ["zero", "one"]' if key == _NAMES else 'lists of numbers: {"odd": [1, 3]}'
            raise PrototxtError(f"the comment {key} is not of its form", place=place, hint=f"its value is {form}")
        found[key] = value
    numbers = {key: tuple(value) for key, value in found.get(_NUMBERS, {}).items()}
    return ClassNames(tuple(found.get(_NAMES, ())), numbers)


def class_comments(classes: ClassNames) -> str:
    """Return the comments as text, "" where nothing is known."""
    lines = [f"# {_NAMES}: {json.dumps(list(classes.names), ensure_ascii=False)}"] if classes.names else []
    if classes.numbers:
        numbers = {key: list(value) for key, value in classes.numbers.items()}
        lines.append(f"# {_NUMBERS}: {json.dumps(numbers, ensure_ascii=False)}")
    return "".join(f"{line}\n" for line in lines)


def read_names(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Read a file with a name per line, the first line for class 0; an empty line stands for a class without a name.

    Raises: PrototxtError for a file without names, or that is no text; OSError.
    """
    place = os.fspath(path)
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        what = f"the names of classes are no text in UTF-8: byte {error.start} is {error.object[error.start]:#04x}"
        raise PrototxtError(what, place=place, hint="give a text file with a name per line") from None
    names = [line.strip() for line in re.split(r"\r\n|\n|\r", text.rstrip())]
    if not any(names) or "\0" in text:
        what = "there are no names in this file" if not any(names) else "this is no list of names, but binary"
        raise PrototxtError(what, place=place, hint="give a text file with a name per line, the first for class 0")
    return tuple(names)


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_numbers(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_classes, value.values()))


def _is_classes(value: Any) -> bool:
    return isinstance(value, list) and all(type(number) is int and number >= 0 for number in value)


def name_of(names: Sequence[str], number: int) -> str:
    """Return a class's name, "" where it has none."""
    return names[number] if 0 <= number < len(names) else ""
