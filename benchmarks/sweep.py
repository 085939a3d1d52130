"""How long a sweep trains: 100 heads on a frozen trunk, beside a loop by hand that trains the same 100 at once.

    python benchmarks/sweep.py [--work DIR] [--iterations 4000] [--rounds 5] [--whole]

The peer is vectorised: one matrix product for all heads, gradients in closed form, one update, in one thread like ours.
It is set up from the same nets, records and starts, and after the first round its heads must be those of our sweep to
rounding, or the script fails. Both take turns. Takes the files that the tutorial leaves in its work folder; where there
are none, a small tutorial run makes it in a temporary folder: what the numbers are makes no difference to the time.
--whole runs the whole command once as well, with decoding, trunk, references and judging.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from peers import update
from timing import interleaved, machine, process, seconds, table
from torch import Tensor

from fusion.solver.batches import CachedBatches
from fusion.solver.load_solver import read_message
from fusion.solver.logging.console import Silent
from fusion.solver.read_nets import read_nets
from fusion.solver.settings import read_settings
from fusion.solver.train_options import TrainOptions
from fusion.solver.trunk_cache import DEFAULT_BUDGET
from fusion.sweep import SweepOptions, cells, sweep
from fusion.sweep.prepare import Group, Opening, SweepContext, groups_of, prepare
from fusion.sweep.stacked_heads import batch_place
from fusion.sweep.train_heads import batches_of

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "mnist_odd_even"
SOLVER, START = "fused/solver.prototxt", "init.caffemodel"
AXES = {"loss": ["none", "kd", "focal", "ldi"], "weight": [0.001, 0.003, 0.01], "seed": [*range(1, 11)]}
CLASSES = {"odd": "1,3,5,7,9", "even": "0,2,4,6,8"}
BATCH, PART = 50, 100  # records of a batch, iterations of a turn
WANTED = "<= 1.5"


def main(argv: Sequence[str] | None = None) -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument(
        "--work", type=Path, default=EXAMPLE / "work", metavar="DIR", help="the tutorial's work folder"
    )
    options.add_argument("--iterations", type=int, default=4000, help="that times are given for")
    options.add_argument("--rounds", type=int, default=9, help=f"turns of {PART} iterations")
    options.add_argument("--whole", action="store_true", help="run the whole command as well")
    chosen = options.parse_args(argv)
    torch.set_num_threads(1)
    with ExitStack() as stack:
        stack.callback(os.chdir, Path.cwd())
        os.chdir(work_folder(chosen.work, stack))
        found = compare(chosen.rounds)
        steps = [found[name] / PART for name in ("ours", "hand")]
        rows = [
            [name, f"{step * 1e3:.1f} ms", f"{step * chosen.iterations:.1f} s", ratio, wanted]
            for name, step, ratio, wanted in (
                (f"sweep of {len(cells(AXES))} heads", steps[0], f"{steps[0] / steps[1]:.2f}", WANTED),
                ("vectorised loop by hand", steps[1], "", ""),
            )
        ]
        print(table(["one thread", "a step", f"{chosen.iterations:,} iterations", "ratio", "wanted"], rows))
        if chosen.whole:
            whole = seconds(
                lambda: sweep(SOLVER, AXES, SweepOptions(references=references(), weights=START, device="cpu",
                              max_iter=chosen.iterations, display=Silent())))  # fmt: skip
            print(f"\nthe whole sweep, with decoding, trunk, references and judging: {whole:.0f} s")
    print(f"\n{machine()}, torch {torch.__version__}; medians of {chosen.rounds}; load {os.getloadavg()[0]:.1f}")
    return 0


def work_folder(wanted: Path, stack: ExitStack) -> Path:
    """Return the tutorial's folder, or a new one with the files of a small run of it."""
    if (wanted / START).exists():
        return wanted
    made = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    print(f"{wanted}: no {START}; a small tutorial run makes one elsewhere", flush=True)
    small = ["--iterations", "100", "--limit", "5000", "--device", "cpu"]
    process([sys.executable, "-m", "caffe_fusion_tools.mnist_odd_even.tutorial", "--work", str(made), *small])
    return made


def references() -> list[str]:
    """Return both originals, as on a command line."""
    names = [path.stem for path in sorted(Path().glob("lenet_*_iter_*.caffemodel"))]
    return [
        f"lenet_{name.split('_')[1]}_train_val.prototxt:{name}.caffemodel,classes={CLASSES[name.split('_')[1]]}"
        for name in names
    ]


def compare(rounds: int) -> dict[str, float]:
    """Return seconds of a turn of each, medians."""
    message, path = read_message(SOLVER, None, ())
    settings, nets = read_settings(message, path=path), read_nets(message, path=path)
    opening = Opening(settings.seed or 0, torch.device("cpu"), TrainOptions(), None, DEFAULT_BUDGET, None, Silent())
    todo = cells(AXES)
    bench = prepare(nets.train, nets.tests[0], todo, references(), [START], opening)
    groups = groups_of(bench, todo, settings, None)
    feed = bench.train.batches
    assert isinstance(feed, CachedBatches), "a sweep is given no other"
    hand = by_hand(bench, groups)
    batches = batches_of(feed.source, np.zeros(0, np.int64))

    def ours() -> None:
        for _ in range(PART):
            place = batch_place(next(batches))
            for group in groups:
                group.heads.train(place)

    done = {"ours": 0, "hand": 0}

    def turn(name: str) -> float:
        start = time.perf_counter()
        ours() if name == "ours" else hand.train(done[name], PART)
        took = time.perf_counter() - start
        done[name] += PART
        if name == "hand" and done[name] == PART:
            hand.check(groups)
        return took

    return interleaved({name: partial(turn, name) for name in done}, rounds=rounds)


@dataclass
class Hand:
    """All heads in one loop by hand: those without a loss towards references first, then kd, focal and ldi.

    x, wanted        features [R, F] and one-hot labels [R, 1, C] of all records
    columns          int64 [R, 1, K], the classes of that reference which knows the record's class
    old              float [R, 1, K], its scores; soft: at the temperatures of kd and of focal, as probabilities
    keen             float [R, 1, 1], focal's weight of the record, 1 or 6 where the reference is right
    weights          float [1, H', 1] of the losses towards references, for the heads that have one
    plain            how many heads have none
    flat, history    weights [H C, F] and biases [H C], and their momentum
    """

    x: Tensor
    wanted: Tensor
    columns: Tensor
    old: Tensor
    soft: tuple[Tensor, Tensor]
    keen: Tensor
    weights: Tensor
    plain: int
    flat: tuple[Tensor, Tensor]
    history: tuple[Tensor, Tensor]

    def train(self, start: int, count: int) -> None:
        """Run `count` iterations; all but slicing is in one piece for all heads."""
        heads, classes = len(self.flat[1]) // self.wanted.shape[2], self.wanted.shape[2]
        third = self.weights.shape[1] // 3
        with torch.inference_mode():
            for iteration in range(start, start + count):
                at = iteration * BATCH % len(self.x)
                rows = slice(at, at + BATCH)
                x, old = self.x[rows], self.old[rows]
                z = torch.addmm(self.flat[1], x, self.flat[0].t()).view(BATCH, heads, classes)
                slope = z.softmax(2).sub_(self.wanted[rows])
                columns = self.columns[rows].expand(-1, 3 * third, -1)
                known = z[:, self.plain :].gather(2, columns)
                kd, focal, ldi = known.split(third, 1)
                difference = ldi - old
                parts = [
                    ((kd / 5).softmax(2) - self.soft[0][rows]) * 5,
                    ((focal / 100).softmax(2) - self.soft[1][rows]) * (100 * self.keen[rows]),
                    (difference - difference.clamp(-0.5, 0.5)) * (2 / old.shape[2]),
                ]
                slope[:, self.plain :].scatter_add_(2, columns, torch.cat(parts, 1) * self.weights)
                turned = slope.view(BATCH, heads * classes).t()
                rate = 0.01 * 0.707 ** (iteration // 1000)
                gradients = ((turned @ x).mul_(1 / BATCH), turned.mean(1))
                for factor, param, gradient, history in zip((1, 2), self.flat, gradients, self.history, strict=True):
                    update([param], [gradient], [history], factor * rate)

    def check(self, groups: Sequence[Group]) -> None:
        """Compare the heads with our sweep's after as many iterations. Raises: SystemExit."""
        for ours, theirs in zip(params_of(groups), self.flat, strict=True):
            apart = float((ours - theirs).abs().max() / ours.abs().max())
            if not apart < 1e-3:
                raise SystemExit(f"the loop by hand trains other heads than the sweep: {apart:.1e} apart")


def by_hand(bench: SweepContext, groups: Sequence[Group]) -> Hand:
    """Return the loop for the same nets, records and starts as those of our sweep."""
    trials = [trial for group in groups for trial in group.cells]
    assert [*dict.fromkeys(trial.loss for trial in trials)] == AXES["loss"], "heads of one loss lie side by side"
    feed = bench.train.batches
    assert isinstance(feed, CachedBatches), "a sweep is given no other"
    weight, bias = (param.clone() for param in params_of(groups))
    features = next(row for row in feed.rows.values() if row.dim() == 2 and row.shape[1] == weight.shape[1])
    labels = feed.rows["label"].long()
    columns = torch.zeros(len(labels), 5, dtype=torch.int64)
    old = torch.zeros(len(labels), 5)
    for model in bench.train.models:
        classes = torch.tensor(model.classes)
        known = torch.isin(labels, classes)
        columns[known], old[known] = classes, feed.rows[model.blob][known]
    right = columns.gather(1, old.argmax(1, keepdim=True))[:, 0] == labels
    return Hand(
        features,
        F.one_hot(labels, 10)[:, None].float(),
        columns[:, None],
        old[:, None],
        (torch.softmax(old / 5, 1)[:, None], torch.softmax(old / 100, 1)[:, None]),
        (1 + 5 * right.float())[:, None, None],
        torch.tensor([trial.weight for trial in trials if trial.loss != "none"])[None, :, None],
        sum(trial.loss == "none" for trial in trials),
        (weight, bias),
        (torch.zeros_like(weight), torch.zeros_like(bias)),
    )


def params_of(groups: Sequence[Group]) -> tuple[Tensor, Tensor]:
    """Return all heads' weights [H C, F] and biases [H C]."""
    weight, bias = groups[0].heads.params
    return tuple(torch.cat([group.heads.params[name].flatten(0, 1) for group in groups]) for name in (weight, bias))


if __name__ == "__main__":
    raise SystemExit(main())
