"""`Data`: records (Datum messages) from an LMDB or a LevelDB database."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fusion.data.order import Order, random_skip
from fusion.data.pictures import UndecodableError, decode
from fusion.data.source import PictureSource
from fusion.data.store import BUDGET, Pixels, Store
from fusion.data.transforms import read_transform
from fusion.errors import DataError

if TYPE_CHECKING:
    from prototxt.messages import LayerParameter


@dataclass(frozen=True, eq=False)
class Database:
    """A database opened for reading: its keys in order, and how to get a value."""

    path: str
    keys: list[bytes]
    handle: Any
    lmdb: bool

    def get(self, index: int) -> bytes:
        """The value of record `index`."""
        key = self.keys[index]
        if not self.lmdb:
            value: bytes = self.handle.get(key)
            return value
        with self.handle.begin() as transaction:
            return bytes(transaction.get(key))

    def place(self, index: int) -> str:
        """Where record `index` stands, for messages."""
        return f"{self.path}:{_name(self.keys[index])}"


def open_data(
    layer: LayerParameter, phase: str, *, root: str | None = None, seed: int = 0, budget: int = BUDGET
) -> PictureSource:
    """The source of a `Data` layer.

    Raises: DataError for a database that cannot be opened or is empty, and for settings that do not fit its records.
    """
    param = layer.data_param
    name = f"layer '{layer.name}'"
    if not param.batch_size:
        raise DataError("batch_size must be at least 1", place=name, hint="give data_param.batch_size")
    force_color, force_gray = layer.transform_param.force_color, layer.transform_param.force_gray
    if force_color and force_gray:
        raise DataError("force_color and force_gray are both set", place=name, hint="keep one of the two")
    database = _open_lmdb(param.source) if param.backend == param.LMDB else _open_leveldb(param.source)
    if not database.keys:
        raise DataError("the database is empty", place=param.source)
    color = True if force_color or param.force_encoded_color else False if force_gray else None
    transform = read_transform(layer.transform_param, phase, name)
    labels = np.zeros(len(database.keys), np.int64)

    def fetch(index: int) -> Pixels:
        pixels, _ = _decode(database, index, color)
        return pixels

    for index in range(len(database.keys)):
        labels[index] = _datum(database, index).label
    store = Store(fetch, len(database.keys), budget=budget)
    transform.check(store.first.shape, database.place(0))
    skip = random_skip(param.rand_skip, seed)
    settings = layer.transform_param.SerializeToString(deterministic=True) + phase.encode()
    return PictureSource(
        tops=tuple(layer.top),
        store=store,
        transform=transform,
        sequence=Order(len(database.keys), param.batch_size, skip=skip),
        keys=[_name(key) for key in database.keys],
        labels=labels,
        where=database.place,
        hash=lambda: _fingerprint(database, settings),
        seed=seed,
    )


def _datum(database: Database, index: int) -> Any:
    from google.protobuf.message import DecodeError

    from prototxt.messages import Datum

    datum = Datum()
    try:
        datum.ParseFromString(database.get(index))
    except DecodeError as error:
        hint = "write the database with convert_imageset"
        raise DataError("the record is no Datum", place=database.place(index), hint=hint) from error
    return datum


def _decode(database: Database, index: int, color: bool | None) -> tuple[Pixels, int]:
    datum = _datum(database, index)
    if datum.encoded:
        try:
            return decode(datum.data, color=color), datum.label
        except UndecodableError as error:
            raise DataError(f"cannot decode the picture: {error}", place=database.place(index)) from error
    shape = (datum.channels, datum.height, datum.width)
    values: Pixels = np.frombuffer(datum.data, np.uint8) if datum.data else np.array(datum.float_data, np.float32)
    if values.size != int(np.prod(shape)) or not values.size:
        raise DataError(f"{values.size} values for the shape {shape}", place=database.place(index))
    return values.reshape(shape), datum.label


def _open_lmdb(path: str) -> Database:
    try:
        import lmdb
    except ImportError as error:
        raise DataError("LMDB needs the package lmdb", place=path, hint="pip install 'caffe-fusion[lmdb]'") from error
    try:
        handle = lmdb.open(path, readonly=True, lock=False, readahead=False, create=False)
    except lmdb.Error as error:
        raise _unreadable(path, error) from error
    with handle.begin() as transaction:
        keys = [bytes(key) for key in transaction.cursor().iternext(keys=True, values=False)]
    return Database(path, keys, handle, lmdb=True)


def _open_leveldb(path: str) -> Database:
    try:
        import plyvel
    except ImportError as error:
        hint = "pip install 'caffe-fusion[leveldb]', or set backend: LMDB if this is an LMDB"
        raise DataError("LevelDB needs the package plyvel", place=path, hint=hint) from error
    try:
        handle = plyvel.DB(path, create_if_missing=False)
    except (plyvel.Error, OSError) as error:
        raise _unreadable(path, error) from error
    return Database(path, list(handle.iterator(include_value=False)), handle, lmdb=False)


def _unreadable(path: str, error: Exception) -> DataError:
    if not os.path.isdir(path):
        hint = "data_param.source is a folder, relative to the working directory"
    elif os.path.exists(os.path.join(path, "data.mdb")):
        hint = "this is an LMDB: is backend: LMDB set?"
    else:
        hint = "is the database of the kind that data_param.backend names, and closed by its writer?"
    return DataError(f"cannot open the database: {error}", place=path, hint=hint)


def _name(key: bytes) -> str:
    return key.decode("utf-8", "backslashreplace")


def _fingerprint(database: Database, settings: bytes) -> str:
    digest = hashlib.sha256(settings)
    for entry in sorted(os.scandir(database.path), key=lambda entry: entry.name):
        if entry.name.endswith((".mdb", ".ldb", ".sst")) and not entry.name.startswith("lock"):
            found = entry.stat()
            digest.update(f"{entry.name}\0{found.st_size}\0{found.st_mtime_ns}\n".encode())
    return digest.hexdigest()
