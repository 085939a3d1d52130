"""Lists of images as CSV: a path and a label per row, in the first two columns or in those that a header names."""

from __future__ import annotations

import csv
import io
import os
import re
from dataclasses import dataclass
from typing import Final

from fusion.errors import DataError, raise_first
from prototxt.errors import did_you_mean
from prototxt.formats.class_folders import IMAGE_SUFFIXES

_PATHS: Final = ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "img")
_LABELS: Final = ("label", "class", "class_name", "category", "target")


@dataclass(frozen=True)
class CsvRows:
    """The rows of a CSV list.

    labels   numbers, or names where any of them is no whole number
    lines    the line of each row, from 1
    classes  the names, sorted as text, that of class 0 first; empty where the labels are numbers
    """

    paths: tuple[str, ...]
    labels: tuple[int, ...]
    lines: tuple[int, ...]
    classes: tuple[str, ...] = ()


def is_csv(path: str | os.PathLike[str]) -> bool:
    """Return whether the name is that of a CSV file."""
    return os.fspath(path).lower().endswith(".csv")


def read_csv_list(text: str, place: str) -> CsvRows:
    """Read a list from the text of a CSV file.

    A first row whose fields name no image is a header, in which one column is for paths and one for labels.

    Raises: DataError naming all broken rows.
    """
    reader = csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=""), strict=True)
    try:
        rows = [(reader.line_num, [field.strip() for field in row]) for row in reader if any(map(str.strip, row))]
    except csv.Error as error:
        raise DataError(f"this is no CSV: {error}", place=f"{place}:{reader.line_num}") from error
    if not rows:
        raise DataError("the list is empty", place=place, hint="write one 'path,label' per row")
    columns = (0, 1)
    if not any(field.lower().endswith(IMAGE_SUFFIXES) for field in rows[0][1]):
        columns = _columns(rows[0][1], place)
        rows = rows[1:]
    errors, found = [], []
    for line, row in rows:
        if len(row) <= max(columns) or not row[columns[0]] or not row[columns[1]]:
            errors.append(DataError(f"the row has no path and label: {','.join(row)[:80]!r}", place=f"{place}:{line}"))
        else:
            found.append((line, row[columns[0]], row[columns[1]]))
    raise_first(errors, "more rows like these")
    if not found:
        raise DataError("the list has a header and no rows", place=place)
    lines, paths, labels = zip(*found, strict=True)
    if all(re.fullmatch(r"[+-]?[0-9]{1,11}", label) for label in labels):
        return CsvRows(paths, tuple(map(int, labels)), lines)
    classes = sorted(set(labels))
    numbers = {name: number for number, name in enumerate(classes)}
    return CsvRows(paths, tuple(numbers[label] for label in labels), lines, tuple(classes))


def _columns(header: list[str], place: str) -> tuple[int, int]:
    """Return the columns of paths and labels. Raises: DataError unless each is one."""
    names = [name.lower() for name in header]
    found = []
    for kind, known in (("paths", _PATHS), ("labels", _LABELS)):
        columns = [number for number, name in enumerate(names) if name in known]
        if len(columns) != 1:
            hint = did_you_mean("", [], f"name the columns path and label; this has {', '.join(header)[:200]}")
            many = "several columns" if columns else "no column"
            raise DataError(f"the first row names {many} of {kind}", place=f"{place}:1", hint=hint)
        found.append(columns[0])
    return found[0], found[1]
