"""`Data`: records (Datum messages) from an LMDB or a LevelDB database."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusion.data.decode_image import UndecodableError, decode_image
from fusion.data.decoded_cache import BUDGET, Pixels, Store, Stores, shared_store
from fusion.data.lmdb_leveldb import Database, open_database
from fusion.data.sampler import Order, random_skip
from fusion.data.source import ImageSource, record_check
from fusion.data.source_config import SourceConfig
from fusion.data.transforms import read_transform
from fusion.errors import DataError, raise_all

_SHOWN = 20
_LABEL = 5 << 3  # Datum.label's tag: a number
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


def open_data(config: SourceConfig, *, budget: int = BUDGET, stores: Stores | None = None) -> ImageSource:
    """Open the source of a `Data` layer; `stores` are those of layers opened before.

    Raises: DataError for a database that cannot be opened or is empty, and for settings that do not fit its records.
    """
    layer, phase, seed = config.layer, config.phase, config.seed
    param = layer.data_param
    name = f"layer '{layer.name}'"
    if not param.batch_size:
        raise DataError("batch_size must be at least 1", place=name, hint="give data_param.batch_size")
    force_color, force_gray = layer.transform_param.force_color, layer.transform_param.force_gray
    if force_color and force_gray:
        raise DataError("force_color and force_gray are both set", place=name, hint="keep one of the two")
    database = open_database(param.source, lmdb=param.backend == param.LMDB)
    color = True if force_color or param.force_encoded_color else False if force_gray else None
    transform = read_transform(layer.transform_param, phase, name)
    check = record_check(transform, database.place, alone=param.batch_size == 1)
    store = shared_store(
        stores,
        ("Data", param.source, param.backend, color),
        check,
        lambda: Store(
            lambda index: _decode(database, index, color),
            len(database.keys),
            budget=budget,
            skip=config.skips,
            check=check,
        ),
    )
    transform.check(store.first.shape, database.place(0))
    settings = layer.transform_param.SerializeToString(deterministic=True) + phase.encode()
    return ImageSource(
        tops=tuple(layer.top),
        store=store,
        transform=transform,
        sequence=Order(len(database.keys), param.batch_size, skip=random_skip(param.rand_skip, seed)),
        keys=[database.name(index) for index in range(len(database.keys))],
        read_labels=lambda: _labels(database, skip=config.skips),
        where=database.place,
        hash=lambda: database.fingerprint(settings),
        config=config,
        seed=seed,
    )


def _decode(database: Database, index: int, color: bool | None) -> Pixels:
    datum = _datum(database, index)
    if datum.encoded:
        try:
            return decode_image(datum.data, color=color)
        except UndecodableError as error:
            raise DataError(f"cannot decode the image: {error}", place=database.place(index)) from error
    shape = (datum.channels, datum.height, datum.width)
    values: Pixels = np.frombuffer(datum.data, np.uint8) if datum.data else np.array(datum.float_data, np.float32)
    if values.size != int(np.prod(shape)) or not values.size:
        raise DataError(f"{values.size} values for the shape {shape}", place=database.place(index))
    return values.reshape(shape)


def _datum(database: Database, index: int) -> Any:
    from google.protobuf.message import DecodeError

    from prototxt.schema.messages import Datum

    try:
        return Datum.FromString(database.get(index))
    except DecodeError as error:
        raise _no_datum(database, index) from error


def _no_datum(database: Database, index: int) -> DataError:
    hint = "write the database with `fusion-convert images`"
    return DataError("the record is no Datum", place=database.place(index), hint=hint)


def _labels(database: Database, *, skip: bool) -> NDArray[np.int64]:
    """Return all labels int64 [N] without decoding the images; 0 for a record that is no Datum and will be skipped.

    Raises: DataError
    """
    labels = np.zeros(len(database.keys), np.int64)
    errors: list[DataError] = []
    for index, value in enumerate(database.values()):
        try:
            labels[index] = datum_label(value)
        except (IndexError, ValueError, OverflowError):
            errors.append(_no_datum(database, index))
        if len(errors) > _SHOWN and not skip:
            break
    if not skip:
        raise_all(errors)
    return labels


def datum_label(record: bytes | memoryview) -> int:
    """Return the label of a Datum without parsing its other fields.

    Raises: ValueError or IndexError for a record that is no Datum
    """
    at, end, label = 0, len(record), 0
    while at < end:
        key, at = _varint(record, at)
        kind = key & 7
        if kind == _VARINT:
            value, at = _varint(record, at)
            if key == _LABEL:
                label = (value & 0xFFFFFFFF) - ((value & 0x80000000) << 1)  # int32 in two's complement
        elif kind == _LENGTH:
            length, at = _varint(record, at)
            at += length
        elif kind in (_FIXED32, _FIXED64):
            at += 4 if kind == _FIXED32 else 8
        else:
            raise ValueError("no Datum")
    if at != end:
        raise ValueError("no Datum")
    return label


def _varint(record: bytes | memoryview, at: int) -> tuple[int, int]:
    """Return a varint, 7 bits per byte and the lowest first, and the position after it."""
    value = shift = 0
    while True:
        byte = record[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("no Datum")
