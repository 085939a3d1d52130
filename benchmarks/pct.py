"""Does positive-congruent training work? Updates of small LeNets on MNIST with little data, ten methods, many seeds.

    python benchmarks/pct.py [--write docs/study.md] [--work DIR] [--processes 2]

Each net is trained by the project's solver from a prototxt, with references and losses as in fusion-train; predictions
files are compared. Weights of losses are chosen on training images that no net is trained on, with nets that are not
reported; the report is on the 10,000 test images. Everything is seeded.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # a core per process

from study.figures import Figures, choose, measure
from study.plan import METHODS, SAME, Method, Pair, Size, candidates, fused_candidates, reported
from study.tables import Chosen, page
from study.training import Job, run


def main(argv: Sequence[str] | None = None) -> int:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--write", type=Path, metavar="FILE", help="replace the tables in this page, and its picture")
    options.add_argument(
        "--work", type=Path, metavar="DIR", help="keep nets and predictions here, and reuse those from before"
    )
    options.add_argument("--processes", type=int, default=2)
    arguments = options.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        study(Size(), arguments.work or Path(temporary), arguments.processes, arguments.write)
    return 0


def study(size: Size, folder: Path, processes: int, write: Path | None = None) -> str:
    """Train, choose and report; return the tables."""
    start = time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    grids = [candidates(size), fused_candidates(size)]
    with _workers(processes) as work:
        all_pairs = [pairs for methods in grids for weights in methods.values() for pairs in weights.values()]
        _train(work, [pair for pairs in all_pairs for pair in pairs], folder)
        tried, tried_fused = (
            {m: {w: measure(pairs, folder) for w, pairs in weights.items()} for m, weights in methods.items()}
            for methods in grids
        )
        chosen, fused = choose(tried), choose(tried_fused)
        report_pairs = reported(size, chosen, fused)
        _train(work, [pair for pairs in report_pairs.values() for pair in pairs], folder)
    figures = {key: measure(pairs, folder) for key, pairs in report_pairs.items()}
    print(f"\n{(time.perf_counter() - start) / 60:.1f} minutes in {processes} processes", file=sys.stderr)
    tables = page(size, Chosen(tried, chosen), Chosen(tried_fused, fused), figures)
    print(tables)
    if write is not None:
        _write(write, tables, tried, figures)
    return tables


@contextmanager
def _workers(processes: int) -> Iterator[Callable[..., Iterable[str]]]:
    """Return a `map` over processes; with one, in this process."""
    if processes == 1:
        yield map
        return
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool.map


def _train(work: Callable[..., Iterable[str]], pairs: Iterable[Pair], folder: Path) -> None:
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


def _write(path: Path, tables: str, tried: Mapping[Method, Mapping[float, Figures]], found: Mapping) -> None:  # type: ignore[type-arg]
    from study.picture import draw

    text = path.read_text(encoding="utf-8")
    before, opening, rest = text.partition("<!-- tables -->\n")
    _, closing, after = rest.partition("<!-- end of tables -->")
    if not opening or not closing:
        raise SystemExit(f"{path}: the marks <!-- tables --> and <!-- end of tables --> are missing")
    path.write_text(before + opening + tables + closing + after, encoding="utf-8")
    same = {method.title: found[SAME, method] for method in METHODS}
    draw(same, {m.title: list(w.values()) for m, w in tried.items()}, path.with_suffix(".png"))


if __name__ == "__main__":
    raise SystemExit(main())
