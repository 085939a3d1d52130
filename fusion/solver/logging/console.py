"""The display of a run: a progress bar on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from fusion.solver.metrics import Outputs


class Display:
    """The place where a solver reports; this one reports nothing."""

    def say(self, text: str) -> None:
        """Write a line."""

    def report(self, lines: Sequence[str], brief: str = "") -> None:
        """Write figures: the lines in a log, `brief` ("topic: figures") where there is little room, "" for nothing."""
        for line in lines:
            self.say(line)

    def start(self, iteration: int, max_iter: int) -> None:
        """Begin or resume training at this iteration."""

    def tick(self, iteration: int, loss: float | None = None, rate: float | None = None) -> None:
        """Show that `iteration` iterations are done."""

    def progress(self, step: str, done: int, total: int) -> None:
        """Show the progress of a step before the first iteration: decoding, computing the frozen trunk."""

    def close(self) -> None:
        """End the display."""


class Silent(Display):
    """Reports nothing."""


@dataclass
class Lines(Display):
    """Writes one line per report."""

    stream: TextIO = field(default_factory=lambda: sys.stderr)

    def say(self, text: str) -> None:
        """Write the line at once, for readers that follow a log file."""
        print(text, file=self.stream, flush=True)

    def progress(self, step: str, done: int, total: int) -> None:
        """Write one line when the step is complete."""
        if done == total:
            self.say(f"{step}: {total} records")


class Quiet(Lines):
    """Writes warnings, and at the end the last figures of each topic to stdout: a result without its history."""

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[str, str] = {}

    def say(self, text: str) -> None:
        """Write a warning."""
        if text.startswith("warning:"):
            super().say(text)

    def report(self, lines: Sequence[str], brief: str = "") -> None:
        """Keep the brief form until the end or the next one of its topic."""
        if brief:
            self._last[brief.partition(":")[0]] = brief

    def progress(self, step: str, done: int, total: int) -> None:
        """Show nothing."""

    def close(self) -> None:
        """Write what was kept."""
        for line in self._last.values():
            print(line, flush=True)
        self._last.clear()


class Bar(Display):
    """Shows a bar with speed, loss, learning rate and the time left; lines scroll above it."""

    def __init__(self, stream: TextIO | None = None) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress as RichProgress,
            TextColumn,
            TimeRemainingColumn,
        )

        stream = stream or sys.stderr
        # The streams of our commands show control characters as escapes: those in names, not those that draw the bar.
        self._escape: Callable[[str], str] = getattr(stream, "escape", str)
        self._bars: Progress = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
            TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(),
            console=Console(file=getattr(stream, "bare", stream), highlight=False, emoji=False),
            transient=True,
        )
        self._task: TaskID | None = None
        self._step = ""
        self._open = False
        self._begin = (0.0, 0)
        self._next = 0.0

    def say(self, text: str) -> None:
        """Write above the bar."""
        self._bars.console.print(self._escape(text), markup=False, soft_wrap=True)

    def report(self, lines: Sequence[str], brief: str = "") -> None:
        """Write the brief form above the bar, which has the other figures."""
        if brief:
            self.say(brief)

    def start(self, iteration: int, max_iter: int) -> None:
        """Open the training bar."""
        self._begin = (time.perf_counter(), iteration)
        self._new("training", iteration, max_iter)

    def tick(self, iteration: int, loss: float | None = None, rate: float | None = None) -> None:
        """Update the bar, at most ten times a second."""
        now = time.perf_counter()
        if self._task is None or (loss is None and now < self._next):
            return
        self._next = now + 0.1  # drawing more often slows small nets
        elapsed = now - self._begin[0]
        fields: dict[str, Any] = {}
        if elapsed > 0.2:  # a speed over less time means nothing
            fields["speed"] = f"{(iteration - self._begin[1]) / elapsed:.0f} it/s"
        if loss is not None and rate is not None:
            fields["state"] = f"loss {loss:.4g}  lr {rate:.3g}"
        self._bars.update(self._task, completed=iteration, **fields)

    def progress(self, step: str, done: int, total: int) -> None:
        """Show a step of its own before training."""
        if step != self._step or self._task is None:
            self._new(step, 0, total)
        if self._task is not None:
            self._bars.update(self._task, completed=done)
        if done == total:
            self.say(f"{step}: {total} records")

    def close(self) -> None:
        """Remove the bar."""
        if self._open:
            self._bars.stop()
            self._open = False

    def _new(self, step: str, done: int, total: int) -> None:
        if not self._open:
            self._bars.start()
            self._open = True
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._step = step
        self._task = self._bars.add_task(self._escape(step), completed=done, total=total, speed="", state="")


def for_stream(stream: TextIO | None = None) -> Display:
    """Return a bar for a terminal, lines for a file or a pipe."""
    stream = stream or sys.stderr
    return Bar(stream) if stream.isatty() else Lines(stream)


def output_lines(phase: str, outputs: Outputs, *, every: bool = True) -> list[str]:
    """Return Caffe's lines for a net's outputs, one per value, numbered as Caffe numbers them.

    phase  "Train" or "Test"
    every  also those of outputs with several values, such as the class scores of a reference
    """
    lines: list[str] = []
    number = 0
    for name, values, weight in outputs:
        for value in values:
            part = f" (* {six_digits(weight)} = {six_digits(weight * value)} loss)" if weight else ""
            if every or len(values) == 1:
                lines.append(f"    {phase} net output #{number}: {name} = {six_digits(value)}{part}")
            number += 1
    return lines


def six_digits(value: float) -> str:
    """Return the value with six significant digits, as C++ streams print."""
    return f"{value:.6g}"
