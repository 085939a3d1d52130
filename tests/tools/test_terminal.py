"""Names in foreign files cannot send control sequences to the terminal that they are printed to."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

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


def test_a_bar_is_drawn_and_shows_control_characters_in_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    shown = in_terminal(tmp_path, run_bar)
    assert b"\x1b[2K" in shown  # how a bar is drawn again
    assert b"\\x1b[2K" not in shown
    assert b"decoding a\\x1b[2J" in shown
    assert b"b\\x1b[2J" in shown
    assert b"\x1b[2J" not in shown
