"""Errors as pycaffe's: a RuntimeError for all that Caffe refuses, and a user's own error as it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fusion.errors import FusionError, LayerCodeError
from prototxt.errors import PlacedError


class CaffeError(FusionError, RuntimeError):
    """A net, a solver, weights or data that Caffe would refuse; Caffe raises RuntimeError, or ends the process."""


@contextmanager
def caffe_errors() -> Iterator[None]:
    """Raise the errors of this package as CaffeError, and those of a Python layer's code as they are."""
    try:
        yield
    except CaffeError:
        raise
    except PlacedError as error:
        own = _own_error(error)
        if own is not None:
            raise own from None  # its traceback shows the line of the user's class
        raised = CaffeError(error.message, place=error.place, hint=error.hint)
        raised.errors = error.errors if len(error.errors) > 1 else (raised,)
        raise raised from error
    except FileNotFoundError as error:
        text = f"could not open file {error.filename}"
        raise CaffeError(text, hint="paths are relative to the working directory") from error


def _own_error(error: BaseException | None) -> BaseException | None:
    """Return the error of a Python layer's code that this one reports, or None."""
    while error is not None and not isinstance(error, LayerCodeError):
        error = error.__cause__
    return None if error is None else error.__cause__
