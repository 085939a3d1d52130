"""Parsing and printing: megabytes per second by size, memory against the text's size, and protobuf's own text_format.

python benchmarks/parse.py [MEGABYTES ...]
"""

from __future__ import annotations

import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

from google.protobuf import text_format
from timing import interleaved, machine, seconds, table

import prototxt
from prototxt.schema.messages import NetParameter

HERE = Path(__file__).parent
NET = HERE.parent / "examples" / "mnist_odd_even" / "lenet_odd_train_val.prototxt"
PEER_LIMIT = 2_000_000  # characters: text_format is slow


def main() -> int:
    net = NET.read_text().replace('name: "LeNet"', "", 1)  # a net has one name, however often its layers recur
    rows = []
    for megabytes in [float(size) for size in sys.argv[1:]] or [0.1, 1, 10, 50]:
        text = net * max(1, round(megabytes * 1e6 / len(net)))
        rivals = {
            "parse": lambda text=text: seconds(lambda: str(prototxt.parse(text))),
            "cpu": lambda text=text: cpu_seconds(lambda: str(prototxt.parse(text))),
        }
        if len(text) <= PEER_LIMIT:
            rivals["peer"] = lambda text=text: seconds(lambda: text_format.Parse(text, NetParameter()))
        figures = interleaved(rivals, rounds=5)
        speed = {name: f"{len(text) / 1e6 / value:.1f}" for name, value in figures.items()}
        rows.append(
            (f"{len(text) / 1e6:.1f}", speed["parse"], speed["cpu"], speed.get("peer", "-"), f"{memory(text):.1f}")
        )
    print(
        table(
            ("MB", "parse + print, MB/s", "MB per CPU second", "text_format, MB/s (no printing)", "memory / text"), rows
        )
    )
    print(f"\n{machine()}")
    return 0


def cpu_seconds(call: Callable[[], object]) -> float:
    """Return the processor seconds of one call, which other load changes least."""
    start = time.process_time()
    call()
    return time.process_time() - start


def memory(text: str) -> float:
    """Return the peak memory of parsing, in sizes of the text."""
    text = text[:5_000_000]
    tracemalloc.start()
    prototxt.parse(text, tolerant=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / len(text)


if __name__ == "__main__":
    sys.exit(main())
