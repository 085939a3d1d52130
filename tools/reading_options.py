"""The options of fusion-train and fusion-test for reading data."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fusion.data import ReadOptions

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def add_reading_options(parser: argparse.ArgumentParser) -> None:
    """Add --workers, --data-budget and --on-bad-record."""
    add = parser.add_argument_group("data (the batches stay the same)").add_argument
    add("--workers", type=_count, metavar="N", help="processes that read data larger than memory "
        "(default: half of the cores, 8 at most; 0: none)")  # fmt: skip
    add(
        "--data-budget",
        type=bytes_argument,
        metavar="SIZE",
        help="memory for a data layer's decoded records (default 4G)",
    )
    add("--on-bad-record", choices=("fail", "skip"), default="fail", help="skip: use the next good record instead "
        "of one that cannot be read or has another size, and count those (default: fail)")  # fmt: skip


def read_options(options: argparse.Namespace) -> ReadOptions:
    """Return the options as ReadOptions."""
    from fusion.data import ReadOptions
    from fusion.data.decoded_cache import BUDGET

    # 0 is a budget too: nothing is cached
    budget = BUDGET if options.data_budget is None else options.data_budget
    return ReadOptions(options.workers, budget, options.on_bad_record)


def bytes_argument(text: str) -> int:
    """Return the bytes of a text such as 512M or 4G."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMG]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if match is None:
        raise argparse.ArgumentTypeError(f"not a size: {text!r} (give 512M or 4G)")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"not a number of processes: {text!r}")
    return int(text)
