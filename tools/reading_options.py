"""The options of fusion-train and fusion-test that say how data is read."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fusion.data import ReadOptions

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def add_reading_options(to: argparse.ArgumentParser) -> None:
    """Add --workers, --data-budget and --on-bad-record."""
    add = to.add_argument_group("data (the batches stay the same)").add_argument
    add("--workers", type=_count, metavar="N", help="processes that read data which does not fit into memory "
        "(default: half of the cores, 8 at most; 0: none)")  # fmt: skip
    add("--data-budget", type=size, metavar="SIZE", help="memory for the decoded records of a data layer (default 4G)")
    add("--on-bad-record", choices=("fail", "skip"), default="fail", help="skip: the next good record stands in for "
        "one that cannot be read or has another size, and those are counted (default: fail)")  # fmt: skip


def reading_of(options: argparse.Namespace) -> ReadOptions:
    """What was asked for."""
    from fusion.data import ReadOptions
    from fusion.data.decoded_cache import BUDGET

    budget = BUDGET if options.data_budget is None else options.data_budget
    return ReadOptions(options.workers, budget, options.on_bad_record)


def size(text: str) -> int:
    """Bytes from a text like 512M or 4G."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMG]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if found is None:
        raise argparse.ArgumentTypeError(f"not a size: {text!r} (give 512M or 4G)")
    return int(float(found[1]) * _UNITS[found[2].upper()])


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"not a number of processes: {text!r}")
    return int(text)
