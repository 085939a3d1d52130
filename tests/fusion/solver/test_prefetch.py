"""Reading ahead: order, errors, and threads that are gone when nobody reads any more."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from fusion.solver.prefetch import ahead

_ENDS_EARLY = """
import itertools, torch
from fusion.solver.prefetch import ahead
x = torch.randn(800, 800)
items = ahead(x @ x for _ in itertools.count())
for _ in range(5):
    next(items)
"""


def readers() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "prefetch"}


@pytest.fixture
def others() -> set[threading.Thread]:
    """Readers of solvers that other tests have not closed."""
    return readers()


def test_items_come_in_order_and_the_thread_ends_with_them(others: set[threading.Thread]) -> None:
    assert list(ahead(iter(range(10)), depth=2)) == list(range(10))
    assert readers() <= others


def test_an_error_comes_where_its_item_was_due_and_again_afterwards(others: set[threading.Thread]) -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("second")

    read = ahead(items())
    assert next(read) == 1
    for _ in range(2):
        with pytest.raises(ValueError, match="second"):
            next(read)
    assert readers() <= others


def test_closing_stops_the_thread_and_the_items(others: set[threading.Thread]) -> None:
    closed = []

    def items() -> Iterator[int]:
        try:
            yield from itertools.count()
        finally:
            closed.append(True)

    read = ahead(items(), depth=2)
    assert next(read) == 0
    read.close()
    assert readers() <= others
    assert closed == [True]
    assert list(read) == []


def test_a_reader_that_is_forgotten_leaves_no_thread(others: set[threading.Thread]) -> None:
    read = ahead(itertools.count(), depth=1)
    next(read)
    del read
    assert readers() <= others


@pytest.mark.slow
def test_a_process_that_ends_while_a_batch_is_computed_ends_well() -> None:
    """Without the join, every such process is aborted."""
    ended = subprocess.run([sys.executable, "-c", _ENDS_EARLY], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
