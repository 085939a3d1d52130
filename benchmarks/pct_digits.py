"""Positive-congruent training on scikit-learn's digits, on which nothing here was tuned: ten pairs of nets.

    python benchmarks/pct_digits.py [--write docs/study.md] [--work DIR] [--processes 2]

The methods and figures of `pct.py`, for nets of a dense layer of 64 and a classifier. Of 1,797 images of 8 x 8 pixels,
500 are to train on, 300 to choose the weights of losses by, with pairs that are not reported, and 997 to report on.
Beside the plain net is one that is trained twice as long as all others. Needs scikit-learn, which includes the images.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # a core per process

from study.figures import choose, measure
from study.plan import ENSEMBLE, METHODS, NONE, Method, Pair, Size, Update, pair
from study.processes import train, workers
from study.tables import Chosen, digits_table, tried_table
from timing import machine, replace_part

LONGER = Method("none, twice as long", longer=2)
TRAINED = tuple(method for method in METHODS if method.title in ("none", "naive", "KD", "FD-KL", "FD-LM", "LDI"))
DIGITS = Update("digits", "scikit-learn's digits", data="digits")


def main(argv: Sequence[str] | None = None) -> int:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--write", type=Path, metavar="FILE", help="replace the tables in this page")
    options.add_argument("--work", type=Path, metavar="DIR", help="keep nets here, and reuse those from before")
    options.add_argument("--processes", type=int, default=2)
    arguments = options.parse_args(argv)
    if find_spec("sklearn") is None:
        print("not measured: scikit-learn is not installed (pip install 'caffe-fusion[bench]')")
        return 0
    size = Size(rows=500, iterations=500, members=4, seeds=10, fewer=2)
    with tempfile.TemporaryDirectory() as temporary:
        tables = study(size, arguments.work or Path(temporary), arguments.processes)
    print(tables)
    if arguments.write is not None:
        replace_part(arguments.write, "digits", tables)
    return 0


def study(size: Size, folder: Path, processes: int) -> str:
    """Train, choose on `size.fewer` pairs, and report on `size.seeds` others; return the tables."""
    folder.mkdir(parents=True, exist_ok=True)
    tries = {
        method: {
            weight: pairs(size, method, weight, range(size.seeds, size.seeds + size.fewer), "selection")
            for weight in method.weights[: size.candidates] or (0.0,)
        }
        for method in TRAINED
    }
    with workers(processes) as work:
        train(work, [one for weights in tries.values() for tried in weights.values() for one in tried], folder)
        tried = {m: {w: measure(found, folder) for w, found in weights.items()} for m, weights in tries.items()}
        chosen = choose(tried)
        report = {
            method: pairs(size, method, chosen.get(method, 0.0), range(size.seeds))
            for method in (NONE, LONGER, *TRAINED[1:], ENSEMBLE)
        }
        train(work, [one for found in report.values() for one in found], folder)
    table = digits_table(chosen, {method: measure(found, folder) for method, found in report.items()})
    title = f"**{DIGITS.title}** ({size.seeds} pairs of nets; ± is the 95 % interval over pairs):"
    choice = f"**Choice of the weights** there ({size.fewer} other pairs, on images that are kept back):"
    return "\n\n".join([title, table, choice, tried_table(Chosen(tried, chosen)), machine()]) + "\n"


def pairs(size: Size, method: Method, weight: float, seeds: Sequence[int], split: str = "report") -> list[Pair]:
    """Return the pairs of these seeds; all have the same images."""
    return [pair(size, DIGITS, method, weight, seed, split) for seed in seeds]


if __name__ == "__main__":
    raise SystemExit(main())
