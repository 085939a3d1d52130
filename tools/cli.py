"""Exit codes and messages of all commands: an error of the input is one message and code 1, Ctrl-C is 130."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from prototxt.errors import PlacedError


def run_command(command: Callable[[], int | None]) -> int:
    """Run a command and return its exit code.

    0 success, 1 an error in the input (message on stderr), 130 interrupted; any other exception is a bug and keeps its
    traceback.
    """
    try:
        with _own_warnings():
            return command() or 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output has ended (`| head`): no error, but Python would fail to flush stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        message = f"{os.fsdecode(error.filename)}: {error.strerror}" if error.filename and error.strerror else error
        print(f"error: {message}", file=sys.stderr)
        return 1
    except PlacedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


@contextmanager
def _own_warnings() -> Iterator[None]:
    """Print each of our own warnings once, without the line of code that Python shows with a warning."""
    printed: set[str] = set()
    with warnings.catch_warnings():
        before = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *rest: Any, **options: Any) -> None:
            if category.__module__.startswith(("prototxt.", "fusion.")):
                if str(message) not in printed:
                    print(f"warning: {message}", file=sys.stderr)
                printed.add(str(message))
            else:
                before(message, category, *rest, **options)

        warnings.showwarning = show
        yield


def allow_python(parser: argparse.ArgumentParser) -> None:
    """Add the switch that lets Python layers of a net run their code."""
    parser.add_argument("--allow-python", action=_AllowPython, nargs=0, help="let Python layers run their code "
        "(or set FUSION_ALLOW_PYTHON=1)")  # fmt: skip


class _AllowPython(argparse.Action):
    """Sets the environment variable, which worker processes inherit."""

    def __call__(self, *args: Any) -> None:
        os.environ["FUSION_ALLOW_PYTHON"] = "1"
