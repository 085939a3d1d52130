"""The settings by which images become records, and the results of writing them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fusion.errors import DataError


@dataclass(frozen=True)
class ImageOptions:
    """The settings by which images become records.

    size        (height, width) to resize to; None: as they are
    gray        one channel instead of three
    encoded     keep or make compressed files (see `encode_type`) instead of pixels
    encode_type "png", "jpg": of all records; "": by each file's name
    shuffle     a seed to shuffle the list by; None: in the list's order
    check_size  every image must have the first one's size
    """

    size: tuple[int, int] | None = None
    gray: bool = False
    encoded: bool = False
    encode_type: str = ""
    shuffle: int | None = None
    check_size: bool = False


@dataclass(frozen=True)
class WriteResult:
    """The number of records written, and the errors of those that were left out."""

    records: int
    skipped: tuple[DataError, ...] = ()


def record_order(count: int, shuffle: int | None) -> list[int]:
    """Return the order in which records are written: as they are, or shuffled by a seed."""
    order = np.arange(count) if shuffle is None else np.random.default_rng(shuffle).permutation(count)
    found: list[int] = order.tolist()
    return found
