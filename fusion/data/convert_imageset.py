"""Caffe's databases and mean images without Caffe, as its convert_imageset and compute_image_mean write them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fusion.data.array_images import read_array_images
from fusion.data.array_writers import array_records
from fusion.data.decode_image import UndecodableError, decode_image
from fusion.data.encode_image import encode_image
from fusion.data.image_list import ImageList, read_list
from fusion.data.image_options import ImageOptions, WriteResult, record_order
from fusion.data.lmdb_leveldb import is_lmdb, open_database, write_database
from fusion.errors import DataError, raise_all
from prototxt.errors import WeightsError
from prototxt.formats.datum import Datum, read_datum, write_datum, write_mean

OnBadRecord = Literal["fail", "skip"]
Progress = Callable[[int, int], None]  # records done, records in all
_SHOWN = 20
_SAME = {"jpeg": "jpg"}


@dataclass
class _BadRecords:
    """The errors of records so far; more than `_SHOWN` of them end the conversion unless bad records are skipped."""

    on_bad_record: OnBadRecord
    errors: list[DataError] = field(default_factory=list)

    def note(self, error: DataError) -> None:
        self.errors.append(error)
        if self.on_bad_record == "fail" and len(self.errors) > _SHOWN:
            self.raise_all()

    def raise_all(self) -> None:
        if self.on_bad_record == "fail":
            raise_all(self.errors)


def write_images(
    source: str | os.PathLike[str],
    root: str,
    target: str | os.PathLike[str],
    images: ImageOptions,
    *,
    lmdb: bool = True,
    on_bad_record: OnBadRecord = "fail",
    progress: Progress | None = None,
) -> WriteResult:
    """Write images into a new LMDB or LevelDB: the keys and records of convert_imageset.

    source  a list, a folder of class folders, or images as arrays (see `read_array_images`), which keep their channels
    root    is put before every name of the list, unchanged (`images/`)
    Raises  DataError naming all records that cannot be read (unless they are skipped); then nothing is written
    """
    bad = _BadRecords(on_bad_record)
    arrays = read_array_images(os.fspath(source))
    if arrays is not None:
        return WriteResult(write_database(target, array_records(arrays, images), lmdb=lmdb))
    count = write_database(target, _records(read_list(source), root, images, bad, progress), lmdb=lmdb)
    return WriteResult(count, tuple(bad.errors))


def _records(
    images_list: ImageList, root: str, images: ImageOptions, bad: _BadRecords, progress: Progress | None
) -> Iterator[tuple[bytes, bytes]]:
    total = len(images_list.names)
    first: tuple[int, ...] | None = None
    for number, index in enumerate(record_order(total, images.shuffle)):
        name = images_list.names[index]
        try:
            datum, shape = _datum(root + name, int(images_list.labels[index]), images, images_list.place(index))
            first = first or shape
            if images.check_size and shape != first:
                text = f"this image is {_size(shape)}, the first one {_size(first)}"
                raise DataError(text, place=images_list.place(index), hint="give --resize, or leave --check-size out")
        except DataError as error:
            bad.note(error)
        else:
            if not bad.errors or bad.on_bad_record == "skip":
                yield f"{number:08d}_{name}".encode("utf-8", "surrogateescape"), write_datum(datum)
        if progress is not None and number % 1000 == 999:  # convert_imageset reports every 1000 files
            progress(number + 1, total)
    bad.raise_all()
    if first is None:
        raise DataError("no image of the list can be read", place=images_list.path, hint=bad.errors[0].message)


def _datum(path: str, label: int, images: ImageOptions, place: str) -> tuple[Datum, tuple[int, ...]]:
    """Return the record of one file, and its image's shape (channels, height, width)."""
    try:
        with open(path, "rb") as file:
            data = file.read()
        pixels = decode_image(data, color=not images.gray, size=images.size)
    except OSError as error:
        hint = "paths are ROOT followed by the name in the list, as they stand: a folder ends in /"
        raise DataError(f"cannot read the image {path!r}: {error.strerror}", place=place, hint=hint) from error
    except UndecodableError as error:
        hint = "replace the file, remove the line from the list, or give --on-bad-record skip"
        raise DataError(f"cannot decode the image {path!r}: {error}", place=place, hint=hint) from error
    if not images.encoded:
        channels, height, width = pixels.shape
        return Datum(channels, height, width, label, data=pixels.tobytes()), pixels.shape
    extension = os.path.splitext(path)[1][1:].lower()
    kind = images.encode_type.lower() or extension
    # A file that need not change is stored as it is: encoding it again would lose quality.
    if _SAME.get(kind, kind) == _SAME.get(extension, extension) and not images.gray and images.size is None:
        return Datum(label=label, encoded=True, data=data), pixels.shape
    return Datum(label=label, encoded=True, data=encode_image(pixels, kind)), pixels.shape


def write_mean_image(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    root: str = "",
    size: tuple[int, int] | None = None,
    gray: bool = False,
    on_bad_record: OnBadRecord = "fail",
    progress: Progress | None = None,
) -> WriteResult:
    """Write the mean over all records of a database, or over the images of a list, as a .binaryproto file.

    root, size, gray  for a list only
    The sums are exact; Caffe's float32 sums are the same until one exceeds 2^24.

    Raises: DataError when records cannot be read or differ in size (unless they are skipped).
    """
    place = os.fspath(source)
    records = (
        _database_records(place)
        if os.path.isdir(place)
        else _list_records(read_list(source), root, ImageOptions(size=size, gray=gray))
    )
    bad = _BadRecords(on_bad_record)
    total: NDArray[Any] | None = None
    count = 0
    for place, number, read in records:
        try:
            values = read()
            if total is None:
                total = np.zeros(values.shape, np.int64 if values.dtype == np.uint8 else np.float64)
            if values.shape != total.shape:
                text = f"this record is {_size(values.shape)}, the first one {_size(total.shape)}"
                raise DataError(text, place=place, hint="a mean needs records of one size: resize the images")
        except DataError as error:
            bad.note(error)
            continue
        total += values
        count += 1
        if progress is not None and count % 1000 == 0:
            progress(count, number)
    bad.raise_all()
    if total is None:
        raise DataError("no record can be read", place=place, hint=bad.errors[0].message)
    write_mean(target, total.astype(np.float32) / np.float32(count))
    return WriteResult(count, tuple(bad.errors))


ReadPixels = Callable[[], NDArray[np.generic]]


def _database_records(path: str) -> Iterator[tuple[str, int, ReadPixels]]:
    database = open_database(path, lmdb=is_lmdb(path))
    for index, value in enumerate(database.values()):
        place = database.place(index)
        yield place, len(database.keys), partial(_stored_pixels, bytes(value), place)


def _list_records(images_list: ImageList, root: str, images: ImageOptions) -> Iterator[tuple[str, int, ReadPixels]]:
    for index, name in enumerate(images_list.names):
        place = images_list.place(index)
        yield place, len(images_list.names), partial(_pixels, root + name, images, place)


def _pixels(path: str, images: ImageOptions, place: str) -> NDArray[np.generic]:
    return _datum(path, 0, images, place)[0].array()


def _stored_pixels(record: bytes, place: str) -> NDArray[np.generic]:
    try:
        datum = read_datum(record, place)
        return decode_image(datum.data, color=None) if datum.encoded else datum.array()
    except WeightsError as error:
        raise DataError(error.message, place=place) from error
    except UndecodableError as error:
        raise DataError(f"cannot decode the image: {error}", place=place) from error


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
