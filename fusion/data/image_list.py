"""Lists of images: Caffe's `path label` lines, the last blank separating the two, or a folder of class folders."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fusion.data.csv_list import is_csv, read_csv_list
from fusion.errors import DataError, raise_first
from prototxt.files import read_text
from prototxt.formats.class_folders import (
    IMAGE_SUFFIXES,
    class_folders,
    images_below,
    images_beside_folders,
    is_database,
    is_image_folder,
)

_PARTS = {"train", "training", "val", "valid", "validation", "test", "testing"}  # folders of a data set, not classes
_FORM = "a folder per class, with images at any depth, such as {path}/cat/1.jpg and {path}/dog/1.jpg"

LABEL = re.compile(r"[+-]?[0-9]{1,11}")


@dataclass(frozen=True)
class ImageList:
    """The records of a list, or of a folder of class folders.

    names    of the images, as in the list; from a folder, their paths
    labels   int64 [N]
    lines    each record's line number (from 1) in the list; empty for a folder
    classes  the names of the classes of a folder or a CSV, that of class 0 first; empty for a list
    """

    path: str
    names: tuple[str, ...]
    labels: NDArray[np.int64]
    lines: NDArray[np.int64]
    classes: tuple[str, ...] = ()

    def place(self, index: int) -> str:
        """Return the place of record `index` as `list:line`; that of a folder's is the image."""
        return f"{self.path}:{self.lines[index]}" if len(self.lines) else self.names[index]


def read_list(path: str | os.PathLike[str]) -> ImageList:
    """Read an image list, as text or CSV, or that which a folder of class folders stands for; report all errors.

    Raises: DataError for a missing or empty list, a line without a label, or a label that is not an integer; for a
    folder without class folders or with only one, an empty class, and images that lie in no class folder.
    """
    place = os.fspath(path)
    if os.path.isdir(place):
        return _read_folders(place)
    try:
        text = read_text(path)
    except OSError as error:
        message = f"cannot read the image list: {error.strerror}"
        hint = "image_data_param.source is relative to the working directory"
        raise DataError(message, place=place, hint=hint) from error
    if is_csv(path):
        rows = read_csv_list(text, place)
        return ImageList(
            place, rows.paths, np.array(rows.labels, np.int64), np.array(rows.lines, np.int64), rows.classes
        )
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
        elif not LABEL.fullmatch(label):
            errors.append(_broken(place, number, f"the label {label!r} is not an integer", stripped))
        else:
            names.append(name)
            labels.append(int(label))
            lines.append(number)
    raise_first(errors, "more lines like these")
    if not names:
        raise DataError("the image list is empty", place=place, hint="write one 'path label' per line")
    return ImageList(place, tuple(names), np.array(labels, np.int64), np.array(lines, np.int64))


def names_classes(path: str | os.PathLike[str]) -> bool:
    """Return whether this is a list that may name its classes: a folder of class folders, or a CSV that exists."""
    return is_image_folder(path) or (is_csv(path) and os.path.isfile(path))


def listed_classes(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Return the names of the classes of a folder or a CSV; () for a list. Raises: DataError, OSError."""
    if is_image_folder(path):
        return class_folders(path)
    return read_list(path).classes if names_classes(path) else ()


def _read_folders(path: str) -> ImageList:
    """Return the list that a folder of class folders stands for. Raises: DataError."""
    form = _FORM.format(path=path.rstrip("/"))
    if is_database(path):
        raise DataError("this is a database, and no folder of images", place=path, hint="read it by a Data layer")
    try:
        classes, loose = class_folders(path), images_beside_folders(path)
        images = [images_below(os.path.join(path, name)) for name in classes]
    except OSError as error:
        place = os.fspath(error.filename or path)
        raise DataError(f"cannot read the folder: {error.strerror}", place=place) from error
    errors = []
    if not classes:
        holds = "images, and no class folders" if loose else "no class folders"
        raise DataError(f"this folder has {holds}", place=path, hint=f"give {form}; or a list of 'path label' lines")
    if {name.lower() for name in classes} <= _PARTS:
        message = f"its folders are {', '.join(classes)}, which are no classes"
        raise DataError(message, place=path, hint=f"give one of them: {os.path.join(path, classes[0])}")
    if len(classes) == 1:
        message = f"there is only one class folder, '{classes[0]}'"
        hint = f"give {form}; if the classes are folders in it, give {os.path.join(path, classes[0])}"
        errors.append(DataError(message, place=path, hint=hint))
    if loose:
        several = f"{len(loose)} images lie" if len(loose) > 1 else "an image lies"
        hint = (
            "move it into the folder of its class" if len(loose) == 1 else "move them into the folders of their classes"
        )
        errors.append(DataError(f"{several} beside the class folders, in no class", place=loose[0], hint=hint))
    for name, found in zip(classes, images, strict=True):
        if not found:
            hint = f"add images ({', '.join(IMAGE_SUFFIXES)}), or remove the folder"
            errors.append(DataError(f"the class '{name}' has no image", place=os.path.join(path, name), hint=hint))
    raise_first(errors, "more class folders like these")
    labels = np.repeat(np.arange(len(classes)), [len(found) for found in images])
    names = tuple(name for found in images for name in found)
    return ImageList(path, names, labels, np.empty(0, np.int64), classes)


def _broken(place: str, number: int, message: str, line: str) -> DataError:
    return DataError(f"{message}: {line[:80]!r}", place=f"{place}:{number}", hint="write 'path label', label from 0")
