"""Exit codes and messages of all commands: 1 and one message for an error of the input, 128 + N after signal N."""

from __future__ import annotations

import argparse
import io
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from prototxt.errors import PlacedError, indent_breaks
from prototxt.files import FULL_DISK


def run_command(command: Callable[[], int | None]) -> int:
    """Run a command and return its exit code.

    0 success, 1 an error in the input (message on stderr), 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP; any
    other exception is a bug and keeps its traceback.
    """
    try:
        with _own_warnings(), _safe_output(), _ended_by_signals(), _lost_signals_again():
            code = command() or 0
            sys.stdout.flush()  # at exit, Python would report a full disk in its own words
            return code
    except KeyboardInterrupt as stop:
        number = stop.args[0] if stop.args else signal.SIGINT
        print(_ENDS[number], file=sys.stderr)
        return 128 + number
    except BrokenPipeError:
        _discard_output()  # its reader has ended (`| head`): no error
        return 1
    except OSError as error:
        return _fail(_message(error))
    except PlacedError as error:
        return _fail(error)


_ENDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", getattr(signal, "SIGHUP", 1): "hung up"}
_came: list[int] = []  # the signals that this process got since the outermost command began


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the block as Ctrl-C does, so that unfinished files are removed.

    An error after a signal is its end, too: a package that is interrupted while Python imports it raises ImportError.
    """

    def end(number: int, frame: object) -> None:
        _came.append(number)
        raise KeyboardInterrupt(number)

    # Python allows handlers in the main thread only; what the caller ignores, as nohup does, stays ignored.
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in _ENDS}
    before = {key: value for key, value in before.items() if value in (signal.SIG_DFL, signal.default_int_handler)}
    for number in before:
        signal.signal(number, end)
    try:
        yield
    except Exception as error:
        if _came:
            raise KeyboardInterrupt(_came[0]) from error
        raise
    finally:
        if before:  # not within another command
            _came.clear()
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _lost_signals_again() -> Iterator[None]:
    """Send a signal again whose exception was lost, as those raised in finalizers and callbacks of C libraries are."""
    before, waiting = sys.unraisablehook, list[threading.Timer]()

    def again(lost: Any) -> None:
        if issubclass(lost.exc_type, KeyboardInterrupt):
            number = lost.exc_value.args[0] if lost.exc_value and lost.exc_value.args else signal.SIGINT
            # a little later: here it would be lost again
            waiting.append(threading.Timer(0.01, os.kill, (os.getpid(), number)))
            waiting[-1].start()
        else:
            before(lost)

    sys.unraisablehook = again
    try:
        yield
    finally:
        for timer in waiting:
            timer.cancel()
        sys.unraisablehook = before


def _message(error: OSError) -> object:
    """Return the error with its place; files that are written are named, so an unnamed full disk is that of stdout."""
    place = error.filename
    if not place and error.errno in FULL_DISK:
        _discard_output()
        place = "standard output"
    return indent_breaks(f"{os.fsdecode(place)}: {error.strerror}") if place and error.strerror else error


def _discard_output() -> None:
    """Let Python flush stdout at exit where it cannot be written."""
    with suppress(OSError):  # it has no descriptor where a job collects it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: object) -> int:
    with _safe_output():
        print(f"error: {message}", file=sys.stderr)
    return 1


class _Terminal:
    """A terminal that shows the control characters in names of layers and files, which could change what it shows.

    bare  the terminal itself, for a bar that draws with control characters and escapes those in names by itself
    """

    def __init__(self, stream: Any) -> None:
        self.bare = stream

    def write(self, text: str) -> int:
        """Write with escapes; a carriage return stays, since simple progress bars need it."""
        self.bare.write(self.escape(text))
        return len(text)

    @staticmethod
    def escape(text: str) -> str:
        """Return the text with control characters as escapes."""
        return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.bare, name)


# C0 but for tab, line feed and carriage return; DEL and C1; bidirectional overrides; halves of surrogate pairs.
_CONTROL = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@contextmanager
def _safe_output() -> Iterator[None]:
    """Make terminals show control characters, and let names that are not UTF-8 pass into pipes and files."""
    before = sys.stdout, sys.stderr
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="surrogateescape")
    sys.stdout, sys.stderr = (
        _Terminal(stream) if stream.isatty() and not isinstance(stream, _Terminal) else stream for stream in before
    )
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


@contextmanager
def _own_warnings() -> Iterator[None]:
    """Print each of our own warnings once, without the line of code that Python shows with a warning."""
    printed: set[str] = set()
    with warnings.catch_warnings():
        before = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *rest: Any, **options: Any) -> None:
            if category.__module__.startswith(("prototxt.", "fusion.")):
                if str(message) not in printed:
                    print(f"warning: {indent_breaks(str(message))}", file=sys.stderr)
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
