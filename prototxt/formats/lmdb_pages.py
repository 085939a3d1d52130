"""Check the pages of an LMDB before the library maps them: it trusts every number in them, and would crash.

Only the pages of the tree are read, which listing the keys reads as well, and none of the large values.
Layout: lmdb.h and mdb.c of LMDB 0.9 (MDB_page, MDB_node, MDB_meta), little endian, 64 bit.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MAGIC, _VERSION = 0xBEEFC0DE, 1
_HEADER, _NODE = 16, 8  # bytes of a page's and of a node's header
_BRANCH, _LEAF, _META = 0x01, 0x02, 0x08  # flags of a page
_KINDS = 0x6F  # all kinds of pages; the other flags are of no use on disk
_BIG_DATA = 0x01  # flag of a node whose value lies in pages of its own
_EMPTY = (1 << 64) - 1
_DEEPEST = 32  # CURSOR_STACK: the library's cursors hold no more levels
_AT_ONCE = 1024  # pages
_SIZES = tuple(1 << bits for bits in range(9, 17))

Pages = NDArray[np.uint8]
Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class _Meta:
    """A meta page: of the tree the depth, root and flags, and the last page in use."""

    page_size: int
    depth: int
    flags: int
    root: int
    last: int
    transaction: int


def check_lmdb_pages(path: str, *, first_only: bool = False) -> int:
    """Check the file of an LMDB, or the pages with its first record only; return its size in bytes.

    Raises: ValueError where the library would read outside of the file; OSError.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        first = _meta(file.read(_HEADER + 136))
        if first is None:
            return size  # another version or kind of file, which the library refuses by itself
        if size < 2 * first.page_size:
            raise ValueError(f"it is cut off: it has {size} of {(first.last + 1) * first.page_size} bytes")
        file.seek(first.page_size)
        second = _meta(file.read(_HEADER + 136))
    if second is None or second.page_size != first.page_size:
        raise ValueError("its two head pages contradict each other")
    newest = max((first, second), key=lambda meta: meta.transaction)
    needed = (newest.last + 1) * newest.page_size
    if size < needed:
        raise ValueError(f"it is cut off: it has {size} of {needed} bytes")
    if newest.root != _EMPTY:
        _check_tree(np.memmap(path, np.uint8, "r", shape=(newest.last + 1, newest.page_size)), newest, size, first_only)
    return size


def _meta(data: bytes) -> _Meta | None:
    """Parse a meta page; None for a file that is no LMDB of this layout. Raises: ValueError for a bad page size."""
    if len(data) < _HEADER + 136:
        return None
    flags, magic, version = struct.unpack_from("<10xH4xII", data)
    if magic != _MAGIC or version != _VERSION or not flags & _META:
        return None
    # The map's address and size, the tree of free pages (of which the first number is the page size), the main tree.
    page_size, tree_flags, depth, root, last, transaction = struct.unpack_from("<16xI44x4xHH32xQQQ", data, _HEADER + 8)
    if page_size not in _SIZES:
        raise ValueError(f"its pages are {page_size} bytes long")
    return _Meta(page_size, depth, tree_flags, root, last, transaction)


def _check_tree(pages: Pages, meta: _Meta, size: int, first_only: bool) -> None:
    """Walk down the tree, a level at a time."""
    if meta.flags or not 1 <= meta.depth <= _DEEPEST:
        raise ValueError(f"its tree has {meta.depth} levels and the flags {meta.flags:#x}")
    level = np.array([meta.root], np.uint64)
    seen = np.zeros(len(pages), bool)
    for depth in range(meta.depth):
        if (level >= len(pages)).any() or (level < 2).any():
            raise ValueError("a page is referred to that it does not have")
        numbers = level.astype(np.int64)
        # A page with two parents could lead in circles.
        if seen[numbers].any() or len(np.unique(numbers)) < len(numbers):
            raise ValueError("a page occurs twice")
        seen[numbers] = True
        leaf = depth == meta.depth - 1
        parts = [numbers[i : i + _AT_ONCE] for i in range(0, len(numbers), _AT_ONCE)]
        level = np.concatenate([_check_pages(pages[part], part, leaf, size) for part in parts])
        level = level[:1] if first_only else level


def _check_pages(pages: Pages, numbers: Numbers, leaf: bool, size: int) -> NDArray[np.uint64]:
    """Check pages of one level; returns the pages that branches refer to."""
    page_size = pages.shape[1]
    words = pages.view("<u2").astype(np.int64)
    own = pages[:, :8].copy().view("<u8")[:, 0]
    flags, lower, upper = words[:, 5], words[:, 6], words[:, 7]
    count = (lower - _HEADER) // 2
    least = 1 if leaf else 2  # the library aborts the process at a branch page with a single node
    sound = (own == numbers) & (flags & _KINDS == (_LEAF if leaf else _BRANCH)) & (count >= least)
    if not (sound & (lower % 2 == 0) & (lower <= upper) & (upper <= page_size)).all():
        raise ValueError(f"page {_first(numbers, ~sound)} is damaged")
    page, slot = np.nonzero(np.arange(count.max()) < count[:, None])
    start = words[page, _HEADER // 2 + slot]
    if not ((start >= upper[page]) & (start + _NODE <= page_size) & (start % 2 == 0)).all():
        raise ValueError("a record lies outside of its page")
    low, high, kind, key = (words[page, start // 2 + i] for i in range(4))
    data = start + _NODE + key
    if not leaf:
        if (data > page_size).any():
            raise ValueError("a key lies outside of its page")
        return (low | high << 16 | kind << 32).astype(np.uint64)
    length, big = low | high << 16, kind == _BIG_DATA
    # Where a value has pages of its own, the number of the first one stands in its place.
    if not ((data + np.where(big, 8, length) <= page_size) & ((kind == 0) | big) & (key > 0)).all():
        raise ValueError("a record lies outside of its page")
    at = data[big][:, None] + np.arange(8)
    far = pages[page[big][:, None], at].copy().view("<u8")[:, 0]
    inside = far < np.uint64(size // page_size)
    if not inside.all() or (far.astype(np.int64) * page_size + _HEADER + length[big] > size).any():
        raise ValueError("a value lies outside of the file")
    return np.array([], np.uint64)


def _first(numbers: Numbers, wrong: NDArray[Any]) -> int:
    return int(numbers[np.argmax(wrong)])
