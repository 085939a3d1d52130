"""Does positive-congruent training work? Updates of small LeNets on MNIST with little data, ten methods, many seeds.

    python benchmarks/pct.py [--write docs/study.md] [--work DIR] [--processes 2]

Each net is trained by the project's solver from a prototxt, with references and losses as in fusion-train; predictions
files are compared. Weights of losses are chosen on training images that no net is trained on, with nets that are not
reported; the report is on the 10,000 test images. Everything is seeded.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # a core per process

from study.figures import Figures, choose, measure
from study.plan import METHODS, SAME, Method, Size, candidates, fused_candidates, reported
from study.processes import train, workers
from study.tables import Chosen, page
from timing import replace_part


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
    with workers(processes) as work:
        all_pairs = [pairs for methods in grids for weights in methods.values() for pairs in weights.values()]
        train(work, [pair for pairs in all_pairs for pair in pairs], folder)
        tried, tried_fused = (
            {m: {w: measure(pairs, folder) for w, pairs in weights.items()} for m, weights in methods.items()}
            for methods in grids
        )
        chosen, fused = choose(tried), choose(tried_fused)
        report_pairs = reported(size, chosen, fused)
        train(work, [pair for pairs in report_pairs.values() for pair in pairs], folder)
    figures = {key: measure(pairs, folder) for key, pairs in report_pairs.items()}
    print(f"\n{(time.perf_counter() - start) / 60:.1f} minutes in {processes} processes", file=sys.stderr)
    tables = page(size, Chosen(tried, chosen), Chosen(tried_fused, fused), figures)
    print(tables)
    if write is not None:
        _write(write, tables, tried, figures)
    return tables


def _write(path: Path, tables: str, tried: Mapping[Method, Mapping[float, Figures]], found: Mapping) -> None:  # type: ignore[type-arg]
    from study.picture import draw

    replace_part(path, "tables", tables)
    same = {method.title: found[SAME, method] for method in METHODS}
    draw(same, {m.title: list(w.values()) for m, w in tried.items()}, path.with_suffix(".png"))


if __name__ == "__main__":
    raise SystemExit(main())
