"""Caffe's image lists: one `path label` per line, the last blank separating the two."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fusion.errors import DataError, raise_first
from prototxt.files import read_text


@dataclass(frozen=True)
class ImageList:
    """The records of a list: names as they stand there, labels int64 [N], and each record's line number (from 1)."""

    path: str
    names: tuple[str, ...]
    labels: NDArray[np.int64]
    lines: NDArray[np.int64]

    def place(self, index: int) -> str:
        """Return the place of record `index` as `file:line`."""
        return f"{self.path}:{self.lines[index]}"


def read_list(path: str | os.PathLike[str]) -> ImageList:
    """Read an image list, reporting all broken lines at once.

    Raises: DataError for a missing or empty list, a line without a label, or a label that is not an integer.
    """
    place = os.fspath(path)
    try:
        text = read_text(path)
    except OSError as error:
        message = f"cannot read the image list: {error.strerror}"
        hint = "image_data_param.source is relative to the working directory"
        raise DataError(message, place=place, hint=hint) from error
    names: list[str] = []
    labels: list[int] = []
    lines: list[int] = []
    errors: list[DataError] = []
    for number, line in enumerate(text.split("\n"), 1):
        stripped = line.strip("\r\ufeff")
        if not stripped.strip():
            continue
        name, _, label = stripped.rstrip().rpartition(" ")  # names may contain blanks, as in Caffe
        if not name:
            errors.append(_broken(place, number, "the line has no label", stripped))
        elif not re.fullmatch(r"[+-]?[0-9]{1,11}", label):
            errors.append(_broken(place, number, f"the label {label!r} is not an integer", stripped))
        else:
            names.append(name)
            labels.append(int(label))
            lines.append(number)
    raise_first(errors, "more lines like these")
    if not names:
        raise DataError("the image list is empty", place=place, hint="write one 'path label' per line")
    return ImageList(place, tuple(names), np.array(labels, np.int64), np.array(lines, np.int64))


def _broken(place: str, number: int, message: str, line: str) -> DataError:
    return DataError(f"{message}: {line[:80]!r}", place=f"{place}:{number}", hint="write 'path label', label from 0")
