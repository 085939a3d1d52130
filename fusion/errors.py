"""The errors of this package: each has the place, the error and the remedy.

FusionError
├── BuildError       a net cannot be built from its description
├── WeightsMismatch  trained weights do not fit the net they are given to
├── ComposeError     the sources cannot be composed as requested
├── MergeError       the fused net's weights cannot be taken from the sources as requested
├── DataError        a list, an image or a database cannot be read
├── TrainingError    a solver setting is refused, or training cannot continue
├── OnnxError        an ONNX file cannot be read, cut or run as a layer
├── ExportError      a net cannot be exported, or the exported file computes something else
└── ReportError      predictions cannot be compared, or a report cannot be made
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from prototxt.errors import PlacedError, raise_all

__all__ = [
    "BuildError",
    "ComposeError",
    "ComposeWarning",
    "DataError",
    "DeadShares",
    "ExportError",
    "FusionError",
    "MergeError",
    "OnnxError",
    "ReportError",
    "TrainingError",
    "WeightsMismatch",
    "raise_all",
    "raise_first",
    "translate_errors",
]


SHOWN = 20  # errors of one kind that are listed


class FusionError(PlacedError):
    """Base of the errors of this package."""


class BuildError(FusionError):
    """A net cannot be built from its description."""


class LayerCodeError(BuildError):
    """The code of a user's Python layer raises an error, which is the cause of this one."""


class UnknownSizeError(BuildError):
    """The size of a blob is not known, maybe because of another error."""


class WeightsMismatch(FusionError):  # noqa: N818 - the public name
    """Trained weights do not fit the net they are given to."""


class ComposeError(FusionError):
    """The sources cannot be composed as requested."""


class IgnoredSetting(UserWarning):
    """A setting that changes no number was ignored: a directory for results, for instance."""


class DeadShares(UserWarning):
    """All v of a fastnorm sum are 0 or less: its top is 0, and no gradient will ever change that."""


class ComposeWarning(UserWarning):
    """A fusion that composes, but will hardly be as intended."""


class MergeError(FusionError):
    """The fused net's weights cannot be taken from the sources as requested."""


class DataError(FusionError):
    """A list, an image or a database cannot be read."""


class TrainingError(FusionError):
    """A solver setting is refused, or training cannot continue."""


class OnnxError(FusionError):
    """An ONNX file cannot be read, cut or run as a layer."""


class ExportError(FusionError):
    """A net cannot be exported, or the exported file computes something else."""


class ReportError(FusionError):
    """Predictions cannot be compared, or a report cannot be made."""


def raise_first(errors: Sequence[FusionError], others: str) -> None:
    """Raise the first errors as one, with the number of `others` ("more lines like these"); with none, return."""
    hidden = len(errors) - SHOWN
    raise_all([*errors[:SHOWN], *([type(errors[0])(f"{hidden} {others}")] if hidden > 0 else [])])


@contextmanager
def translate_errors(kind: type[FusionError], message: str, place: str, hint: str | None = None) -> Iterator[None]:
    """Turn any error that a library raises for a file into an error of `kind` with its place.

    Damaged files raise a dozen types (of tokenize, zlib, csv ...), so all are translated; our own errors and OSError,
    which have their places, pass.
    """
    try:
        yield
    except (PlacedError, OSError):
        raise
    except Exception as error:
        reasons = {RecursionError: "nested too deeply", MemoryError: "it needs more memory than there is"}
        reason = reasons.get(type(error)) or str(error) or type(error).__name__
        raise kind(f"{message}: {reason}", place=place, hint=hint) from None
