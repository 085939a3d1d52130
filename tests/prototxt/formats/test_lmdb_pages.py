"""Damaged LMDBs are refused before the library, which would crash the process, maps them."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("lmdb")

from fusion.data.lmdb_leveldb import Database, open_database, write_database
from fusion.errors import DataError
from prototxt.formats.lmdb_pages import _check_pages, check_lmdb_pages
from prototxt.shapes.sources import database_record

PAGE = 4096
Reading = Callable[[Database], object]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A tree of two levels; every seventh value has pages of its own."""
    records = ((b"%08d" % i, bytes([i % 256]) * (9000 if i % 7 == 0 else 90 + i % 5)) for i in range(300))
    write_database(tmp_path / "db", records, lmdb=True)
    return tmp_path / "db" / "data.mdb"


def newest(data: bytes) -> tuple[int, int]:
    """Place of the newest meta page's values, and the root's page."""
    at = max((16, PAGE + 16), key=lambda at: int.from_bytes(data[at + 128 : at + 136], "little"))
    return at, int.from_bytes(data[at + 112 : at + 120], "little")


def first_leaf(data: bytes, *, big: bool) -> int:
    """Place of a leaf's first node, whose value lies in the page, or in pages of its own."""
    for page in range(2, len(data) // PAGE):
        own, flags, lower = struct.unpack_from("<Q2xHH", data, page * PAGE)
        if own == page and flags == 2:
            for slot in range((lower - 16) // 2):
                (at,) = struct.unpack_from("<H", data, page * PAGE + 16 + 2 * slot)
                if struct.unpack_from("<H", data, page * PAGE + at + 4)[0] == big:
                    return page * PAGE + at
    raise LookupError


def change(data: bytes, where: str) -> bytes:
    meta, root = newest(data)
    places = {
        "page size": (meta + 24, "<I", 0),
        "depth": (meta + 78, "<H", 900),
        "root": (meta + 112, "<Q", 1 << 40),
        "last page": (meta + 120, "<Q", 1 << 40),
        "child": (root * PAGE + struct.unpack_from("<H", data, root * PAGE + 16)[0], "<H", 0xFFF0),
        "head page": (root * PAGE + struct.unpack_from("<H", data, root * PAGE + 16)[0], "<H", 1),
        "circle": (root * PAGE + struct.unpack_from("<H", data, root * PAGE + 16)[0], "<H", root),
        "node": (root * PAGE + 16, "<H", 8),
        "count": (root * PAGE + 12, "<H", 18),
        "key": (first_leaf(data, big=False) + 6, "<H", 60000),
        "length": (first_leaf(data, big=False), "<H", 60000),
        "far value": (first_leaf(data, big=True) + 16, "<Q", 1 << 50),
        "far length": (first_leaf(data, big=True) + 2, "<H", 0xFFFF),
    }
    at, form, value = places[where]
    out = bytearray(data)
    struct.pack_into(form, out, at, value)
    return bytes(out)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("page size", "pages are 0 bytes long|head pages contradict"),
        ("depth", "tree has 900 levels"),
        ("root", "a page is referred to that it does not have"),
        ("last page", r"cut off: it has \d+ of \d+ bytes"),
        ("child", "a page is referred to that it does not have"),
        ("head page", "a page is referred to that it does not have"),
        ("circle", "a page occurs twice"),
        ("node", "a record lies outside of its page"),
        ("count", "page [0-9]+ is damaged"),
        ("key", "a record lies outside of its page"),
        ("length", "a record lies outside of its page"),
        ("far value", "a value lies outside of the file"),
        ("far length", "a value lies outside of the file"),
    ],
)
def test_each_number_that_the_library_trusts(data: Path, where: str, message: str) -> None:
    data.write_bytes(change(data.read_bytes(), where))
    with pytest.raises(DataError, match=f"db: the database is damaged: .*({message})"):
        open_database(str(data.parent), lmdb=True)
    assert database_record(str(data.parent), True, None) == (None, None, None)


@pytest.mark.parametrize("count", [0, 1, 3, 5000])
def test_sound_databases_pass(tmp_path: Path, count: int) -> None:
    write_database(tmp_path / "db", ((b"%05d" % i, b"v" * (i % 40)) for i in range(count)), lmdb=True)
    check_lmdb_pages(str(tmp_path / "db" / "data.mdb"))
    if count:
        found = open_database(str(tmp_path / "db"), lmdb=True)
        assert [len(value) for value in found.values()] == [i % 40 for i in range(count)]


@pytest.mark.parametrize("reading", [lambda found: found.get(7), lambda found: list(found.values())])
def test_an_open_database_that_is_cut_off_does_not_end_the_process(data: Path, reading: Reading) -> None:
    found = open_database(str(data.parent), lmdb=True)
    assert len(found.get(7)) == 9000
    values = found.values()
    assert len(next(values)) == 9000
    os.truncate(data, data.stat().st_size - 1)
    message = r"db:0000000[07]: the database was cut off while it is read: from (\d+) to (?!\1)\d+ bytes"
    for read in (reading, lambda _: next(values)):
        with pytest.raises(DataError, match=message):
            read(found)
    with pytest.raises(DataError, match="db: the database is damaged"):
        open_database(str(data.parent), lmdb=True)


SIZE = 64  # bytes of the pages written here by hand


def page(number: int, *nodes: tuple[int, bytes], flags: int = 2, low: int = 0) -> bytes:
    """Return a page of nodes (start, content); `low` is added to the end of the list of nodes."""
    head = struct.pack(
        "<QHHHH", number, 0, flags, 16 + 2 * len(nodes) + low, min((at for at, _ in nodes), default=SIZE)
    )
    content = bytearray(SIZE)
    content[: len(head)] = head
    for index, (at, node) in enumerate(nodes):
        struct.pack_into("<H", content, 16 + 2 * index, at)
        content[at : at + len(node)] = node
    return bytes(content)


def record(key: int, length: int, kind: int = 0) -> bytes:
    return struct.pack("<HHHH", length & 0xFFFF, length >> 16, kind, key)


def child(number: int) -> bytes:
    return struct.pack("<HHHH", number & 0xFFFF, number >> 16 & 0xFFFF, number >> 32, 0)


def far(number: int) -> bytes:
    return struct.pack("<Q", number)


@pytest.mark.parametrize(
    ("pages", "leaf", "says"),
    [
        ([page(5, (56, record(0, 0)))], True, "a record lies outside of its page"),  # no key
        ([page(5, (54, record(1, 1)))], True, None),
        ([page(5, (54, record(1, 2)))], True, "a record lies outside of its page"),
        ([page(5, (54, record(2, 0)))], True, None),
        ([page(5, (18, record(1, 37)))], True, None),  # full
        ([page(5, (54, record(3, 0)))], True, "a record lies outside of its page"),
        ([page(5, (58, record(1, 0)[:6]))], True, "a record lies outside of its page"),
        ([page(5, (53, record(1, 1)))], True, "a record lies outside of its page"),  # odd
        ([page(5, (54, record(1, 1, 2)))], True, "a record lies outside of its page"),  # another kind
        ([page(5, (40, record(8, 9, 1) + bytes(8) + far(5)))], True, None),
        ([page(5, (40, record(9, 9, 1)))], True, "a record lies outside of its page"),
        ([page(5, (54, record(1, 1)), (40, record(1, 1)))], True, None),
        ([page(5, (54, record(1, 1))), page(6, (54, record(1, 1)), (40, record(9, 9)))], True,
         "a record lies outside of its page"),
        ([page(5, (54, record(1, 1))), page(6, (40, record(9, 9)), (54, record(1, 1)))], True,
         "a record lies outside of its page"),
        ([page(6, (54, record(1, 1)))], True, "page 5 is damaged"),
        ([page(5, (54, record(1, 1)), flags=1)], True, "page 5 is damaged"),
        ([page(5, (54, record(1, 1)), low=1)], True, "page 5 is damaged"),
        ([page(5)], True, "page 5 is damaged"),
        ([page(5, (56, child(7)), flags=1)], False, "page 5 is damaged"),
        ([page(5, (48, child(7)), (56, child(1 << 33)), flags=1)], False, None),
        ([page(5, (48, child(7)), (56, child(8)))], False, "page 5 is damaged"),
        ([page(5, (56, child(7)), (48, struct.pack("<HHHH", 7, 0, 0, 9)), flags=1)], False, "a key lies outside"),
    ],
)  # fmt: skip
def test_the_bounds_of_nodes_in_a_page(pages: list[bytes], leaf: bool, says: str | None) -> None:
    content = np.frombuffer(b"".join(pages), np.uint8).reshape(-1, SIZE)
    numbers = np.arange(5, 5 + len(pages))
    if says is not None:
        with pytest.raises(ValueError, match=says):
            _check_pages(content, numbers, leaf, 99 * SIZE)
    else:
        found = _check_pages(content, numbers, leaf, 99 * SIZE)
        assert found.tolist() == ([] if leaf else [7, 1 << 33])


@pytest.mark.parametrize(
    ("number", "length", "sound"),
    [(8, 48, True), (8, 49, False), (8, 0, True), (9, 0, False), (7, 112, True), (7, 113, False), (1 << 60, 0, False)],
)
def test_values_with_pages_of_their_own_end_in_the_file(number: int, length: int, sound: bool) -> None:
    content = np.frombuffer(page(5, (46, record(2, length, 1) + b"kk" + far(number))), np.uint8).reshape(1, SIZE)
    if sound:
        _check_pages(content, np.array([5]), True, 9 * SIZE)
    else:
        with pytest.raises(ValueError, match="a value lies outside of the file"):
            _check_pages(content, np.array([5]), True, 9 * SIZE)
