"""Lists of images written as files: whole, or in two parts, of which one is kept back for validation."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fusion.data.image_list import ImageList, read_list
from fusion.errors import SHOWN, DataError
from prototxt.errors import did_you_mean
from prototxt.files import write_text
from prototxt.text.class_names import read_names, write_names


@dataclass(frozen=True)
class ListParts:
    """The records of a list in two parts, which share no file; numbers in ascending order, int64."""

    training: NDArray[np.int64]
    validation: NDArray[np.int64]


def class_share(labels: NDArray[np.int64] | None, count: int, number: int, seed: int) -> NDArray[np.int64]:
    """Return `number` of `count` records, drawn by seed, in ascending order, int64 [number].

    labels  int64 [count]: each class gives the same share of its records, rounded up or down
    """
    # a stream of its own, so that shuffling keeps its draws
    generator = np.random.default_rng((seed, 0x5E1))
    records = generator.permutation(count)
    if labels is not None:
        records = records[np.argsort(labels[records], kind="stable")]
    # evenly spaced places in the order of the classes
    return np.sort(records[(np.arange(number) * count + generator.integers(count)) // number])


def split_list(images: ImageList, share: float, seed: int = 0) -> ListParts:
    """Keep back a share of each class's files for validation, by seed.

    A file that is listed several times is in one part with all of its records, and a class with few files keeps at
    least one for training.

    Raises: DataError for a share that leaves no file for one of the parts.
    """
    files = {name: number for number, name in enumerate(dict.fromkeys(images.names))}
    file_of = np.array([files[name] for name in images.names])
    labels = np.empty(len(files), np.int64)
    labels[file_of[::-1]] = images.labels[::-1]  # of the first record of a file
    number = round(share * len(files)) if 0 < share < 1 else 0
    if not 0 < number < len(files):
        message = f"a share of {share:g} of {len(files)} images for validation leaves none for one of the parts"
        raise DataError(message, place=images.path, hint="give a share between 0 and 1, such as 0.1")
    held = np.zeros(len(files), bool)
    held[class_share(labels, len(files), number, seed)] = True
    for label in np.setdiff1d(labels[held], labels[~held]):
        held[np.flatnonzero(held & (labels == label))[0]] = False
    return ListParts(np.flatnonzero(~held[file_of]), np.flatnonzero(held[file_of]))


def write_lists(
    source: str | os.PathLike[str],
    outputs: Sequence[str | os.PathLike[str]],
    *,
    share: float | None = None,
    seed: int = 0,
    labels: str | os.PathLike[str] | None = None,
    label_map: Mapping[int, int] | None = None,
) -> list[str]:
    """Write a list of class folders (or of a list again), or its two parts; returns a line about each written file.

    outputs  the list; with a share, the training list and the validation list
    share    of each class, for the validation list; `seed` draws it
    labels   a file of class names, that of class 0 first, which numbers the classes; written if it does not exist
    label_map  old label -> new one; records of other labels are left out
    Raises: DataError, PrototxtError, OSError.
    """
    images = read_list(source)
    known = labels is not None and os.path.exists(labels)
    if labels is not None and not images.classes:
        raise DataError("a list has no class names", place=images.path, hint="omit --labels, or give class folders")
    if labels is not None and known:
        images = number_by_names(images, read_names(labels), os.fspath(labels))
    if label_map is not None:
        images = map_labels(images, label_map)
    parts = None if share is None else split_list(images, share, seed)
    records = [np.arange(len(images.names))] if parts is None else [parts.training, parts.validation]
    for path, part in zip(outputs, records, strict=True):
        write_list(path, images, part)
    lines = [f"{path}: {_describe(images, part)}" for path, part in zip(outputs, records, strict=True)]
    if labels is not None and not known:
        write_names(labels, images.classes)
        lines.append(f"{labels}: the names of {len(images.classes)} classes")
    return lines


def _describe(images: ImageList, records: NDArray[np.int64]) -> str:
    """Return the number of records, of all and of each class."""
    labels, counts = np.unique(images.labels[records], return_counts=True)
    names = [f"{label} {images.classes[label]}" if images.classes else str(label) for label in labels.tolist()]
    each = [f"{name}: {count}" for name, count in zip(names[:SHOWN], counts.tolist(), strict=False)]
    return f"{len(records)} records of {len(labels)} classes ({', '.join(each)}{', ...' * (len(names) > SHOWN)})"


def number_by_names(images: ImageList, names: Sequence[str], place: str) -> ImageList:
    """Return the records of class folders with the numbers that the classes have among `names`.

    Raises: DataError for a class that is not among them; `place` is the file that they are from.
    """
    unknown = [name for name in images.classes if name not in names]
    if unknown:
        hint = did_you_mean(unknown[0], names, "add it, or give another file of names")
        raise DataError(f"the class folder '{unknown[0]}' is not among these names", place=place, hint=hint)
    numbers = np.array([names.index(name) for name in images.classes])
    return replace(images, labels=numbers[images.labels], classes=tuple(names))


def map_labels(images: ImageList, label_map: Mapping[int, int]) -> ImageList:
    """Return the records of the labels that the map has, with their new labels, and without names of classes.

    Raises: DataError for a label that the list does not have.
    """
    absent = sorted(set(label_map) - set(images.labels.tolist()))
    if absent:
        known = ", ".join(map(str, np.unique(images.labels)[:20].tolist()))
        raise DataError(f"no record has the label {absent[0]}", place=images.path, hint=f"there are {known}")
    chosen = np.flatnonzero(np.isin(images.labels, list(label_map)))
    return replace(
        images,
        names=tuple(images.names[number] for number in chosen.tolist()),
        labels=np.array([label_map[label] for label in images.labels[chosen].tolist()], np.int64),
        lines=images.lines[chosen] if len(images.lines) else images.lines,
        classes=(),
    )


def write_list(path: str | os.PathLike[str], images: ImageList, records: NDArray[np.int64] | None = None) -> None:
    """Write the records, or some of them, as `path label` lines. Raises: DataError for a path that no line can hold."""
    numbers = range(len(images.names)) if records is None else records.tolist()
    lines = [f"{images.names[number]} {images.labels[number]}\n" for number in numbers]
    # marks of byte order are skipped where a list is read: lists that are joined have them inside
    broken = next((line for line in lines if re.search("[\r\0]|^\ufeff|\n.", line, re.DOTALL)), None)
    if broken is not None:
        message = (
            f"a list cannot hold the path {broken[:-1]!r}, which has a line break or begins with a byte order mark"
        )
        raise DataError(message, hint="rename the file")
    write_text(path, "".join(lines))
