"""The tutorial's fused nets over seeds: how much of their figures is PCT, and how much is chance.

    python benchmarks/tutorial_seeds.py [--seeds 5] [--retrain] [--work DIR] [--write]

The fused net is trained with and without PCT, on frozen bodies and with thawed upper layers, once per seed. A seed
draws the new layer's first weights and the order of the images; with --retrain, the originals' first weights too. The
figures are of the 10,000 test images; the settings were chosen on the validation images.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"  # the trainings run side by side, a core each

import numpy as np
from caffe_fusion_tools.mnist_odd_even import tutorial  # its steps and settings are those that are measured
from numpy.typing import NDArray
from timing import replace_part, table

from fusion import pct
from fusion.pct import Predictions
from fusion.report.format_numbers import p_value

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "mnist_odd_even"

FROZEN = ("--lr", "0.05", "--lr-policy", "cosine")
SHUFFLED = "fused/shuffled.prototxt"
CLASSES = {"odd": tutorial.ODD, "even": tutorial.EVEN}


class Variant(NamedTuple):
    """A way to train the fused net: what learns, with which options of fusion-train, and whether with PCT."""

    name: str
    learns: str
    options: tuple[str, ...]
    pct: bool


# Two train at a time: those of one trunk do not begin together, so that the second finds the first's cached outputs.
VARIANTS = [
    Variant("head", "the new layer", FROZEN, False),
    Variant("fused", "the new layer and both `ip1`", tutorial.THAWED, False),
    Variant("head_pct", "the new layer", FROZEN, True),
    Variant("fused_pct", "the new layer and both `ip1`", tutorial.THAWED, True),
]


class Run(NamedTuple):
    """A training of one seed whose files begin with `prefix`."""

    prefix: str
    seed: int
    iterations: int
    options: tuple[str, ...]

    @property
    def weights(self) -> str:
        """Return the file that it writes at its end."""
        return f"{self.prefix}_iter_{self.iterations}.caffemodel"

    @property
    def command(self) -> list[str]:
        """Return the words for `tutorial.side_by_side`."""
        own = ["--seed", str(self.seed), "--max-iter", str(self.iterations), "--set", f"snapshot_prefix={self.prefix}"]
        return ["train", *self.options, *own, "--device", "cpu", "--quiet"]


class Figures(NamedTuple):
    """Accuracy in per cent and negative flips for each seed; for each image the share of seeds that are right."""

    accuracy: list[float]
    flips: list[int]
    right: NDArray[np.float64]


def main(argv: Sequence[str] | None = None) -> int:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--seeds", type=int, default=5, metavar="N", help="number of seeds (default 5)")
    options.add_argument("--retrain", action="store_true", help="train the originals again for each seed")
    options.add_argument("--work", type=Path, default=EXAMPLE / "work", metavar="DIR", help="the tutorial's folder")
    options.add_argument("--iterations", type=int, default=4000, metavar="N", help="as in the tutorial")
    options.add_argument("--limit", type=int, metavar="N", help="as in the tutorial")
    options.add_argument("--write", action="store_true", help="write the tables into both READMEs")
    arguments = options.parse_args(argv)
    arguments.work.mkdir(parents=True, exist_ok=True)
    os.chdir(arguments.work)
    tutorial.prepare_data(arguments.limit)
    tutorial.train_sources(arguments.iterations, "cpu")
    tutorial.fuse(arguments.iterations)
    figures = train_and_measure(VARIANTS, range(1, arguments.seeds + 1), arguments.iterations, arguments.retrain)
    whole, short = means(figures) + "\n\n" + differences(figures) + "\n", means(figures) + "\n"
    print(whole)
    if arguments.write:
        mark = "retrained" if arguments.retrain else "seeds"
        replace_part(EXAMPLE / "README.md", mark, whole)
        replace_part(ROOT / "README.md", mark, short)
    return 0


def train_and_measure(
    variants: Sequence[Variant], seeds: Sequence[int], iterations: int, retrain: bool, split: str = "test"
) -> dict[Variant, Figures]:
    """Train what is not trained yet, and return the figures of each variant over the seeds.

    split  the images of the figures: "test" or "val"
    """
    text = Path("fused/train_val.prototxt").read_text(encoding="utf-8")
    Path(SHUFFLED).write_text(text.replace('"train_all.txt"', '"train_all.txt" shuffle: true'), encoding="utf-8")
    originals = {seed: _originals(seed if retrain else None, iterations) for seed in seeds}
    if retrain:
        _train([run for runs in originals.values() for run in runs.values()])
    runs = {(s, variant): _fused(variant, s, originals[s], iterations) for s in seeds for variant in variants}
    _train(list(runs.values()))
    old = {
        s: [_answers(f"lenet_{p}_train_val.prototxt", run, split, CLASSES[p]) for p, run in originals[s].items()]
        for s in seeds
    }
    figures = {}
    for variant in variants:
        new = {s: _answers("fused/train_val.prototxt", runs[s, variant], split, "0-9") for s in seeds}
        flips = [sum(len(pct.flips(old=one, new=new[s])) for one in old[s]) for s in seeds]
        right = np.array([new[s].right for s in seeds])
        figures[variant] = Figures((100 * right.mean(axis=1)).tolist(), flips, right.mean(axis=0))
    return figures


def _originals(seed: int | None, iterations: int) -> dict[str, Run]:
    """Return the trainings of both originals: the tutorial's own, or those of a seed."""
    folder = f"retrained{seed}/" if seed else ""
    return {
        p: Run(f"{folder}lenet_{p}", seed or 1, iterations, ("--solver", f"lenet_{p}_solver.prototxt")) for p in CLASSES
    }


def _fused(variant: Variant, seed: int, originals: Mapping[str, Run], iterations: int) -> Run:
    """Write the first weights of a seed; return the training of a variant from there."""
    weights = {parity: run.weights for parity, run in originals.items()}
    folder = Path(weights["odd"]).parent / f"seed{seed}"
    folder.mkdir(exist_ok=True)
    start = folder / "init.caffemodel"
    if not start.exists():
        pairs = [f"{p}=lenet_{p}_train_val.prototxt:{file}" for p, file in weights.items()]
        tutorial.tool("merge", "fused/train_val.prototxt", *pairs, "-o", str(start), "--seed", str(seed))
    options = [
        "--solver",
        "fused/solver.prototxt",
        "--set",
        f"net={SHUFFLED}",
        "--weights",
        str(start),
        *variant.options,
    ]
    options += ["--cache-dir", str(folder.parent / "cache"), *(tutorial.keep_answers(weights) if variant.pct else [])]
    return Run(str(folder / variant.name), seed, 2 * iterations, tuple(options))


def _train(runs: Sequence[Run]) -> None:
    for run in runs:
        Path(run.prefix).parent.mkdir(exist_ok=True)
    tutorial.side_by_side({run.prefix: run.command for run in runs if not Path(run.weights).exists()})


def _answers(net: str, run: Run, split: str, classes: str) -> Predictions:
    """Return a trained net's predictions for the test or validation images."""
    file = Path(f"{run.prefix}_{split}.npz")
    if not file.exists():
        model = tutorial.on_test_images(net) if split == "test" else net
        given = ["--model", model, "--weights", run.weights, "--logits", "ip2", "--classes", classes]
        tutorial.tool("evaluate", *given, "--predictions", str(file), "--device", "cpu", "--quiet")
    return Predictions.load(file)


def means(figures: Mapping[Variant, Figures]) -> str:
    """Return the table of every variant's means over the seeds."""
    rows = [
        [variant.learns, "with" if variant.pct else "without", _interval(found.accuracy, 2), _interval(found.flips, 1)]
        for variant, found in sorted(figures.items(), key=lambda item: (item[0].learns, item[0].pct))
    ]
    return table(["what learns", "PCT", "accuracy, %", "negative flips"], rows)


def differences(figures: Mapping[Variant, Figures]) -> str:
    """Return the table of what PCT adds, paired over the seeds, and for the accuracy over the images."""
    rows = []
    plain = {variant.learns: found for variant, found in figures.items() if not variant.pct}
    for variant, found in figures.items():
        if variant.pct:
            without = plain[variant.learns]
            accuracy, flips = np.subtract(found.accuracy, without.accuracy), np.subtract(found.flips, without.flips)
            row = [variant.learns, _interval(accuracy, 3, "+"), p_value(pct.t_test(accuracy))]
            row.append(p_value(pct.t_test(found.right - without.right)))
            rows.append([*row, _interval(flips, 1, "+"), p_value(pct.t_test(flips))])
    head = ["what learns", "accuracy with PCT less that without, points", "p over seeds", "p over images"]
    return table([*head, "negative flips with PCT less those without", "p over seeds"], rows)


def _interval(values: Sequence[float], digits: int, sign: str = "") -> str:
    mean, low, high = pct.mean_interval(values)
    ends = "" if low is None or high is None else f" ({low:{sign}.{digits}f} to {high:{sign}.{digits}f})"
    return f"{mean:{sign}.{digits}f}{ends}".replace("-", "\u2212")


if __name__ == "__main__":
    raise SystemExit(main())
