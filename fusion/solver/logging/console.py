"""What training says while it runs: a progress bar on a terminal, Caffe's lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

Outputs = Sequence[tuple[str, list[float], float]]  # an output's name, its values, its weight in the loss


class Display(Protocol):
    """Where a solver reports."""

    def say(self, text: str) -> None:
        """A line of its own."""

    def start(self, iteration: int, max_iter: int) -> None:
        """Training begins or goes on at this iteration."""

    def tick(self, iteration: int, loss: float | None = None, rate: float | None = None) -> None:
        """So many iterations are done."""

    def progress(self, what: str, done: int, total: int) -> None:
        """A step before the first iteration advances: decoding, computing the frozen trunk."""

    def close(self) -> None:
        """Nothing more comes."""


@dataclass
class Lines:
    """One line per report, nothing in between."""

    stream: TextIO = field(default_factory=lambda: sys.stderr)

    def say(self, text: str) -> None:
        """Write the line at once, for those who follow a log file."""
        print(text, file=self.stream, flush=True)

    def start(self, iteration: int, max_iter: int) -> None:
        """Nothing: the first line says it."""

    def tick(self, iteration: int, loss: float | None = None, rate: float | None = None) -> None:
        """Nothing."""

    def progress(self, what: str, done: int, total: int) -> None:
        """One line when it is complete."""
        if done == total:
            self.say(f"{what}: {total} records")

    def close(self) -> None:
        """Nothing is open."""


class Silent(Lines):
    """Says nothing."""

    def say(self, text: str) -> None:
        """Nothing."""


class Bar:
    """A bar with speed, loss, learning rate and the time left; lines scroll above it."""

    def __init__(self, stream: TextIO | None = None) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress as RichProgress,
            TextColumn,
            TimeRemainingColumn,
        )

        self._bars: Progress = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
            TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(),
            console=Console(file=stream or sys.stderr, highlight=False),
            transient=True,
        )
        self._task: TaskID | None = None
        self._what = ""
        self._open = False
        self._begin = (0.0, 0)
        self._next = 0.0

    def say(self, text: str) -> None:
        """Write above the bar."""
        self._bars.console.print(text, markup=False, soft_wrap=True)

    def start(self, iteration: int, max_iter: int) -> None:
        """Open the training bar."""
        self._begin = (time.perf_counter(), iteration)
        self._new("training", iteration, max_iter)

    def tick(self, iteration: int, loss: float | None = None, rate: float | None = None) -> None:
        """Move on, at most ten times a second."""
        now = time.perf_counter()
        if self._task is None or (loss is None and now < self._next):
            return
        self._next = now + 0.1
        elapsed = now - self._begin[0]
        fields: dict[str, Any] = {}
        if elapsed > 0.2:
            fields["speed"] = f"{(iteration - self._begin[1]) / elapsed:.0f} it/s"
        if loss is not None and rate is not None:
            fields["state"] = f"loss {loss:.4g}  lr {rate:.3g}"
        self._bars.update(self._task, completed=iteration, **fields)

    def progress(self, what: str, done: int, total: int) -> None:
        """Show a step of its own before training."""
        if what != self._what or self._task is None:
            self._new(what, 0, total)
        if self._task is not None:
            self._bars.update(self._task, completed=done)
        if done == total:
            self.say(f"{what}: {total} records")

    def close(self) -> None:
        """Remove the bar."""
        if self._open:
            self._bars.stop()
            self._open = False

    def _new(self, what: str, done: int, total: int) -> None:
        if not self._open:
            self._bars.start()
            self._open = True
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._what = what
        self._task = self._bars.add_task(what, completed=done, total=total, speed="", state="")


def for_stream(stream: TextIO | None = None) -> Display:
    """A bar for a terminal, lines for a file or a pipe."""
    stream = stream or sys.stderr
    return Bar(stream) if stream.isatty() else Lines(stream)


def output_lines(phase: str, outputs: Outputs) -> list[str]:
    """Caffe's lines for a net's outputs, one per value.

    phase  "Train" or "Test"
    """
    lines: list[str] = []
    for name, values, weight in outputs:
        for value in values:
            part = f" (* {number(weight)} = {number(weight * value)} loss)" if weight else ""
            lines.append(f"    {phase} net output #{len(lines)}: {name} = {number(value)}{part}")
    return lines


def number(value: float) -> str:
    """Six significant digits, as C++ streams print."""
    return f"{value:.6g}"
