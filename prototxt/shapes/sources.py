"""The size of the first record of a data source, None if it is missing or unreadable.

The reading packages (Pillow, lmdb, plyvel, h5py) are imported only if a source of their kind exists.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from google.protobuf.message import DecodeError

from prototxt.formats.class_folders import first_image, is_image_folder
from prototxt.schema.messages import Datum
from prototxt.shapes.dimensions import Dim


def listed_image(source: str, root_folder: str) -> tuple[Dim, Dim]:
    """Return height and width of the first picture of an image list (`path label` lines), or of class folders."""
    try:
        if is_image_folder(source):
            return _image_size(Path(root_folder + first_image(source)))[1:]
        line = _first_lines(source, 1)[0].rstrip()
        return _image_size(Path(root_folder + line.rpartition(" ")[0]))[1:]
    except (OSError, ValueError, IndexError):
        return None, None


def window_channels(source: str) -> Dim:
    """Return the channels of the first image of a window file: the third line, after `# 0`."""
    try:
        return int(_first_lines(source, 3)[2])
    except (OSError, ValueError):
        return None


def hdf5_rows(source: str, names: list[str]) -> list[tuple[int, ...] | None]:
    """Return the shape of one row of each data set in the first file of the list `source`."""
    unknown: list[tuple[int, ...] | None] = [None] * len(names)
    try:
        files = " ".join(_first_lines(source, 100)).split()
        if not files or not Path(files[0]).is_file():
            return unknown
        import h5py

        with h5py.File(files[0], "r") as file:
            return [_row(file.get(name)) for name in names]
    except (ImportError, LookupError, RuntimeError, OSError, ValueError, TypeError):  # h5py on damaged files
        return unknown


def _first_lines(source: str, count: int) -> list[str]:
    """Return the first lines of a regular file (a device or pipe may never end), "" after its end.

    Raises: OSError, ValueError.
    """
    if not Path(source).is_file():
        raise FileNotFoundError(source)
    with Path(source).open("rb") as file:
        return [file.readline(1 << 16).decode("utf-8", "surrogateescape") for _ in range(count)]


def _row(dataset: Any) -> tuple[int, ...] | None:
    shape = getattr(dataset, "shape", None)
    return tuple(int(dim) for dim in shape[1:]) if shape else None


def database_record(source: str, lmdb: bool, forced_channels: Dim) -> tuple[Dim, Dim, Dim]:
    """Return channels, height and width of a database's first Datum, for an encoded one those of the picture."""
    if not source or not Path(source).exists():
        return forced_channels, None, None
    record = _first_lmdb(source) if lmdb else _first_leveldb(source)
    try:
        datum = Datum.FromString(record or b"")
        if datum.encoded:
            channels, height, width = _image_size(io.BytesIO(datum.data))
            return forced_channels or channels, height, width
    except (OSError, ValueError, DecodeError):
        return forced_channels, None, None
    if not datum.channels:
        return forced_channels, None, None
    return datum.channels, datum.height, datum.width


def _first_lmdb(source: str) -> bytes | None:
    try:
        import lmdb
    except ImportError:
        return None
    from prototxt.formats.lmdb_pages import check_lmdb_pages

    try:
        folder = Path(source).is_dir()
        check_lmdb_pages(str(Path(source) / "data.mdb" if folder else source), first_only=True)
        with (
            lmdb.open(source, readonly=True, lock=False, subdir=folder) as database,
            database.begin() as view,
            view.cursor() as cursor,
        ):
            return bytes(cursor.value()) if cursor.first() else None
    except (lmdb.Error, ValueError, OSError):
        return None


def _first_leveldb(source: str) -> bytes | None:
    try:
        import plyvel
    except ImportError:
        return None
    try:
        with _untouched(Path(source)) as folder, plyvel.DB(folder, create_if_missing=False) as database:
            return next((bytes(value) for _, value in database), None)
    except (OSError, plyvel.Error):
        return None


@contextmanager
def _untouched(source: Path) -> Iterator[str]:
    """Make a temporary folder of links to the database's files, since LevelDB writes to its folder even to read."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        for file in source.iterdir():
            if file.name not in ("LOCK", "LOG", "LOG.old"):
                (Path(folder) / file.name).symlink_to(file.resolve())
        yield folder


def _image_size(file: Path | BinaryIO) -> tuple[int, int, int]:
    """Return channels, height and width from an image's header."""
    from prototxt.formats.image_files import open_picture

    if isinstance(file, Path) and not file.is_file():
        raise FileNotFoundError(file)
    with open_picture(file) as image:
        return len(image.getbands()) if image.mode == "L" else 3, image.height, image.width
