"""Errors that carry the place, what is wrong, and what to do about it.

PlacedError          also the base of what fusion raises
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

from collections.abc import Sequence
from typing import NamedTuple


class Place(NamedTuple):
    """Where something stands in a text file; line and column count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class PlacedError(Exception):
    """Base of all errors that are raised on purpose.

    message  what is wrong, in one sentence
    place    where: a Place, a path, or nothing
    hint     what the reader can do about it
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
        text = f"{self.place}: {self.message}" if self.place is not None else self.message
        return f"{text}\n  hint: {self.hint}" if self.hint else text


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
