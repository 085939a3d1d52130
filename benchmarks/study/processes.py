"""Training the nets of a plan in several processes."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from study.plan import Pair
from study.training import Job, run


@contextmanager
def workers(processes: int) -> Iterator[Callable[..., Iterable[str]]]:
    """Return a `map` over processes; with one, in this process."""
    if processes == 1:
        yield map
        return
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool.map


def train(work: Callable[..., Iterable[str]], pairs: Iterable[Pair], folder: Path) -> None:
    """Train all nets of the pairs, references of others first."""
    jobs = dict.fromkeys(job for pair in pairs for job in (*pair.old, *pair.new))
    references = dict.fromkeys(old for job in jobs for old in job.needs)
    for stage in (references, [job for job in jobs if job not in references]):
        order = sorted(stage, key=_effort, reverse=True)
        for number, name in enumerate(work(partial(run, folder=folder), order), 1):
            if sys.stderr.isatty():
                print(f"\r{number} of {len(order)} nets ({name})\033[K", end="", file=sys.stderr, flush=True)


def _effort(job: Job) -> float:
    """Return a measure of training time: the longest start first, so that the processes end together."""
    return 0.0 if job.bodies else job.widths.conv1 + 2 * len(job.references)
