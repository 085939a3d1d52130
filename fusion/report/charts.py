"""SVG charts of flips, calibration and confidence: sized for a phone; colours come from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fusion.pct.calibration import Bin
from fusion.pct.intervals import Interval
from fusion.report.format_numbers import commas, percent
from fusion.report.html import Child, Markup, concat, elem
from fusion.report.svg_plot import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    across,
    axis_over,
    frame,
    grid_line,
    label,
    upward,
)

ENOUGH = 10
NAMED = 12


class NetPoint(NamedTuple):
    """A new net in the plane of error and negative flips."""

    name: str
    error: Interval
    nfr: Interval
    colour: str


def pareto(points: Sequence[NetPoint]) -> Markup:
    """Draw the negative flip rate over the error rate, with intervals; a line joins the nets on the Pareto front."""
    shown = [point for point in points if point.error.value is not None and point.nfr.value is not None]
    x = axis_over([v for p in shown for v in p.error if v is not None], LEFT, WIDTH - RIGHT)
    y = axis_over([v for p in shown for v in p.nfr if v is not None], HEIGHT - BOTTOM, TOP)
    # Of many nets only those on the frontier, and the featured one, are labelled.
    best = frontier([(p.error.value or 0.0, p.nfr.value or 0.0) for p in shown])
    steps = " ".join(f"{x.at(a)},{y.at(b)}" for a, b in best)
    marks = [_mark(point, x, y) for point in shown]
    places = {(p.error.value, p.nfr.value): p for p in shown}
    labelled = shown if len(shown) <= NAMED else [p for place, p in places.items() if place in best or p is shown[-1]]
    names = _labels([(x.at(p.error.value or 0.0), y.at(p.nfr.value or 0.0), p) for p in labelled])
    summary = "; ".join(f"{p.name}: error {percent(p.error.value)}, NFR {percent(p.nfr.value)}" for p in shown)
    line = elem("polyline", points=steps, class_="frontier")
    drawn = [*across(x, y, "error rate"), *upward(y, "negative flip rate"), line, *marks, *names]
    return frame("Negative flips against error", f"Lower left is better. {summary}.", drawn)


def frontier(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points that no other point equals or beats in both values, sorted by the first value."""
    best: list[tuple[float, float]] = []
    for point in sorted(set(points)):
        if not best or point[1] < best[-1][1]:
            best.append(point)
    return best


def calibration(nets: Sequence[tuple[str, str, Sequence[Bin]]]) -> Markup:
    """Draw accuracy over confidence for (name, colour, bins); a calibrated net is on the diagonal."""
    x, y = Axis(0, 1, LEFT, WIDTH - RIGHT), Axis(0, 1, HEIGHT - BOTTOM, TOP)
    fifths = [0, 0.2, 0.4, 0.6, 0.8, 1]
    drawn: list[Child] = [*across(x, y, "confidence", fifths, 0), *upward(y, "accuracy", fifths, 0)]
    drawn.append(elem("line", x1=x.at(0), y1=y.at(0), x2=x.at(1), y2=y.at(1), class_="diagonal"))
    for name, colour, bins in nets:
        filled = [
            (b.confidence, b.accuracy, b.count)
            for b in bins
            if b.confidence is not None and b.accuracy is not None and b.count >= ENOUGH
        ]
        line = " ".join(f"{x.at(c)},{y.at(a)}" for c, a, _ in filled)
        drawn.append(elem("polyline", points=line, class_=f"curve {colour}"))
        for c, a, count in filled:
            about = f"{name}: {commas(count)} samples of confidence {percent(c, 0)}, {percent(a, 0)} right"
            drawn.append(elem("circle", elem("title", about), cx=x.at(c), cy=y.at(a), r=2.6, class_=f"dot {colour}"))
    return frame("Calibration", f"Accuracy over confidence, in ten steps of at least {ENOUGH} samples.", drawn)


def confidence_change(before: npt.NDArray[np.floating], after: npt.NDArray[np.floating], steps: int = 20) -> Markup:
    """Draw a histogram of the change of the true class's probability, with counts on a logarithmic scale."""
    change = after.astype(np.float64) - before
    counts = np.histogram(change, bins=np.linspace(-1, 1, steps + 1))[0].tolist()
    top = max(math.ceil(math.log10(max(counts) + 1)), 1)
    x, y = Axis(-1, 1, LEFT, WIDTH - RIGHT), Axis(0, top, HEIGHT - BOTTOM, TOP)
    drawn: list[Child] = []
    for power in range(top + 1):
        drawn += grid_line(y, power, commas(10**power) if power else "0")
    for i, count in enumerate(counts):
        if count:
            low, high = -1 + 2 * i / steps, -1 + 2 * (i + 1) / steps
            height = y.at(math.log10(count + 1) if count > 1 else 0.31)  # log10(2): a count of 1 must be visible
            about = f"{commas(count)} samples: {low:+.1f} to {high:+.1f}"
            kind = "even" if i in (steps // 2 - 1, steps // 2) else "neg" if i < steps // 2 else "pos"
            box = {"x": x.at(low) + 0.75, "width": x.at(high) - x.at(low) - 1.5, "height": HEIGHT - BOTTOM - height}
            drawn.append(elem("rect", elem("title", about), y=height, rx=1.5, class_=f"bar {kind}", **box))
    signs = {-1: "\u22121", -0.5: "\u22120.5", 0: "0", 0.5: "+0.5", 1: "+1"}
    drawn += [label(text, x.at(value), HEIGHT - BOTTOM + 16, "middle") for value, text in signs.items()]
    drawn.append(
        label("change of the true class's probability", (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, "middle", "label")
    )
    lost, won = int((change < -0.5).sum()), int((change > 0.5).sum())
    about = f"{commas(lost)} samples lost more than half, {commas(won)} gained as much."
    return frame("Confidence in the true class", about, drawn)


def _mark(point: NetPoint, x: Axis, y: Axis) -> Markup:
    (error, e0, e1), (nfr, n0, n1) = point.error, point.nfr
    cx, cy = x.at(error or 0.0), y.at(nfr or 0.0)
    cross = []
    if e0 is not None and e1 is not None and n0 is not None and n1 is not None:
        cross = [
            elem("line", x1=x.at(e0), x2=x.at(e1), y1=cy, y2=cy, class_=f"whisker {point.colour}"),
            elem("line", x1=cx, x2=cx, y1=y.at(n0), y2=y.at(n1), class_=f"whisker {point.colour}"),
        ]
    about = f"{point.name}: error {percent(error)}, NFR {percent(nfr)}"
    return concat(*cross, elem("circle", elem("title", about), cx=cx, cy=cy, r=5, class_=f"dot {point.colour}"))


def _labels(points: Sequence[tuple[float, float, NetPoint]]) -> list[Markup]:
    """Return the nets' names beside their points, moved apart where they would overlap."""
    placed: list[float] = []
    labels = []
    for cx, cy, point in sorted(points, key=lambda item: item[1]):
        height = cy - 8
        while any(abs(height - other) < 13 for other in placed):
            height += 13
        placed.append(height)
        left = cx > WIDTH * 0.66
        name = point.name if len(point.name) <= 22 else point.name[:21] + "…"
        labels.append(label(name, cx + (-9 if left else 9), height, "end" if left else "start", f"name {point.colour}"))
    return labels
