"""How long a sweep takes: 100 heads on the frozen trunk of the tutorial, beside heads trained one by one.

    python benchmarks/sweep.py [--work DIR] [--iterations 4000] [--alone 3]

Needs what the tutorial leaves behind. One by one, a few heads are trained and the figure is multiplied: the column says
so. Times are of training alone; decoding, trunk and references, which both need once, are a line of their own.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path

from timing import machine, table

from fusion.solver import Solver
from fusion.solver.logging.console import Silent
from fusion.sweep import cells, sweep

HERE = Path(__file__).resolve().parent
AXES = {
    "loss": ["none", "kd", "focal", "ldi"],
    "weight": [0.001, 0.003, 0.01],
    "seed": [*range(1, 11)],
}
CLASSES = {"odd": "1,3,5,7,9", "even": "0,2,4,6,8"}
ALONE = ("focal,weight=0.01", "kd,weight=0.01", "ldi,weight=0.01")


class Watch(Silent):
    """When training began and ended, in wall and CPU seconds."""

    def __init__(self) -> None:
        self.times: list[tuple[float, float]] = []

    def start(self, *_: object) -> None:
        """Training begins."""
        self.times.append((time.perf_counter(), time.process_time()))

    def close(self) -> None:
        """Training ends."""
        self.times.append((time.perf_counter(), time.process_time()))


def main(argv: Sequence[str] | None = None) -> int:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    default = HERE.parent / "examples" / "mnist_odd_even" / "work"
    options.add_argument("--work", type=Path, default=default, metavar="DIR", help="the tutorial's work directory")
    options.add_argument("--iterations", type=int, default=4000)
    options.add_argument("--alone", type=int, default=3, metavar="N", help="train N heads one by one")
    chosen = options.parse_args(argv)
    if not (chosen.work / "init.caffemodel").exists():
        raise SystemExit(f"{chosen.work}: no init.caffemodel; run the tutorial first (make tutorial)")
    os.chdir(chosen.work)
    count, iterations = len(cells(AXES)), chosen.iterations
    begin, watch = time.perf_counter(), Watch()
    sweep("fused/solver.prototxt", AXES, references=references(), weights="init.caffemodel", device="cpu",
          max_iter=iterations, display=watch)  # fmt: skip
    whole = time.perf_counter() - begin
    (start, cpu_start), (end, cpu_end) = watch.times[:2]
    alone = [one_by_one(ALONE[n % len(ALONE)], iterations) for n in range(chosen.alone)]
    wall, cpu = (count * sum(times) / len(alone) for times in zip(*alone, strict=True))
    rows = [
        [f"sweep of {count} heads", f"{end - start:.0f}", f"{cpu_end - cpu_start:.0f}"],
        [f"one by one ({len(alone)} trained, times {count / len(alone):.0f})", f"{wall:.0f}", f"{cpu:.0f}"],
    ]
    print(table([f"{iterations} iterations each", "wall, s", "CPU, s"], rows))
    print(f"\nDecoding, trunk, references and judging beside the sweep: {whole - (end - start):.0f} s. {machine()}")
    return 0


def references() -> list[str]:
    """Both originals, as on a command line."""
    names = [path.stem for path in sorted(Path().glob("lenet_*_iter_*.caffemodel"))]
    return [
        f"lenet_{name.split('_')[1]}_train_val.prototxt:{name}.caffemodel,classes={CLASSES[name.split('_')[1]]}"
        for name in names
    ]


def one_by_one(loss: str, iterations: int) -> tuple[float, float]:
    """Wall and CPU seconds of training one head by the solver, its trunk computed beforehand."""
    made = Solver("fused/solver.prototxt", "init.caffemodel", device="cpu", display=Silent(), max_iter=iterations,
                  references=references(), pct=[loss])  # fmt: skip
    made.step(1)
    start, cpu = time.perf_counter(), time.process_time()
    made.step(iterations - 1)
    return time.perf_counter() - start, time.process_time() - cpu


if __name__ == "__main__":
    raise SystemExit(main())
