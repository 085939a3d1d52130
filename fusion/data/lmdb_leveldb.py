"""LMDB and LevelDB folders: reading records by number, and writing them as Caffe's convert_imageset does."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from fusion.data.file_stamp import stamp_files
from fusion.data.new_folder import new_folder
from fusion.errors import DataError
from prototxt.formats.lmdb_pages import check_lmdb_pages

Put = Callable[[bytes, bytes], None]
_DRIVERS = {
    "lmdb": ("LMDB", "lmdb", ""),
    "plyvel": ("LevelDB", "leveldb", ", or set backend: LMDB if this is an LMDB"),
}
_AT_ONCE = 1000  # records per transaction, as convert_imageset commits them
_FIRST_SIZE = 64 << 20
_DAMAGED = "the database is damaged: copy it again or write it again from its source"
_open: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()  # a process may open an LMDB once only


@dataclass(frozen=True, eq=False)
class Database:
    """A database opened for reading, with its keys in order.

    size  of an LMDB's file in bytes when it was opened: reading after the end of a shorter one ends the process
    """

    path: str
    keys: list[bytes]
    handle: Any
    lmdb: bool
    size: int = 0

    def get(self, index: int) -> bytes:
        """Return the value of record `index`. Raises: DataError when the database is damaged there."""
        key = self.keys[index]
        self._check_size(index)
        try:
            if self.lmdb:
                with self.handle.begin() as transaction:
                    value = transaction.get(key)
            else:
                value = self.handle.get(key, verify_checksums=True)
        except Exception as error:  # the drivers have families of errors of their own
            raise DataError(
                f"the record cannot be read: {_reason(error)}", place=self.place(index), hint=_DAMAGED
            ) from error
        if value is None:
            raise DataError(
                "the record is in the list of keys, but missing",
                place=self.place(index),
                hint=f"{_DAMAGED}, or skip bad records",
            )
        return bytes(value)

    def values(self) -> Iterator[bytes | memoryview]:
        """Yield all values in the order of the keys; those of an LMDB are views, valid until the next one.

        Raises: DataError when an LMDB's file has become shorter.
        """
        if not self.lmdb:
            yield from self.handle.iterator(include_key=False, verify_checksums=True)
            return
        with self.handle.begin(buffers=True) as transaction:
            for index, value in enumerate(transaction.cursor().iternext(keys=False, values=True)):
                yield value
                self._check_size(index)  # before the next one is read

    def _check_size(self, index: int) -> None:
        """Check that the file of an LMDB is as long as it was. Raises: DataError with the place of a record."""
        if self.lmdb and (size := os.stat(lmdb_file(self.path)).st_size) < self.size:
            message = f"the database was cut off while it is read: from {self.size} to {size} bytes"
            raise DataError(message, place=self.place(index), hint=_DAMAGED)

    def name(self, index: int) -> str:
        """Return the key of record `index` as text."""
        return self.keys[index].decode("utf-8", "backslashreplace")

    def place(self, index: int) -> str:
        """Return the place of record `index` for messages."""
        return f"{self.path}:{self.name(index)}"

    def fingerprint(self, settings: bytes) -> str:
        """Return a hash of the files' sizes and times, and of the settings."""
        files = (name for name in sorted(os.listdir(self.path)) if not name.startswith("lock"))
        data = (name for name in files if name.endswith((".mdb", ".ldb", ".sst", ".log")))
        return stamp_files(settings, data, os.path.join(self.path, ""))


def open_database(path: str, *, lmdb: bool) -> Database:
    """Open a database folder; nothing in it is changed. Raises: DataError, also when it is empty."""
    found = _open_lmdb(path) if lmdb else _open_leveldb(path)
    if not found.keys:
        raise DataError("the database is empty", place=path)
    return found


def is_lmdb(path: str) -> bool:
    """Return whether the folder holds an LMDB."""
    return os.path.exists(os.path.join(path, "data.mdb"))


def lmdb_file(path: str) -> str:
    """Return the file of an LMDB, which may have a folder."""
    return os.path.join(path, "data.mdb") if os.path.isdir(path) else path


def _open_lmdb(path: str) -> Database:
    lmdb = _import("lmdb", path)
    where = os.path.realpath(path)
    handle = _open.get(where)
    size = _check_pages(path)  # also of an open one, which may have been cut off since
    if handle is None:
        folder = os.path.isdir(path)
        try:
            handle = lmdb.open(where, readonly=True, lock=False, readahead=False, create=False, subdir=folder)
        except lmdb.Error as error:
            raise _unreadable(path, error) from error
        _open[where] = handle
    try:
        with handle.begin() as transaction:
            keys = [bytes(key) for key in transaction.cursor().iternext(keys=True, values=False)]
    except lmdb.Error as error:
        raise _unreadable(path, error) from error
    return Database(path, keys, handle, lmdb=True, size=size)


def _check_pages(path: str) -> int:
    """Check that the library can read the file without a crash; return its size in bytes. Raises: DataError."""
    try:
        return check_lmdb_pages(lmdb_file(path))
    except ValueError as error:
        raise DataError(f"the database is damaged: {error}", place=path, hint=_DAMAGED) from error
    except OSError as error:
        raise _unreadable(path, error) from error


def _open_leveldb(path: str) -> Database:
    """Open a LevelDB through a folder of links: LevelDB locks and rewrites its folder even when it only reads."""
    plyvel = _import("plyvel", path)
    links = tempfile.mkdtemp(prefix="leveldb-")
    try:
        for entry in os.scandir(path):
            if entry.name not in ("LOCK", "LOG", "LOG.old"):
                os.symlink(os.path.realpath(entry.path), os.path.join(links, entry.name))
        # Without these checks LevelDB leaves out the records of a damaged log, and reads damaged blocks as they are.
        handle = plyvel.DB(links, create_if_missing=False, paranoid_checks=True)
    except (plyvel.Error, OSError) as error:
        shutil.rmtree(links, ignore_errors=True)
        raise _unreadable(path, error) from error
    try:
        keys = list(handle.iterator(include_value=False, verify_checksums=True))
    except plyvel.Error as error:
        shutil.rmtree(links, ignore_errors=True)
        raise _unreadable(path, error) from error
    found = Database(path, keys, handle, lmdb=False)
    weakref.finalize(found, shutil.rmtree, links, ignore_errors=True)
    return found


def _import(package: str, path: str) -> Any:
    try:
        return import_module(package)
    except ImportError as error:
        kind, extra, more = _DRIVERS[package]
        hint = f"pip install 'caffe-fusion[{extra}]'{more}"
        raise DataError(f"{kind} needs the package {package}", place=path, hint=hint) from error


def _reason(error: Exception) -> object:
    """Return the text of an error; plyvel's hold bytes."""
    text = error.args[0] if error.args else error
    return text.decode(errors="replace") if isinstance(text, bytes) else error


def _unreadable(path: str, error: Exception) -> DataError:
    if type(error).__name__ == "CorruptionError":
        hint = _DAMAGED
    elif not os.path.isdir(path):
        hint = "data_param.source is a folder, relative to the working directory"
    elif is_lmdb(path):
        hint = "this is an LMDB: is backend: LMDB set?"
    else:
        hint = "is the database of the kind that data_param.backend names, and closed by its writer?"
    return DataError(f"cannot open the database: {_reason(error)}", place=path, hint=hint)


def write_database(path: str | os.PathLike[str], records: Iterable[tuple[bytes, bytes]], *, lmdb: bool) -> int:
    """Write keys and values to a new database, which gets its name once it is complete; return their number.

    Raises: DataError when that name exists, or it cannot be written, as on a full disk.
    """
    target = os.path.abspath(path)
    count = size = 0
    try:
        with new_folder(path) as folder, _lmdb_writer(folder) if lmdb else _leveldb_writer(folder) as put:
            for key, value in records:
                size += len(key) + len(value)
                put(key, value)
                count += 1
    except _import("lmdb" if lmdb else "plyvel", target).Error as error:
        hint = f"is the disk full? the first {count + 1} records take {size / 1e6:.1f} MB"
        raise DataError(f"cannot write the database: {_reason(error)}", place=target, hint=hint) from error
    return count


@contextmanager
def _lmdb_writer(folder: str) -> Iterator[Put]:
    lmdb = _import("lmdb", folder)
    environment = lmdb.open(folder, map_size=_FIRST_SIZE, sync=False, lock=False)
    waiting: list[tuple[bytes, bytes]] = []

    def commit() -> None:
        while True:
            try:
                with environment.begin(write=True) as transaction:
                    for key, value in waiting:
                        transaction.put(key, value)
            except lmdb.MapFullError:  # the map's size is fixed: enlarge it and write the transaction again
                environment.set_mapsize(2 * environment.info()["map_size"])
            else:
                waiting.clear()
                return

    def put(key: bytes, value: bytes) -> None:
        if len(key) > environment.max_key_size():
            hint = "LMDB takes 511 bytes: shorten the names in the list, or write --leveldb"
            raise DataError(f"the key is {len(key)} bytes long: {key[:60]!r}...", hint=hint)
        waiting.append((key, value))
        if len(waiting) >= _AT_ONCE:
            commit()

    try:
        yield put
        commit()
        environment.sync(True)
    finally:
        environment.close()


@contextmanager
def _leveldb_writer(folder: str) -> Iterator[Put]:
    plyvel = _import("plyvel", folder)
    database = plyvel.DB(
        folder, create_if_missing=True, error_if_exists=True, write_buffer_size=256 << 20, max_open_files=100
    )
    try:
        yield database.put
    finally:
        database.close()
