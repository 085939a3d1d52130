"""Errors with a place, a message and a remedy.

PlacedError          also the base of fusion's errors
PrototxtError
├── ParseError      the text is not in protobuf's text format
├── EditError       an edit cannot be made on this text
├── DecodeError     the text does not fit Caffe's schema
├── UpgradeError    an old form of the file has no modern equivalent
├── ShapeError      a blob or parameter cannot have the shape that the net asks for
├── RenameError     a rename or a freeze would damage the net
└── WeightsError    a binary file is broken or holds something else
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Place(NamedTuple):
    """A place in a text file; line and column count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class PlacedError(Exception):
    """Base of all errors that are raised on purpose.

    message  the error, in one sentence
    place    a Place, a path, or None
    hint     the remedy
    """

    def __init__(self, message: str, *, place: Place | str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.place = place
        self.hint = hint
        self.errors: tuple[PlacedError, ...] = (self,)

    def __str__(self) -> str:
        if len(self.errors) > 1:
            return "\n".join(str(error) for error in self.errors)
        text = indent_breaks(f"{self.place}: {self.message}" if self.place is not None else self.message)
        return f"{text}\n  hint: {indent_breaks(self.hint)}" if self.hint else text


class PrototxtError(PlacedError):
    """Base of the errors of this package."""


class ParseError(PrototxtError):
    """The text is not in protobuf's text format."""


class EditError(PrototxtError):
    """An edit cannot be made on this text."""


class DecodeError(PrototxtError):
    """The text does not fit Caffe's schema."""


class UpgradeError(PrototxtError):
    """An old form of the file has no modern equivalent."""


class ShapeError(PrototxtError):
    """A blob or a parameter cannot have the shape that the net asks for."""


class RenameError(PrototxtError):
    """A rename or a freeze would damage the net."""


class WeightsError(PrototxtError):
    """A binary file is broken, or holds something else."""


def indent_breaks(text: str) -> str:
    """Return a message whose lines after the first are indented, with other carriage returns as escapes.

    A name with a line break could otherwise look like a message of its own, or overwrite one on a terminal.
    """
    return re.sub(r"\r?\n(?!  )", "\n    ", text).replace("\r", "\\r")


def raise_all(errors: Sequence[PlacedError]) -> None:
    """Raise the collected errors as one; with none, return.

    Raises: the single error itself, or an error of the first one's class whose text lists all and whose `errors`
    holds them.
    """
    if not errors:
        return
    if len(errors) == 1:
        raise errors[0]
    combined = type(errors[0])(errors[0].message, place=errors[0].place, hint=errors[0].hint)
    combined.errors = tuple(part for error in errors for part in error.errors)
    raise combined


def closest(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """Return the known name that a misspelt one most probably stands for, or None.

    Case and underscores do not count; names at least `cutoff` alike (difflib's ratio) come next, and then the only
    known name that has `name` as one of its words (`max` for `pool_max`). With `cutoff` 1, only case and underscores
    may differ.
    """
    import difflib  # on use: most runs meet no misspelling, and commands must start quickly

    candidates = list(known)
    folded = {_fold(candidate): candidate for candidate in reversed(candidates)}
    if _fold(name) in folded:
        return folded[_fold(name)]
    similar = difflib.get_close_matches(name, candidates, n=1, cutoff=cutoff)
    if not similar and cutoff < 1:
        similar = [candidate for candidate in candidates if name.lower() in candidate.lower().split("_")]
    return similar[0] if len(similar) == 1 else None


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "", *, also: str = "", cutoff: float = 0.6) -> str:
    """Return the hint for an unknown name: "did you mean 'conv1'?", or `otherwise` if no known name is similar.

    also    advice that is appended in both cases
    cutoff  similarity from 0 to 1 that a known name must have
    """
    similar = closest(name, known, cutoff=cutoff)
    hint = f"did you mean {similar!r}?" if similar else otherwise
    return f"{hint} {also}".strip()


def _fold(name: str) -> str:
    return name.replace("_", "").lower()
