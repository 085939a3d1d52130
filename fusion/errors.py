"""The errors of this package: each carries the place, what is wrong, and what to do about it.

FusionError
├── BuildError       a net cannot be built from its description
├── WeightsMismatch  trained weights do not fit the net they are given to
├── ComposeError     the sources cannot be composed as asked
├── MergeError       the fused net's weights cannot be taken from the sources as asked
├── DataError        a list, an image or a database cannot be read
├── TrainingError    a solver setting is refused, or training cannot go on
├── OnnxError        an ONNX file cannot be read, cut or run as a layer
├── ExportError      a net cannot be exported, or what was exported is not the net
└── ReportError      predictions cannot be compared, or a report cannot be made
"""

from __future__ import annotations

from collections.abc import Sequence

from prototxt.errors import Place


class FusionError(Exception):
    """Base of all errors that this package raises on purpose.

    message  what is wrong, in one sentence
    place    where: a prototxt.Place, a path, or nothing
    hint     what the reader can do about it
    """

    def __init__(self, message: str, *, place: Place | str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.place = place
        self.hint = hint
        self.errors: tuple[FusionError, ...] = (self,)

    def __str__(self) -> str:
        if len(self.errors) > 1:
            return "\n".join(str(error) for error in self.errors)
        text = f"{self.place}: {self.message}" if self.place is not None else self.message
        return f"{text}\n  hint: {self.hint}" if self.hint else text


class BuildError(FusionError):
    """A net cannot be built from its description."""


class WeightsMismatch(FusionError):  # noqa: N818 - the name says what happened, as the standard library's Warning family does
    """Trained weights do not fit the net they are given to."""


class ComposeError(FusionError):
    """The sources cannot be composed as asked."""


class MergeError(FusionError):
    """The fused net's weights cannot be taken from the sources as asked."""


class DataError(FusionError):
    """A list, an image or a database cannot be read."""


class TrainingError(FusionError):
    """A solver setting is refused, or training cannot go on."""


class OnnxError(FusionError):
    """An ONNX file cannot be read, cut or run as a layer."""


class ExportError(FusionError):
    """A net cannot be exported, or what was exported is not the net."""


class ReportError(FusionError):
    """Predictions cannot be compared, or a report cannot be made."""


def raise_all(errors: Sequence[FusionError]) -> None:
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
