"""The readers of training data as fuzz targets: lists, images, HDF5, LMDB, LevelDB and window files."""

from __future__ import annotations

import io
import os
import re
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import h5py
import lmdb
import numpy as np
import plyvel
from PIL import Image

from fusion.composition.list_checks import image_list_labels
from fusion.data.decode_image import UndecodableError, decode_image
from fusion.data.fast_gray_decode import gray_pixels
from fusion.data.hdf5_data import open_hdf5_data
from fusion.data.image_list import read_list
from fusion.data.lmdb_leveldb import Database, open_database
from fusion.data.source_config import SourceConfig
from fusion.data.transforms import Transform
from fusion.data.window_files import read_windows
from fusion.nets.build import build
from fusion.nets.inputs import ImagePreparation
from fusion.pycaffe.io import load_image
from fusion.report.images import data_uri
from fusion.serving.images import MOST_PIXELS, Refusal, check_picture
from prototxt import filter_net, load_net, parse
from prototxt.errors import PlacedError
from prototxt.schema.messages import LayerParameter
from prototxt.shapes.sources import database_record, hdf5_rows, listed_image, window_channels
from prototxt.text.class_names import read_names


def image_list(path: Path) -> None:
    """An image list, its labels as composing compares them, and the size of its first image."""
    listed_image(str(path), "")
    image_list_labels(str(path))
    read_list(path)


def labels(path: Path) -> None:
    """A list of class names."""
    read_names(path)


def image(path: Path) -> None:
    """An image of a data layer in colour, gray and as it is, and in a report."""
    data = path.read_bytes()
    for color in (True, False, None):
        try:
            pixels = decode_image(data, color=color)
        except UndecodableError:
            continue
        assert pixels.dtype == np.uint8
        assert pixels.shape[0] in (1, 3)
    data_uri(path)


def script_image(path: Path) -> None:
    """An image that a pycaffe script loads, in colour and gray."""
    for color in (True, False):
        pixels = load_image(path, color)
        assert pixels.shape[2] == (3 if color else 1)
        assert pixels.dtype == np.float32


def gray(path: Path) -> None:
    """A gray image by the short way, and by Pillow's: the same pixels, or none by the short way."""
    data = path.read_bytes()
    pixels = gray_pixels(data)
    if pixels is not None:
        with Image.open(io.BytesIO(data)) as opened:
            assert np.array_equal(np.asarray(opened.convert("L")), pixels)


def upload(path: Path) -> None:
    """An image sent to the page."""
    data = path.read_bytes()
    try:
        check_picture(data)
    except Refusal:
        return
    ImagePreparation(True, (4, 4), Transform()).tensor([data])


def windows(path: Path) -> None:
    """A window file."""
    window_channels(str(path))
    read_windows(path, fg_threshold=0.5, bg_threshold=0.5)


def hdf5_data(path: Path) -> None:
    """The rows of an HDF5Data layer, at once and piecewise."""
    listed = path.with_name("list.txt")
    listed.write_text(str(path))
    hdf5_rows(str(listed), ["data", "label"])
    layer = LayerParameter(name="data", type="HDF5Data", top=["data", "label"])
    layer.hdf5_data_param.source, layer.hdf5_data_param.batch_size = str(listed), 2
    for bound in (1 << 30, 0):
        try:
            source = open_hdf5_data(SourceConfig(layer, "TRAIN"), budget=bound)
            source.batch(np.arange(2))
        except PlacedError:
            continue


def lmdb_database(path: Path) -> None:
    """All records of an LMDB."""
    # A name of its own: an LMDB that is open already is not opened again, and must not change.
    own = path.rename(path.with_name(os.urandom(8).hex()))
    try:
        database_record(str(own), True, None)
        _read_all(open_database(str(own), lmdb=True))
    finally:
        own.unlink()


def leveldb_database(path: Path) -> None:
    """All records of a LevelDB of which one file, named by the input's first line, has the bytes behind that line."""
    name, _, content = path.read_bytes().partition(b"\n")
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        for own, sound in leveldb_files().items():
            Path(folder, own).write_bytes(content if own.encode() == name.removeprefix(_LEVELDB) else sound)
        database_record(folder, False, None)
        _read_all(open_database(folder, lmdb=False))


def _read_all(opened: Database) -> None:
    sum(len(value) for value in opened.values())
    for index in range(min(len(opened.keys), 300)):
        opened.get(index)


def infogain(path: Path) -> None:
    """The matrix of an InfogainLoss layer."""
    build(filter_net(load_net(parse(_INFOGAIN.replace("FILE", str(path)))), phase="TRAIN"), phase="TRAIN")


TARGETS: dict[str, Callable[[Path], None]] = {
    "image_list": image_list,
    "labels": labels,
    "image": image,
    "gray": gray,
    "script_image": script_image,
    "upload": upload,
    "windows": windows,
    "hdf5_data": hdf5_data,
    "lmdb": lmdb_database,
    "leveldb": leveldb_database,
    "infogain": infogain,
}
# Bytes that an image of the most pixels takes: its colours as they are, converted, and as planes.
ROOM = {"image": 12 * Image.MAX_IMAGE_PIXELS * 2, "upload": 12 * MOST_PIXELS,
        "script_image": 40 * Image.MAX_IMAGE_PIXELS * 2}  # fmt: skip


# -- seeds: small sound files of each kind ----------------------------------------------------------------------------

_LEVELDB = b"LEVELDB "
_INFOGAIN = """
layer { name: "data" type: "Input" top: "data" top: "label"
  input_param { shape { dim: 3 dim: 2 } shape { dim: 3 } } }
layer { name: "loss" type: "InfogainLoss" bottom: "data" bottom: "label" infogain_loss_param { source: "FILE" } }
"""
_WINDOWS = b"""# 0
a.jpg
3
20
30
3
1 0.9 0 0 9 9
2 0.6 3 3 19 15
0 0.1 5 5 9 9
# 1
b c.jpg
3
20
30
1
1 0.7 1 2 3 4
"""


def seeds(folder: Path) -> dict[str, list[bytes]]:
    """Small sound files for each target."""
    images = _images()
    files = [_LEVELDB + name.encode() + b"\n" + content for name, content in leveldb_files().items()]
    return {
        "image_list": [b"a/b.png 0\nc d.png 3\r\n\xff\xfe.png 12\n"],
        "labels": [b"zero\none\n\xc3\xa9\n"],
        "image": images,
        "gray": images[:2],
        "script_image": images,
        "upload": images,
        "windows": [_WINDOWS],
        "hdf5_data": _hdf5_data(folder),
        "lmdb": _lmdb(folder),
        "leveldb": files,
        "infogain": [b"\x08\x01\x10\x01\x18\x02\x20\x02\x2a\x10" + np.ones(4, "<f4").tobytes()],
    }


def _images() -> list[bytes]:
    """Return a gray PNG and JPEG, then one of every other kind."""
    noise = np.random.default_rng(0).integers(0, 255, (9, 11, 4)).astype(np.uint8)
    whole = Image.fromarray(noise)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    kinds = [
        ("L", "PNG", {}),
        ("L", "JPEG", {}),
        ("RGB", "JPEG", {"exif": exif, "progressive": True}),
        ("CMYK", "JPEG", {}),
        ("P", "PNG", {}),
        ("RGBA", "PNG", {}),
        ("I;16", "PNG", {}),
        ("RGB", "WEBP", {}),
        ("P", "GIF", {}),
        ("RGB", "BMP", {}),
        ("RGB", "TIFF", {"compression": "tiff_lzw"}),
        ("L", "TIFF", {"compression": "jpeg"}),
        ("L", "PPM", {}),
    ]
    found = []
    for mode, form, options in kinds:
        out = io.BytesIO()
        image = Image.fromarray(noise[..., 0].astype(np.uint16) << 8) if mode == "I;16" else whole.convert(mode)
        image.save(out, form, **options)
        found.append(out.getvalue())
    return found


def _hdf5_data(folder: Path) -> list[bytes]:
    found = []
    for options in ({}, {"chunks": True, "compression": "gzip", "shuffle": True}):
        path = folder / "data.h5"
        with h5py.File(path, "w") as file:
            file.create_dataset("data", data=np.ones((8, 2, 3), "f4"), **options)
            file.create_dataset("label", data=np.arange(8, dtype="i8"), **options)
        found.append(path.read_bytes())
    return found


def _lmdb(folder: Path) -> list[bytes]:
    where = folder / "lmdb"
    with lmdb.open(str(where), map_size=1 << 20, lock=False) as environment, environment.begin(write=True) as put:
        for number in range(60):
            put.put(b"%08d" % number, bytes([number]) * (90 if number % 7 else 5000))
    return [(where / "data.mdb").read_bytes()]


@cache
def leveldb_files() -> dict[str, bytes]:
    """The files of a LevelDB: records in a table, some of several blocks, and others in the log only."""
    with tempfile.TemporaryDirectory() as folder:
        for start in (0, 60):
            database = plyvel.DB(folder, create_if_missing=True)
            for number in range(start, start + 60):
                database.put(b"%08d" % number, os.urandom(9) * (10 if number % 7 else 500))
            database.close()
        return {
            path.name: path.read_bytes()
            for path in sorted(Path(folder).iterdir())
            if re.fullmatch(r"CURRENT|MANIFEST-\d+|\d+\.(ldb|log)", path.name)
        }
