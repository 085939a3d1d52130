"""Caffe's log format, as glog writes it, so that all parsers of Caffe's logs read ours."""

from __future__ import annotations

import os
import re
import sys
from datetime import datetime
from typing import TextIO

from fusion.solver.logging.console import Bar, Display, Lines

# The line of Caffe's sources that logs each message: parsers accept any, but people search for them.
_PLACES = tuple(
    (re.compile(pattern), place)
    for pattern, place in (
        (r"Iteration \d+ \(", "solver.cpp:239"),
        (r"    Train net output #", "solver.cpp:258"),
        (r"Solving ", "solver.cpp:289"),
        (r"Learning Rate Policy: ", "solver.cpp:290"),
        (r"Iteration \d+, loss = ", "solver.cpp:327"),
        (r"Optimization Done\.", "solver.cpp:332"),
        (r"Iteration \d+, Testing net ", "solver.cpp:347"),
        (r"Test loss: ", "solver.cpp:402"),
        (r"    Test net output #", "solver.cpp:414"),
        (r"Snapshotting to ", "solver.cpp:464"),
        (r"Iteration \d+, lr = ", "sgd_solver.cpp:112"),
        (r"Snapshotting solver state to ", "sgd_solver.cpp:284"),
        (r"Use [CG]PU", "caffe.cpp:343"),
        (r"Performing Forward", "caffe.cpp:351"),
        (r"Initial loss: ", "caffe.cpp:356"),
        (r"Performing Backward", "caffe.cpp:357"),
        (r"\*\*\* Benchmark begins ", "caffe.cpp:365"),
        (r"Testing for ", "caffe.cpp:366"),
        (r"Iteration: \d+ forward-backward time: ", "caffe.cpp:394"),
        (r"Average time per layer: ", "caffe.cpp:397"),
        (r".*\tforward: ", "caffe.cpp:400"),
        (r".*\tbackward: ", "caffe.cpp:403"),
        (r"Average Forward pass: ", "caffe.cpp:408"),
        (r"Average Backward pass: ", "caffe.cpp:410"),
        (r"Average Forward-Backward: ", "caffe.cpp:412"),
        (r"Total Time: ", "caffe.cpp:414"),
        (r"\*\*\* Benchmark ends ", "caffe.cpp:415"),
        (r"    \[Forward\] .*, top blob ", "net.cpp:593"),
        (r"    \[Forward\] .*, param blob ", "net.cpp:605"),
        (r"    \[Backward\] .*, bottom blob ", "net.cpp:621"),
        (r"    \[Backward\] .*, param blob ", "net.cpp:632"),
        (r"    \[Backward\] All net params ", "net.cpp:721"),
    )
)
_OURS = "fusion.py:1"


class CaffeLog(Lines):
    """Writes lines with glog's prefix: severity, month and day, time, process, source.

    The form is that of glog before 0.6 (no year), because Caffe's own tools/extra scripts read no other.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        super().__init__(stream or sys.stderr)
        self._process = os.getpid()

    def say(self, text: str) -> None:
        """Write each line of the text with a prefix."""
        now = datetime.now()
        for line in text.splitlines():
            place = next((place for pattern, place in _PLACES if pattern.match(line)), _OURS)
            severity = "E" if place == "net.cpp:721" else "W" if line.startswith("warning:") else "I"
            super().say(f"{severity}{now:%m%d %H:%M:%S.%f} {self._process:5d} {place}] {line}")


class Both(Display):
    """Several displays in one, such as a bar on the terminal and a log in a file."""

    def __init__(self, *parts: Display) -> None:
        for name in ("say", "report", "start", "tick", "progress", "close"):
            calls = [getattr(part, name) for part in parts]
            setattr(self, name, lambda *arguments, calls=calls: [call(*arguments) for call in calls])


def for_training(stream: TextIO | None = None) -> Display:
    """Return a bar for a terminal, Caffe's log for a file or a pipe."""
    stream = stream or sys.stderr
    return Bar(stream) if stream.isatty() else CaffeLog(stream)
