"""Training curves from a solver's log: Caffe's, fusion-train's, which has the same format, or its JSON."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fusion.errors import ReportError, translate_errors
from fusion.report.format_numbers import commas
from fusion.report.html import Child, Markup, elem
from fusion.report.svg_plot import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axis, frame, grid_line, label, ticks, upward

_LOSS = re.compile(r"\bIteration (\d{1,15})\b.*\bloss = ([-+.\deE]+)\s*$")
_RATE = re.compile(r"\bIteration (\d{1,15}), lr = ([-+.\deE]+)")
_TESTING = re.compile(r"\bIteration (\d{1,15}), Testing net \(#(\d+)\)")
_OUTPUT = re.compile(r"\bTest net output #\d+: (.+?) = ([-+.\deE]+)")
_MOST = 240
Series = list[tuple[int, float]]


@dataclass(frozen=True)
class Curve:
    """One run: (iteration, smoothed training loss), per test output (iteration, value), and the learning rates."""

    name: str
    loss: Series
    tests: dict[str, Series] = field(default_factory=dict)
    rates: Series = field(default_factory=list)


def read_log(path: str | os.PathLike[str], name: str | None = None) -> Curve:
    """Read the curves in a solver's log; of iterations that a resumed run repeats, the later values count.

    Raises: ReportError when no loss is found; OSError.
    """
    points = Points()
    testing: int | None = None
    for count, line in enumerate(Path(path).read_bytes().decode("utf-8", "replace").splitlines(), 1):
        if line.startswith("{"):
            _add_json(points, line, f"{path}:{count}")
        elif found := _TESTING.search(line):
            testing = int(found[1]) if found[2] == "0" else None
        elif found := _LOSS.search(line):
            points.loss[int(found[1])] = _float(found[2])
        elif found := _RATE.search(line):
            points.rates[int(found[1])] = _float(found[2])
        elif testing is not None and (found := _OUTPUT.search(line)):
            points.tests.setdefault(found[1], {})[testing] = _float(found[2])
    if not points.loss:
        raise ReportError(
            "no line like 'Iteration 100, loss = 0.5'", place=str(path), hint="give the log of a training run"
        )
    return points.curve(name or Path(path).stem)


@dataclass(eq=False)
class Points:
    """A run's values by iteration while its log is read; later values replace earlier ones."""

    loss: dict[int, float] = field(default_factory=dict)
    tests: dict[str, dict[int, float]] = field(default_factory=dict)
    rates: dict[int, float] = field(default_factory=dict)

    def curve(self, name: str) -> Curve:
        """Return the curve of the values so far."""
        tests = {output: _sorted(values) for output, values in self.tests.items()}
        return Curve(name, _sorted(self.loss), tests, _sorted(self.rates))


def _add_json(points: Points, line: str, place: str) -> None:
    """Add a line of --log-json; lines of other kinds, and incomplete lines of a stopped run, are skipped.

    Raises: ReportError for a line of training or testing without its figures, or with figures that are not numbers.
    """
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return
    if isinstance(record, dict) and record.get("kind") in ("train", "test"):
        with translate_errors(ReportError, "not what fusion-train --log-json writes", place):
            _add_record(points, record)


def _add_record(points: Points, record: dict[str, Any]) -> None:
    if missing := [key for key in ("iter", *(["outputs"] if record["kind"] == "test" else [])) if key not in record]:
        raise ValueError(f"it has no {' and no '.join(map(repr, missing))}")
    kind, iteration = record["kind"], int(record["iter"])
    if abs(iteration) >= 10**15:
        raise ValueError(f"there is no iteration {iteration:.3g}")
    if kind == "train":
        for values, key in ((points.loss, "loss"), (points.rates, "lr")):
            if record.get(key) is not None:
                values[iteration] = float(record[key])
    elif kind == "test" and record.get("test_net") == 0:
        for output, value in record["outputs"].items():
            if isinstance(value, (int, float)):
                points.tests.setdefault(output, {})[iteration] = float(value)


def losses(curves: Sequence[tuple[Curve, str]]) -> Markup:
    """Draw the training loss over iterations on a logarithmic scale, for (curve, colour)."""
    ends = "; ".join(f"{curve.name} ends at {curve.loss[-1][1]:.4g}" for curve, _ in curves if curve.loss)
    return frame("Training loss", f"{ends}.", _powers([(curve.loss, colour) for curve, colour in curves]))


def rates(curves: Sequence[tuple[Curve, str]]) -> Markup | None:
    """Draw the learning rates over iterations on a logarithmic scale; None when no log has one."""
    shown = [(curve, colour) for curve, colour in curves if curve.rates]
    if not shown:
        return None
    ends = "; ".join(f"{curve.name} ends at {curve.rates[-1][1]:.4g}" for curve, _ in shown)
    return frame("Learning rate", f"{ends}.", _powers([(curve.rates, colour) for curve, colour in shown]))


def _powers(series: Sequence[tuple[Series, str]]) -> list[Child]:
    """Return lines over powers of ten, for (values, colour)."""
    values = [value for points, _ in series for _, value in points if value > 0 and math.isfinite(value)]
    low, high = (math.log10(min(values)), math.log10(max(values))) if values else (-1.0, 0.0)
    y = Axis(math.floor(low), max(math.ceil(high), math.floor(low) + 1), HEIGHT - BOTTOM, TOP)
    x = _iterations([points for points, _ in series])
    drawn: list[Child] = []
    for power in range(int(y.low), int(y.high) + 1):
        drawn += grid_line(y, power, f"{10.0**power:g}")
    drawn += _below(x)
    for points, colour in series:
        shown = [(i, math.log10(v)) for i, v in _thinned(points) if v > 0 and math.isfinite(v)]
        drawn.append(_line(x, y, shown, colour))
    return drawn


def _line(x: Axis, y: Axis, points: Series, colour: str) -> Markup:
    return elem("polyline", points=" ".join(f"{x.at(i)},{y.at(v)}" for i, v in points), class_=f"curve {colour}")


def accuracies(curves: Sequence[tuple[Curve, str]]) -> Markup | None:
    """Draw the test accuracy over iterations; None when no log has one."""
    series = [(curve, colour, _accuracy(curve)) for curve, colour in curves]
    series = [(curve, colour, values) for curve, colour, values in series if values]
    if not series:
        return None
    # From the second test on: the first one, before any training, would compress all others at the top.
    late = [v for _, _, values in series for _, v in (values[1:] or values)]
    low, high = min(late), max(late)
    room = max(0.15 * (high - low), 0.002, 1e-6 * abs(high))
    # Not beyond 0 and 1, unless a log has other values, such as percents.
    bottom, top = low - room if low < 0 else max(0.0, low - room), high + room if high > 1 else min(1.0, high + room)
    y = Axis(bottom, top, HEIGHT - BOTTOM, TOP)
    x = _iterations([values for _, _, values in series])
    shown = [([(i, v) for i, v in _thinned(values) if y.low <= v <= y.high], colour) for _, colour, values in series]
    lines = [_line(x, y, values, colour) for values, colour in shown]
    drawn = [*upward(y, "test accuracy"), *_below(x), *lines]
    ends = "; ".join(f"{curve.name} ends at {100 * values[-1][1]:.2f} %" for curve, _, values in series)
    return frame("Test accuracy", f"{ends}.", drawn)


def _accuracy(curve: Curve) -> Series:
    found = next((values for output, values in curve.tests.items() if output.lower().startswith("acc")), [])
    return [(iteration, value) for iteration, value in found if math.isfinite(value)]


def _iterations(series: Sequence[Series]) -> Axis:
    last = max((values[-1][0] for values in series if values), default=0)
    return Axis(0, max(last, 1), LEFT, WIDTH - RIGHT)


def _below(x: Axis) -> list[Markup]:
    marks = [label(commas(round(value)), x.at(value), HEIGHT - BOTTOM + 16, "middle") for value in ticks(x, 4)]
    return [*marks, label("iteration", (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, "middle", "label")]


def _thinned(series: Series) -> Series:
    """Return at most _MOST points, means of neighbours, to keep the page of a long run small."""
    step = math.ceil(len(series) / _MOST)
    if step <= 1:
        return series
    chunks = [series[i : i + step] for i in range(0, len(series), step)]
    return [(chunk[-1][0], sum(v for _, v in chunk) / len(chunk)) for chunk in chunks]


def _sorted(values: dict[int, float]) -> Series:
    return sorted(values.items())


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def write_plot(path: str | os.PathLike[str], curve: Curve) -> None:
    """Write loss, test accuracy and learning rate of a run as an image.

    Raises: ReportError for a format that Pillow does not write; OSError.
    """
    from fusion.report.svg_to_png import write_image

    one = [(curve, "c-new")]
    charts = [("Training loss", losses(one)), ("Test accuracy", accuracies(one)), ("Learning rate", rates(one))]
    write_image(path, [(name, chart) for name, chart in charts if chart is not None])
