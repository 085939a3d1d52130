"""How every command ends: our errors as one message and exit code 1, Ctrl-C as 130."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from prototxt.errors import PlacedError


def run(command: Callable[[], int | None]) -> int:
    """Run a command's work and turn its outcome into an exit code.

    0 success, 1 an error that is the input's (message on stderr), 130 interrupted; anything else is a defect of ours
    and keeps its traceback.
    """
    try:
        with _own_warnings():
            return command() or 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output has gone (`| head`): not an error, but stdout can no longer be flushed at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        named = f"{os.fsdecode(error.filename)}: {error.strerror}" if error.filename and error.strerror else error
        print(f"error: {named}", file=sys.stderr)
        return 1
    except PlacedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


@contextmanager
def _own_warnings() -> Iterator[None]:
    """Our own warnings as one message each, said once, without the line of code that Python shows with a warning."""
    said: set[str] = set()
    with warnings.catch_warnings():
        before = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *rest: Any, **named: Any) -> None:
            if category.__module__.startswith(("prototxt.", "fusion.")):
                if str(message) not in said:
                    print(f"warning: {message}", file=sys.stderr)
                said.add(str(message))
            else:
                before(message, category, *rest, **named)

        warnings.showwarning = show
        yield


def allow_python(parser: argparse.ArgumentParser) -> None:
    """Add the switch that lets Python layers of a net run their code."""
    parser.add_argument("--allow-python", action=_AllowPython, nargs=0, help="let Python layers run their code "
        "(or set FUSION_ALLOW_PYTHON=1)")  # fmt: skip


class _AllowPython(argparse.Action):
    """Says so in the environment, where worker processes find it too."""

    def __call__(self, *args: Any) -> None:
        os.environ["FUSION_ALLOW_PYTHON"] = "1"
