"""What every command does with its streams, signals and exit codes; names send no control sequences to a terminal."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from caffe_fusion_tools import cli

from prototxt.errors import PlacedError

NET = 'layer { name: "%s" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 } } }\n'


BAR = """import sys
from caffe_fusion_tools.cli import run_command
from fusion.solver.logging.console import for_stream

def draw():
    bar = for_stream()
    bar.progress("decoding a\\x1b[2J", 1, 2)
    bar.say("b\\x1b[2J")
    bar.close()

sys.exit(run_command(lambda: run_command(draw)))
"""


def show(path: Path, **streams: int) -> subprocess.CompletedProcess[bytes]:
    code = "import sys; from caffe_fusion_tools.show import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.run([sys.executable, "-c", code, str(path)], check=False, timeout=100, **streams)


def run_bar(path: Path, **streams: int) -> None:
    subprocess.run([sys.executable, "-c", BAR], check=True, timeout=100, **streams)


def in_terminal(path: Path, run: Callable[..., object] = show) -> bytes:
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    run(path, stdout=theirs, stderr=theirs)
    os.close(theirs)
    found = b""
    try:
        while part := os.read(ours, 1 << 16):
            found += part
    except OSError:  # how Linux reports the end of a terminal's output
        pass
    os.close(ours)
    return found


def test_layer_names(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(NET % r"a\033[2J\302\233b\342\200\256c")
    shown = in_terminal(path)
    assert b"a\\x1b[2J\\x9bb\\u202ec" in shown
    assert b"\x1b" not in shown
    piped = show(path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert b"a\x1b[2J" in piped.stdout


def test_errors(tmp_path: Path) -> None:
    path = tmp_path / "net\x1b[2J.prototxt"
    path.write_text("layer {")
    shown = in_terminal(path)
    assert b"net\\x1b[2J.prototxt" in shown
    assert b"\x1b" not in shown


@pytest.mark.slow
def test_a_bar_is_drawn_and_shows_control_characters_in_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    shown = in_terminal(tmp_path, run_bar)
    assert b"\x1b[2K" in shown  # how a bar is drawn again
    assert b"\\x1b[2K" not in shown
    assert b"decoding a\\x1b[2J" in shown
    assert b"b\\x1b[2J" in shown
    assert b"\x1b[2J" not in shown


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError("odd"), "odd"),
        (OSError(errno.EACCES, "denied"), "[Errno 13] denied"),
        (OSError(errno.EACCES, "denied", "net"), "net: denied"),
        (OSError(errno.EACCES, "denied", b"net\xff"), "net\udcff: denied"),
        (OSError(errno.ENOSPC, "full", "net"), "net: full"),
        (OSError(errno.ENOSPC, "full"), "standard output: full"),
        (OSError(errno.ENOENT, "absent", "a\nerror: b\r"), "a\n    error: b\\r: absent"),
    ],
)
def test_errors_of_the_system_name_the_file(error: OSError, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert str(cli._message(error)) == says


def test_an_error_of_the_system_without_words() -> None:
    error = OSError()
    error.filename = "net"
    assert cli._message(error) is error


@pytest.mark.parametrize(("result", "code"), [(None, 0), (0, 0), (1, 1), (3, 3)])
def test_exit_codes(result: int | None, code: int) -> None:
    assert cli.run_command(lambda: result) == code


@pytest.mark.parametrize("thread", [False, True])
def test_signals_are_handled_in_the_main_thread_and_given_back(thread: bool) -> None:
    seen: list[object] = []

    def work() -> None:
        seen.append(cli.run_command(lambda: seen.append(signal.getsignal(signal.SIGTERM))))

    if thread:
        other = threading.Thread(target=work)
        other.start()
        other.join()
    else:
        work()
    assert seen[1] == 0
    assert (seen[0] is signal.SIG_DFL) is thread
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


LOST = """import os, signal, sys, time
from caffe_fusion_tools.cli import run_command

class Freed:
    def __del__(self):
        os.kill(os.getpid(), number)
        time.sleep(10)

def work():
    Freed()
    time.sleep(10)

number = getattr(signal, sys.argv[1])
sys.exit(run_command(work))
"""


@pytest.mark.parametrize(("name", "code", "says"), [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "terminated")])
def test_a_signal_in_a_finalizer_ends_the_command(name: str, code: int, says: str) -> None:
    done = subprocess.run([sys.executable, "-c", LOST, name], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (code, f"{says}\n")


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(("name", "code", "says"), [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "terminated")])
def test_a_signal_that_a_package_makes_an_error_ends_the_command(
    name: str, code: int, says: str, nested: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Extensions of C++ that are interrupted in their import raise ImportError, which commands report as missing."""

    def work() -> None:
        try:
            signal.raise_signal(signal.Signals[name])
        except KeyboardInterrupt:
            raise PlacedError("checking needs a package, which is not installed") from None

    def fail() -> None:
        raise PlacedError("no such net")

    assert cli.run_command((lambda: cli.run_command(work)) if nested else work) == code
    assert capsys.readouterr().err == says + "\n"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert cli.run_command(fail) == 1  # the next command has got no signal
    assert capsys.readouterr().err == "error: no such net\n"


def test_other_exceptions_that_are_lost_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", shown.append)

    class Freed:
        def __del__(self) -> None:
            raise ValueError

    assert cli.run_command(lambda: 0 * len(repr(Freed()))) == 0
    assert [lost.exc_type for lost in shown] == [ValueError]  # type: ignore[attr-defined]
    assert sys.unraisablehook == shown.append


def test_what_the_caller_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        seen: list[object] = []
        assert cli.run_command(lambda: seen.append(signal.getsignal(signal.SIGHUP))) == 0
        assert (seen, signal.getsignal(signal.SIGHUP)) == ([signal.SIG_IGN], signal.SIG_IGN)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(("full", "says"), [(True, b"error: standard output: No space left on device\n"), (False, b"")])
def test_output_that_cannot_be_written_is_told_once(full: bool, says: bytes, tmp_path: Path) -> None:
    """Of a full disk; a reader that has ended (`| head`) is no error."""
    path = tmp_path / "net.prototxt"
    path.write_text(NET % "a")
    if full:
        output = os.open("/dev/full", os.O_WRONLY)
    else:
        unread, output = os.pipe()
        os.close(unread)
    done = show(path, stdout=output, stderr=subprocess.PIPE)
    os.close(output)
    assert (done.returncode, done.stderr) == (1, says)


def test_warnings_of_others_are_shown_as_python_does(capsys: pytest.CaptureFixture[str]) -> None:
    def warn() -> None:
        warnings.simplefilter("always")
        warnings.warn("theirs", UserWarning, stacklevel=1)

    shown: list[object] = []
    before, warnings.showwarning = warnings.showwarning, lambda *call, **_: shown.append(call[:2])
    try:
        assert cli.run_command(warn) == 0
    finally:
        warnings.showwarning = before
    assert [(str(message), category) for message, category in shown] == [("theirs", UserWarning)]  # type: ignore[misc]
