"""Window files, R-CNN's lists of boxes: for each image its number, path, size, and one line per box.

# image_index
path
channels
height
width
number of windows
label overlap x1 y1 x2 y2
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fusion.errors import DataError, raise_first
from prototxt.files import read_text


class WindowBox(NamedTuple):
    """A window of image number `image`: its corner pixels, both inside it."""

    image: int
    x1: int
    y1: int
    x2: int
    y2: int


@dataclass(frozen=True)
class WindowList:
    """The windows for training: their images, labels int64 [N] (0 background), and line numbers (from 1)."""

    path: str
    images: tuple[str, ...]
    boxes: tuple[WindowBox, ...]
    labels: NDArray[np.int64]
    lines: tuple[int, ...]

    def place(self, index: int) -> str:
        """Return the place of window `index` as `file:line`."""
        return f"{self.path}:{self.lines[index]}"


def read_windows(path: str | os.PathLike[str], *, fg_threshold: float, bg_threshold: float) -> WindowList:
    """Read a window file; a window is foreground from overlap `fg_threshold` on, background below `bg_threshold`.

    Windows in between are left out.

    Raises: DataError for a file that is missing or broken, and when one of the two kinds has no window.
    """
    place = os.fspath(path)
    try:
        text = read_text(path)
    except OSError as error:
        hint = "window_data_param.source is relative to the working directory"
        raise DataError(f"cannot read the window file: {error.strerror}", place=place, hint=hint) from error
    parser = _Parser(place, np.float32(fg_threshold), np.float32(bg_threshold))
    parser.parse([line.strip() for line in text.split("\n")])
    raise_first(parser.errors, "more lines like these")
    labels = np.array(parser.labels, np.int64)
    for kind, found, name in (("foreground", labels != 0, "fg_threshold"), ("background", labels == 0, "bg_threshold")):
        if not found.any():
            raise DataError(f"no {kind} window among {parser.windows}", place=place, hint=f"is {name} right?")
    return WindowList(place, tuple(parser.images), tuple(parser.boxes), labels, tuple(parser.lines))


@dataclass
class _Parser:
    place: str
    fg_threshold: np.float32
    bg_threshold: np.float32
    images: list[str] = field(default_factory=list)
    boxes: list[WindowBox] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    errors: list[DataError] = field(default_factory=list)
    windows: int = 0

    def parse(self, lines: list[str]) -> None:
        at = 0
        while at < len(lines):
            if not lines[at]:
                at += 1
                continue
            try:
                count = self._head(lines, at)
            except (ValueError, IndexError):
                text = f"an image's six lines were expected here: {lines[at][:60]!r}"
                hint = "write '# index', path, channels, height, width, number of windows"
                self.errors.append(DataError(text, place=f"{self.place}:{at + 1}", hint=hint))
                return
            at += 6
            for number in range(at, min(at + count, len(lines) + 1)):  # an error for the first line that is missing
                self._window(lines[number] if number < len(lines) else "", number + 1)
            at += count

    def _head(self, lines: list[str], at: int) -> int:
        mark, index = lines[at].split()
        channels, count = int(lines[at + 2]), int(lines[at + 5])
        if mark != "#" or count < 0 or not lines[at + 1]:
            raise ValueError
        place = f"{self.place}:{at + 1}"
        if int(index) != len(self.images):
            hint = f"images are numbered in their order: this one is number {len(self.images)}"
            self.errors.append(DataError(f"the image's number is {index}", place=place, hint=hint))
        if channels != 3:
            hint = "windows are read in colour: write 3"
            self.errors.append(DataError(f"the image has {channels} channels here", place=place, hint=hint))
        self.images.append(lines[at + 1])
        return count

    def _window(self, line: str, number: int) -> None:
        parts = line.split()
        try:
            label, overlap = int(parts[0]), np.float32(parts[1])
            x1, y1, x2, y2 = map(int, parts[2:])
            if abs(label) >= 1 << 31:  # Caffe's labels have 32 bits
                raise ValueError
        except (ValueError, IndexError):
            text = f"a window was expected here: {line[:60]!r}"
            hint = "write 'label overlap x1 y1 x2 y2'"
            self.errors.append(DataError(text, place=f"{self.place}:{number}", hint=hint))
            return
        self.windows += 1
        foreground = bool(overlap >= self.fg_threshold)
        if foreground and label <= 0:
            hint = "foreground windows have a label from 1; 0 is the background"
            self.errors.append(DataError(f"the label is {label}", place=f"{self.place}:{number}", hint=hint))
        if foreground or overlap < self.bg_threshold:
            self.boxes.append(WindowBox(len(self.images) - 1, x1, y1, x2, y2))
            self.labels.append(label if foreground else 0)
            self.lines.append(number)
