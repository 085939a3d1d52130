"""The options of fusion-train and fusion-test for reading data."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from .arguments import add_options, bytes_argument, natural_int

if TYPE_CHECKING:
    from fusion.data import ReadOptions


def add_reading_options(parser: argparse.ArgumentParser) -> None:
    """Add --workers, --data-budget and --on-bad-record."""
    group = parser.add_argument_group("data (the batches stay the same)")
    add = group.add_argument
    add("--workers", type=natural_int, metavar="N", help="processes that read data larger than memory "
        "(default: half of the cores, 8 at most; 0: none)")  # fmt: skip
    add(
        "--data-budget",
        type=bytes_argument,
        metavar="SIZE",
        help="memory for a data layer's decoded records (default 4G)",
    )
    add_options(group, "--on-bad-record")


def read_options(options: argparse.Namespace) -> ReadOptions:
    """Return the options as ReadOptions."""
    from fusion.data import ReadOptions
    from fusion.data.decoded_cache import BUDGET

    # 0 is a budget too: nothing is cached
    budget = BUDGET if options.data_budget is None else options.data_budget
    return ReadOptions(options.workers, budget, options.on_bad_record)
