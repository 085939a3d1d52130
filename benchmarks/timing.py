"""How the benchmarks measure: rivals take turns, and medians are compared.

The machines are shared and their speed drifts, so a ratio is only good between runs of the same minutes.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Run:
    """One finished process: wall seconds, CPU seconds, and the peak of its resident memory in MiB."""

    wall: float
    cpu: float
    peak_mib: float


def process(command: Sequence[str], *, cwd: str | None = None, warnings: bool = False) -> Run:
    """Run a command to its end and take the operating system's account of it.

    As after any usual installation, modules are compiled once and not each time.

    Raises: subprocess.CalledProcessError when it fails.
    """
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    start = time.perf_counter()
    child = subprocess.Popen(
        command, cwd=cwd, env=env, stdout=subprocess.DEVNULL, stderr=None if warnings else subprocess.DEVNULL
    )
    _, status, usage = os.wait4(child.pid, 0)
    wall = time.perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, command)
    return Run(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def interleaved(rivals: Mapping[str, Callable[[], float]], *, rounds: int = 5, warmup: int = 1) -> dict[str, float]:
    """Call the rivals in turn, round after round; each returns its figure, and the medians come back."""
    figures: dict[str, list[float]] = {name: [] for name in rivals}
    for turn in range(warmup + rounds):
        for name, rival in rivals.items():
            figure = rival()
            if turn >= warmup:
                figures[name].append(figure)
    return {name: statistics.median(values) for name, values in figures.items()}


def seconds(call: Callable[[], object]) -> float:
    """Return wall seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def peak_mib() -> float:
    """Return the peak of this process's resident memory in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in [list(header), *cells]) for i in range(len(header))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    head = "| " + " | ".join(cell.ljust(width) for cell, width in zip(header, widths, strict=True)) + " |"
    return "\n".join([head, "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines])


def replace_part(page: Path, mark: str, text: str) -> None:
    """Replace what a page has between the lines `<!-- MARK -->` and `<!-- end of MARK -->`."""
    before, opening, rest = page.read_text(encoding="utf-8").partition(f"<!-- {mark} -->\n")
    _, closing, after = rest.partition(f"<!-- end of {mark} -->")
    if not opening or not closing:
        raise SystemExit(f"{page}: the marks <!-- {mark} --> and <!-- end of {mark} --> are missing")
    page.write_text(before + opening + text + closing + after, encoding="utf-8")


def machine() -> str:
    """Return one line on the machine, to print below a table."""
    return f"{os.cpu_count()} cores, Python {sys.version.split()[0]}"
