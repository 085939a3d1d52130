"""Charts as images, for use without a browser: the same SVG drawings, painted with Pillow."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from PIL import Image, ImageDraw, ImageFont

from fusion.errors import ReportError
from fusion.report.html import Markup
from fusion.report.svg_plot import HEIGHT, WIDTH
from prototxt.files import atomic_write

# The page's light colours (style.css) by class.
_COLOURS = {
    "grid": "#e4ded4", "tick": "#6a6259", "label": "#6a6259", "c-old": "#8a8178", "c-new": "#6d28d9", "c-0": "#0369a1",
    "c-1": "#a16207", "c-2": "#be185d", "c-3": "#4d7c0f", "c-4": "#0e7490", "c-5": "#9a3412",
}  # fmt: skip
_PAPER, _INK = "#ffffff", "#1d1a16"
_SIZE = 11  # of tick labels, in units of the SVG drawing
_ANCHORS = {"start": "ls", "middle": "ms", "end": "rs"}


def paint(charts: Sequence[tuple[str, Markup]], scale: int = 2) -> Image.Image:
    """Return the charts side by side, each below its title; `scale` is pixels per unit of the drawing."""
    title = 26
    image = Image.new("RGB", (WIDTH * scale * max(1, len(charts)), (HEIGHT + title) * scale), _PAPER)
    draw = ImageDraw.Draw(image)
    for number, (name, chart) in enumerate(charts):
        left = number * WIDTH
        draw.text(((left + 12) * scale, 18 * scale), name, _INK, _font(14 * scale), "ls")
        for element in ElementTree.fromstring(chart):
            _element(image, draw, element, (left, title), scale)
    return image


def write_image(path: str | os.PathLike[str], charts: Sequence[tuple[str, Markup]]) -> None:
    """Write the charts side by side as an image, in the format of the name's ending.

    Raises: ReportError for a format that Pillow does not write; OSError.
    """
    picture, form = paint(charts), Path(path).suffix.lower().lstrip(".") or "png"
    with atomic_write(path) as file:
        try:
            picture.save(file, {"jpg": "jpeg"}.get(form, form))
        except KeyError:
            raise ReportError(f"a plot cannot be written as .{form}", place=str(path), hint="name it .png") from None


def _element(
    image: Image.Image, draw: ImageDraw.ImageDraw, element: ElementTree.Element, origin: tuple[int, int], scale: int
) -> None:
    classes = element.get("class", "").split()
    colour = next((_COLOURS[name] for name in reversed(classes) if name in _COLOURS), _INK)

    def at(x: str | float, y: str | float) -> tuple[float, float]:
        return (origin[0] + float(x)) * scale, (origin[1] + float(y)) * scale

    if element.tag == "line":
        ends = [at(element.get(f"x{n}", 0), element.get(f"y{n}", 0)) for n in (1, 2)]
        draw.line(ends, colour, max(1, scale // 2))
    elif element.tag == "polyline":
        points = [at(*point.split(",")) for point in element.get("points", "").split()]
        if len(points) == 1:
            (x, y) = points[0]
            draw.ellipse((x - scale, y - scale, x + scale, y + scale), colour)
        elif points:
            draw.line(points, colour, round(1.75 * scale), joint="curve")
    elif element.tag == "circle":
        (x, y), radius = at(element.get("cx", 0), element.get("cy", 0)), float(element.get("r", 0)) * scale
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), colour)
    elif element.tag == "text":
        x, y = at(element.get("x", 0), element.get("y", 0))
        anchor = _ANCHORS[element.get("text-anchor", "start")]
        if "rotate" in element.get("transform", ""):
            _upright(image, (x, y), element.text or "", colour, scale)
        else:
            draw.text((x, y), element.text or "", colour, _font(_SIZE * scale), anchor)


def _upright(image: Image.Image, middle: tuple[float, float], text: str, colour: str, scale: int) -> None:
    """Draw text that reads upwards, with the middle of its base line at a point: Pillow draws horizontal text only."""
    font = _font(_SIZE * scale)
    left, top, right, bottom = ImageDraw.Draw(image).textbbox((0, 0), text, font, "ls")
    width, height = math.ceil(right - left), math.ceil(bottom - top)
    strip = Image.new("RGB", (width, height), _PAPER)
    ImageDraw.Draw(strip).text((-left, -top), text, colour, font, "ls")
    turned = strip.transpose(Image.Transpose.ROTATE_90)
    image.paste(turned, (round(middle[0] + top), round(middle[1] - width / 2)))


def _font(size: int) -> Any:
    """Return Pillow's built-in font, which needs no file; before 10.1 it had one size."""
    try:
        return ImageFont.load_default(size)
    except TypeError:
        return ImageFont.load_default()
