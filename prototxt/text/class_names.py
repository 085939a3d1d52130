"""The class names of a net, and the classes that each branch scores, kept in two comments of its prototxt.

    # class-names: ["zero", "one", "two"]
    # class-numbers: {"odd": [1], "even": [0, 2]}

The first lists the names of classes 0, 1, ...; an empty name means that the class has none. The second maps a branch
(`odd`) or blob (`odd/ip2`) to the net's classes that its scores belong to, in order. The values are JSON; Caffe
ignores comments.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from prototxt.errors import PrototxtError, did_you_mean
from prototxt.files import write_text
from prototxt.text.tree import Document

_NAMES: Final = "class-names"
_NUMBERS: Final = "class-numbers"
_COMMENT: Final = re.compile(rf"^#[ \t]*({_NAMES}|{_NUMBERS}):(.*)$", re.MULTILINE)


@dataclass(frozen=True)
class ClassNames:
    """The classes of a net.

    names    names of classes 0, 1, ...; empty if unknown
    numbers  by prefix or blob: the class numbers of its scores, in order
    """

    names: tuple[str, ...] = ()
    numbers: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def numbers_of(self, blob: str) -> tuple[int, ...] | None:
        """Return the class numbers of a blob's scores: its own entry, or that of the longest prefix of its name."""
        found = [key for key in self.numbers if blob == key or blob.startswith(f"{key}/")]
        return self.numbers[max(found, key=len)] if found else None


def class_names_of(document: Document) -> ClassNames:
    """Read the class comments of a net. Raises: PrototxtError for a comment with a malformed value."""
    found: dict[str, Any] = {}
    for match in _COMMENT.finditer(document.text):
        key, place = match[1], document.place(match.start())
        try:
            value = json.loads(match[2])  # JSON allows blanks around a value
        except (ValueError, RecursionError):
            value = None
        if not _is_valid(key, value):
            form = 'a list of strings: ["zero", "one"]' if key == _NAMES else 'lists of numbers: {"odd": [1, 3]}'
            raise PrototxtError(f"the comment {key} is malformed", place=place, hint=f"its value must be {form}")
        found[key] = value
    numbers = {key: tuple(value) for key, value in found.get(_NUMBERS, {}).items()}
    return ClassNames(tuple(found.get(_NAMES, ())), numbers)


def class_comments(classes: ClassNames) -> str:
    """Return the class comments as text, "" if nothing is known."""
    lines = [f"# {_NAMES}: {json.dumps(list(classes.names), ensure_ascii=False)}"] if classes.names else []
    if classes.numbers:
        numbers = {key: list(value) for key, value in classes.numbers.items()}
        lines.append(f"# {_NUMBERS}: {json.dumps(numbers, ensure_ascii=False)}")
    return "".join(f"{line}\n" for line in lines)


def parse_classes(text: str, names: Sequence[str], option: str) -> tuple[int, ...]:
    """Parse class numbers, ranges and names, such as `1,3,7-9` or `cat,dog`; a text that is a name is that class.

    option  where the text was given, for errors
    Raises: PrototxtError for a text that is none of these.
    """
    numbers: list[int] = []
    for part in (part.strip() for part in text.split(",")):
        span = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if part and part in names:
            numbers.append(names.index(part))
        elif span:
            numbers += range(int(span[1]), int(span[2] or span[1]) + 1)
        else:
            hint = "give numbers and ranges, such as 1,3,5 or 0-4,9"
            if known := [name for name in names if name]:
                hint = did_you_mean(part, known, f"{hint}, or names: {', '.join(known)[:300]}")
            raise PrototxtError(f"{option} {text}: '{part}' is no class", hint=hint)
    return tuple(numbers)


def replace_class_comments(text: str, classes: ClassNames) -> str:
    """Return a net's text with these class comments instead of its own; new ones come first."""
    return class_comments(classes) + re.sub(rf"{_COMMENT.pattern}\n?", "", text, flags=re.MULTILINE)


def read_names(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Read class names from a file with one name per line, class 0 first; an empty line is a class without a name.

    Raises: PrototxtError for a file that is not text or has no names; OSError.
    """
    place = os.fspath(path)
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"the class names are not UTF-8 text: byte {error.start} is {error.object[error.start]:#04x}"
        raise PrototxtError(message, place=place, hint="give a text file with one name per line") from None
    names = [line.strip() for line in re.split(r"\r\n|\n|\r", text.rstrip())]
    if not any(names) or "\0" in text:
        message = "there are no names in this file" if not any(names) else "this is a binary file, not a list of names"
        raise PrototxtError(message, place=place, hint="give a text file with one name per line, class 0 first")
    return tuple(names)


def write_names(path: str | os.PathLike[str], names: Sequence[str]) -> None:
    """Write class names as `read_names` reads them. Raises: PrototxtError for a name that is not one line; OSError."""
    broken = next((name for name in names if name != name.strip() or re.search(r"[\r\n]", name)), None)
    if broken is not None:
        message = f"the name {broken!r} begins or ends in a blank, or has a line break"
        raise PrototxtError(message, place=os.fspath(path), hint="rename the class")
    write_text(path, "".join(f"{name}\n" for name in names))


def _is_valid(key: str, value: Any) -> bool:
    if key == _NUMBERS:
        return isinstance(value, dict) and all(
            isinstance(numbers, list) and all(type(number) is int and number >= 0 for number in numbers)
            for numbers in value.values()
        )
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def name_of(names: Sequence[str], number: int) -> str:
    """Return the name of a class, "" if it has none."""
    return names[number] if 0 <= number < len(names) else ""
