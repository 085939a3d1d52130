"""Axes, grids and labels of SVG charts, sized for a phone; colours come from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from fusion.report.html import Child, Markup, elem

WIDTH, HEIGHT = 360, 300
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 14, 42


class Axis(NamedTuple):
    """A linear map of a range of values to a range of pixels."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """Return the pixel of a value."""
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 2)


def axis_over(values: Sequence[float], start: float, end: float) -> Axis:
    """Return an axis of shares around the values, with a margin; never below 0."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    room = max((high - low) * 0.15, 0.0005)
    return Axis(max(0.0, low - room), high + room, start, end)


def ticks(axis: Axis, most: int = 5) -> list[float]:
    """Return at most about `most` round values inside the axis."""
    span = axis.high - axis.low
    step = 10 ** math.floor(math.log10(span))
    for factor in (0.2, 0.5, 1, 2, 5):
        if span / (step * factor) <= most:
            step *= factor
            break
    first = math.ceil(axis.low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(axis.high / step + 1e-9) + 1)]


def upward(y: Axis, name: str, marks: Sequence[float] | None = None, digits: int = 1) -> list[Markup]:
    """Draw horizontal lines at shares, in percent at the left edge, and the axis's name."""
    values = ticks(y) if marks is None else marks
    drawn = [part for value in values for part in grid_line(y, value, _short(value, digits))]
    middle = (y.start + y.end) / 2
    turn = f"rotate(-90 11 {middle})"
    text = elem("text", f"{name} (%)", class_="label", x=11, y=middle, text_anchor="middle", transform=turn)
    return [*drawn, text]


def grid_line(y: Axis, value: float, text: str) -> list[Markup]:
    """Draw a horizontal line at a value, with text at its left end."""
    line = elem("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y.at(value), y2=y.at(value), class_="grid")
    return [line, label(text, LEFT - 6, y.at(value) + 4, "end")]


def across(x: Axis, y: Axis, name: str, marks: Sequence[float] | None = None, digits: int = 1) -> list[Markup]:
    """Draw vertical lines at shares, in percent at the lower edge, and the axis's name."""
    drawn = []
    for value in ticks(x) if marks is None else marks:
        drawn.append(elem("line", x1=x.at(value), x2=x.at(value), y1=y.start, y2=y.end, class_="grid"))
        drawn.append(label(_short(value, digits), x.at(value), y.start + 16, "middle"))
    return [*drawn, label(f"{name} (%)", (x.start + x.end) / 2, HEIGHT - 6, "middle", "label")]


def _short(value: float, digits: int) -> str:
    text = f"{100 * value:.{digits + 2}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def label(text: str, x: float, y: float, anchor: str, kind: str = "tick") -> Markup:
    """Return text at a point; `kind` is its style class."""
    return elem("text", text, x=round(x, 2), y=round(y, 2), text_anchor=anchor, class_=kind)


def frame(title: str, about: str, children: Sequence[Child]) -> Markup:
    """Return the whole chart; a screen reader reads its title and the sentence."""
    label = f"{title}. {about}"
    return elem("svg", *children, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=label, class_="chart")
