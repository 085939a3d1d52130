"""A small PNG of NFR against error, drawn with Pillow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from study.figures import Figures

SIZE, MARGIN, FINE = (760, 520), (64, 24, 24, 52), 2  # pixels; left, top, right, bottom; drawn larger by FINE
COLOURS = (
    "#444444", "#c26b00", "#0b6fb8", "#7a3fb0", "#b0226f", "#15803d", "#b91c1c",
    "#64748b", "#8a6d00", "#0e7490", "#4d7c0f", "#9333ea", "#be123c",
)  # fmt: skip
Point = tuple[float, float]


def draw(reported: Mapping[str, Figures], tried: Mapping[str, Sequence[Figures]], path: Path) -> None:
    """Draw each method's mean as a dot with its name, and the tried weights as a thin line of small dots."""
    dots = {name: _mean(figures) for name, figures in reported.items()}
    lines = {name: sorted(_mean(figures) for figures in weights) for name, weights in tried.items()}
    every = [*dots.values(), *(point for line in lines.values() for point in line)]
    image = Image.new("RGB", (SIZE[0] * FINE, SIZE[1] * FINE), "white")
    pen = ImageDraw.Draw(image)
    place = _axes(pen, every)
    labels: list[Point] = []
    for name, colour in sorted(zip(dots, COLOURS, strict=False), key=lambda pair: -dots[pair[0]][1]):
        line = [place(point) for point in lines.get(name, [])]
        if len(line) > 1:
            pen.line(line, fill=colour, width=FINE)
        for at in line:
            _dot(pen, at, 3, colour)
        at = place(dots[name])
        _dot(pen, at, 7, colour)
        y = at[1]
        while any(abs(at[0] - x) < 60 * FINE and abs(y - other) < 14 * FINE for x, other in labels):
            y += FINE
        labels.append((at[0], y))
        pen.text((at[0] + 11 * FINE, y - 8 * FINE), name, fill=colour, font=_font(13))
    image.resize(SIZE, Image.Resampling.LANCZOS).quantize(64).save(path, optimize=True)


def _mean(figures: Figures) -> Point:
    return float(np.mean(figures.error)), float(np.mean(figures.nfr))


def _axes(pen: ImageDraw.ImageDraw, points: Sequence[Point]):  # type: ignore[no-untyped-def]
    """Draw both axes; return the function from a point to its position in the picture."""
    left, top, right, bottom = (side * FINE for side in MARGIN)
    width, height = SIZE[0] * FINE - left - right, SIZE[1] * FINE - top - bottom
    (x0, x1), y1 = _range([x for x, _ in points]), max(y for _, y in points) * 1.1

    def place(point: Point) -> Point:
        return left + (point[0] - x0) / (x1 - x0) * width, top + (1 - point[1] / y1) * height

    for value in _ticks(x0, x1):
        x, y = place((value, 0))
        pen.line([(x, top), (x, y)], fill="#e5e5e5", width=FINE)
        pen.text((x, y + 6 * FINE), f"{value:g}", fill="#333333", font=_font(12), anchor="ma")
    for value in _ticks(0, y1):
        x, y = place((x0, value))
        pen.line([(x, y), (x + width, y)], fill="#e5e5e5", width=FINE)
        pen.text((x - 8 * FINE, y), f"{value:g}", fill="#333333", font=_font(12), anchor="rm")
    pen.text(
        (left + width, top + height + 28 * FINE), "error of the new net, %", fill="black", font=_font(13), anchor="ra"
    )
    pen.text((8 * FINE, 4 * FINE), "negative flips, %", fill="black", font=_font(13))
    return place


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    space = max(0.12 * (high - low), 0.05)
    return low - space, high + 2 * space


def _ticks(low: float, high: float) -> list[float]:
    rough = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(s * power for s in (1, 2, 5, 10) if s * power >= rough)
    return [round(n * step, 6) for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _dot(pen: ImageDraw.ImageDraw, at: Point, radius: int, colour: str) -> None:
    r = radius * FINE
    pen.ellipse([at[0] - r, at[1] - r, at[0] + r, at[1] + r], fill=colour)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size * FINE)
