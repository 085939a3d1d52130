"""The labels of what a data layer reads, as far as they are here and can be looked at without reading the pictures."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from fusion.composition.lists import labels_in_list
from fusion.composition.net_text import Layer
from fusion.composition.preprocessing import PARAMS
from fusion.composition.sources import PreparedSource
from fusion.errors import DataError

_LOOKED_AT = 1000  # records of a database, each of which is a page to fetch from the disk


@dataclass(frozen=True)
class Labels:
    """The labels of the first records, in order, and how many records there are."""

    values: tuple[str, ...]
    records: int

    @property
    def whole(self) -> bool:
        """Whether these are all."""
        return len(self.values) == self.records


def labels_of(part: PreparedSource, layer: Layer, path: str | None) -> Labels | None:
    """The labels that a data layer reads from this list or database; None where they are not here or not known."""
    if path is None or not os.path.exists(path):
        return None
    try:
        if layer.type == "Data":
            return _in_database(path, _says_lmdb(layer))
        if layer.type == "HDF5Data":
            return _in_hdf5(path, [top for top in layer.tops if top not in part.branch.inputs])
    except (DataError, OSError, ImportError):
        return None  # whoever reads the records says what is wrong with them
    return labels_in_image_list(path) if layer.type == "ImageData" else None


def labels_in_image_list(path: str) -> Labels | None:
    """The labels of an image list, None where it is not here."""
    found = labels_in_list(path)
    return Labels(tuple(map(_plain, found)), len(found)) if found else None


def _plain(label: str) -> str:
    return str(int(label)) if label.lstrip("+-").isdecimal() else label


def _says_lmdb(layer: Layer) -> bool:
    blocks = layer.message.messages(PARAMS[layer.type])
    return bool(blocks) and blocks[-1].string("backend") in ("LMDB", "1")


def _in_database(path: str, lmdb: bool) -> Labels | None:
    from fusion.data.data_layer import datum_label
    from fusion.data.lmdb_leveldb import open_database

    database = open_database(path, lmdb=lmdb)
    try:
        values = tuple(str(datum_label(value)) for value in islice(database.values(), _LOOKED_AT))
    except (IndexError, ValueError, OverflowError):
        return None
    return Labels(values, len(database.keys))


def _in_hdf5(path: str, tops: Iterable[str]) -> Labels | None:
    """The only dataset beside the inputs, where it holds a whole number per record."""
    import h5py

    (label, *others) = [*tops, None]
    if label is None or others != [None]:
        return None
    values: list[str] = []
    with open(path, encoding="utf-8") as file:
        names = [line.strip() for line in file if line.strip()]
    for name in names:
        with h5py.File(name, "r") as file:
            found = file.get(label)
            if not isinstance(found, h5py.Dataset) or found.ndim < 1 or found.size != len(found):
                return None
            row = found[:].reshape(-1)
            if (row != row.round()).any():
                return None
            values += [str(int(value)) for value in row]
    return Labels(tuple(values), len(values)) if values else None
