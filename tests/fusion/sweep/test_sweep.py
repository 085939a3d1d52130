"""A sweep gives each head what a run by itself gives it, and chooses without a look at what it reports."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from caffe_fusion_tools.train import main

from fusion import save_weights
from fusion.composition import Pct
from fusion.errors import ComposeError, FusionError, TrainingError
from fusion.file_lock import locked
from fusion.pct.predictions import Predictions
from fusion.references import Objective
from fusion.solver import Solver
from fusion.solver.callbacks.ema import EMA
from fusion.solver.logging.console import Silent
from fusion.solver.train_options import TrainOptions
from fusion.sweep import Entry, SweepOptions, Trial, cells, read_axes, sweep
from fusion.sweep.results import choose
from fusion.sweep.train_heads import batches_of

SPEC = "old.prototxt:old.caffemodel"

running_module = import_module("fusion.sweep.sweep")  # the package's `sweep` is the function


@pytest.fixture
def solver(project: Callable[..., Path], write_old: Callable[..., None]) -> Path:
    path: Path = project(snapshot=0)
    write_old()
    return path


def alone(
    solver: Path, cell: Trial, iterations: int, kd_alpha: float | None = None, extras: TrainOptions | None = None
) -> torch.Tensor:
    """The head's weights, or their average, after a run by itself."""
    text = solver.read_text()
    Path("own.prototxt").write_text(text.replace("random_seed: 3", f"random_seed: {cell.seed or 3}"))
    if cell.lr is not None:
        own = Path("own.prototxt").read_text().replace("base_lr: 0.05", f"base_lr: {cell.lr}")
        Path("own.prototxt").write_text(own)
    pct = [] if cell.loss == "none" else [Objective(Pct(cell.loss, cell.weight, dict(cell.options)))]
    references = [SPEC] if pct else []
    made = Solver("own.prototxt", device="cpu", display=Silent(), references=references, pct=pct,
                  kd_alpha=kd_alpha if pct else None, extras=extras)  # fmt: skip
    save_weights(made.net, "start.caffemodel")
    made.load(["trunk.caffemodel"])
    made.step(iterations)
    for each in made.callbacks.members:
        if isinstance(each, EMA):
            each.on_tests_start(iterations)
    return made.net.ip.weight.detach().clone()


@pytest.mark.parametrize("kd_alpha", [None, pytest.param(0.7, marks=pytest.mark.slow)])
def test_each_head_is_the_run_by_itself(solver: Path, kd_alpha: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    trunk = Solver(solver, device="cpu", display=Silent())
    save_weights(trunk.net, "whole.caffemodel")
    from prototxt import read_weights, write_weights

    write_weights("trunk.caffemodel", {"trunk": list(read_weights("whole.caffemodel")["trunk"])})
    monkeypatch.setattr(running_module, "validation_records", lambda source, share, seed: np.empty(0, np.int64))
    kept = {}
    original = running_module.judge

    def judged(bench, groups, *rest):  # type: ignore[no-untyped-def]
        for group in groups:
            kept.update(zip(group.cells, group.heads.params["ip.weight"], strict=True))
        return original(bench, groups, *rest)

    monkeypatch.setattr(running_module, "judge", judged)
    axes = {"loss": ["none", "kd", "focal", "ldi", "naive"], "temperature": [2, 50], "margin": [0.1, 0.5],
            "weight": [0.1, 1.0], "beta": [2.0], "lr": [0.05, 0.01], "seed": [3, 4]}  # fmt: skip
    sweep(solver, axes, SweepOptions(references=[SPEC], weights="trunk.caffemodel", max_iter=7, device="cpu",
          display=Silent(), kd_alpha=kd_alpha, select_on="test.txt"))  # fmt: skip
    wanted = [cell for number, cell in enumerate(kept) if number % 5 == 0]
    assert {cell.loss for cell in wanted} == {"none", "kd", "focal", "ldi", "naive"}
    for cell in wanted:
        torch.testing.assert_close(kept[cell], alone(solver, cell, 7, kd_alpha), rtol=2e-5, atol=2e-6, msg=cell.name)


def test_options_of_training_reach_every_head(solver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rates, warm-up, smoothing and averages do to a head in a sweep what they do in a run by itself."""
    extras = TrainOptions(lr_policy="cosine", warmup=3, label_smoothing=0.1, ema=0.9)
    monkeypatch.setattr(running_module, "validation_records", lambda source, share, seed: np.empty(0, np.int64))
    made = Solver(solver, device="cpu", display=Silent())
    save_weights(made.net, "trunk.caffemodel")
    Path("tuned.prototxt").write_text(solver.read_text().replace("max_iter: 20", "max_iter: 7"))
    sweep("tuned.prototxt", {"loss": ["kd"]}, SweepOptions(references=[SPEC], weights="trunk.caffemodel", device="cpu",
          output="out", display=Silent(), select_on="test.txt", extras=extras, overrides=["base_lr=0.02"]))  # fmt: skip
    own = alone(Path("tuned.prototxt"), Trial("kd", lr=0.02), 7, extras=extras)
    from prototxt import read_weights

    np.testing.assert_allclose(read_weights("out/best.caffemodel")["ip"][0], own.numpy(), rtol=2e-5, atol=2e-6)


def test_the_command_leaves_files_for_a_report(solver: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--sweep", "loss=none,kd", "--sweep", "weight=0.1,1", "--sweep", "seed=1,2", "--select-on", "0.25"]
    assert main(["--solver", str(solver), "--reference", SPEC, *words, "--output", "out", "--device", "cpu", "-q"]) == 0
    said = capsys.readouterr().out
    assert "6 heads" in said
    rows = list(csv.DictReader(Path("out/table.csv").read_text().splitlines()))
    assert len(rows) == 6
    found = json.loads(Path("out/table.json").read_text())
    assert found["best"] in {row["name"] for row in rows if row["chosen"] == "True"}
    for row in rows:
        answers = Predictions.load(f"out/new/{row['name']}.npz")
        assert answers.right.mean() == pytest.approx(float(row["accuracy"]))
    assert len(Predictions.load("out/old/old.npz")) == 12
    from caffe_fusion_tools.report import main as report

    new = [str(path) for path in sorted(Path("out/new").glob("*.npz"))]
    assert report(["--old", "out/old/old.npz", "--new", *new, "--html", "out/report.html"]) == 0
    words = said.splitlines()[1].split()
    assert words[words.index("--featured") + 1] == f"out/new/{found['best']}.npz"
    assert ("--baseline" in words) == (not found["best"].startswith("none"))
    best = Predictions.load(f"out/new/{found['best']}.npz")
    made = Solver(solver, weights="out/best.caffemodel", device="cpu", display=Silent())
    source = made.nets[1].sources[0]
    from fusion import blobs

    own = blobs(made.nets[1].net, source.batch(np.arange(12)))["ip"]
    np.testing.assert_allclose(own.detach().numpy(), best.logits, rtol=1e-4, atol=1e-5)


def test_what_is_kept_back_is_not_trained_on(solver: Path) -> None:
    source = Solver(solver, device="cpu", display=Silent()).nets[0].sources[0]
    held = np.array([1, 5, 9])
    batches = batches_of(source, held)
    seen = np.concatenate([next(batches) for _ in range(19)])
    assert not set(seen) & set(held)
    assert set(seen) == set(range(22)) - set(held)


def test_axes_become_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("axes.json").write_text(json.dumps({"sweep": {"loss": ["kd", "none"], "weight": [0.1, 1]}}))
    axes = read_axes(["axes.json", "temperature=2,5", "seed=1,2,3"])
    found = cells(axes)
    assert len(found) == 2 * 2 * 3 + 3
    assert len({cell.name for cell in found}) == len(found)
    for wrong, message in (
        ({"loss": ["kdd"]}, "no loss"),
        ({"loss": ["kd"], "color": ["red"]}, "takes color"),
        ({"loss": ["kd"], "weight": ["heavy"]}, "axis weight: 'heavy' is not 0 or more"),
        ({"loss": ["kd"], "lr": [0.1, 0]}, "axis lr: 0 is not above 0"),
        ({"loss": ["kd"], "seed": [1.5]}, "axis seed: 1.5 is not a whole number"),
        ({"weight": [1]}, "without a loss"),
        ({"loss": ["cna"]}, "frozen trunk gives"),
        ({}, "nothing"),
    ):
        with pytest.raises((TrainingError, ComposeError), match=message):
            cells(wrong)  # type: ignore[arg-type]


def test_axes_are_given_once_and_with_values() -> None:
    for words, message in (
        (["loss=kd", "loss=ldi"], "loss is given twice"),
        (["loss"], "--sweep loss names no values"),
    ):
        with pytest.raises(TrainingError, match=message):
            read_axes(words)


def test_toml(tmp_path: Path) -> None:
    pytest.importorskip("tomllib")
    path = tmp_path / "axes.toml"
    path.write_text('loss = ["kd"]\nweight = [0.1, 1]\n')
    assert read_axes([str(path)]) == {"loss": ["kd"], "weight": [0.1, 1]}


def test_the_choice_is_fewest_flips_near_the_best() -> None:
    def entry(weight: float, accuracy: float, flips: float) -> Entry:
        return Entry(Trial("kd", (), weight, None, 1), 0.0, {"accuracy": accuracy, "negative_flip_rate": flips}, {})

    entries = [entry(1, 0.990, 0.010), entry(2, 0.988, 0.004), entry(3, 0.980, 0.001)]
    assert choose(entries, 0.003).weight == 2
    assert choose(entries, 0.0).weight == 1


def test_a_head_that_diverges_does_not_take_the_others_with_it(
    solver: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--sweep", "lr=0.05,1e30", "--sweep", "seed=1,2", "--select-on", "0.25", "--output", "out"]
    assert main(["--solver", str(solver), *words, "--device", "cpu"]) == 0
    found = json.loads(Path("out/table.json").read_text())
    figures = {row["name"]: (row["accuracy"], row["select_accuracy"], row["chosen"]) for row in found["heads"]}
    assert figures["none_lr1e+30_s2"] == (None, None, False)
    assert figures["none_lr0.05_s1"][2]
    assert sorted(path.name for path in Path("out/new").iterdir()) == ["none_lr0.05_s1.npz", "none_lr0.05_s2.npz"]
    Path("out/new/mine.npz").touch()
    assert main(["--solver", str(solver), "--sweep", "seed=1", *words[4:]]) == 0
    left = sorted(path.name for path in Path("out/new").iterdir())
    assert left == ["mine.npz", "none_s1.npz"], "an earlier sweep's heads stay out of the report"
    assert "diverged, without figures or predictions: none_lr1e+30_s1, none_lr1e+30_s2" in capsys.readouterr().err
    words[1] = "lr=1e30"
    assert main(["--solver", str(solver), *words]) == 1
    assert "every setting of the sweep has diverged" in capsys.readouterr().err


def test_what_cannot_be_swept_is_refused(project) -> None:  # type: ignore[no-untyped-def]
    axes = {"loss": ["none"], "seed": [1, 2]}
    for options, message in (
        ({"frozen": False}, "frozen trunk"),
        ({"iter_size": 2}, "iter_size"),
        ({"clip_gradients": 1}, "clip_gradients"),
    ):
        with pytest.raises(FusionError, match=message):
            sweep(project(**options), axes, SweepOptions(device="cpu", display=Silent()))
    for extras, message in (
        (TrainOptions(mixup=0.2), "no use for mixup"),
        (TrainOptions(ema=1.0), "must lie between 0 and 1"),
    ):
        with pytest.raises(TrainingError, match=message):
            sweep("solver.prototxt", axes, SweepOptions(device="cpu", display=Silent(), extras=extras))


def test_nothing_is_written_beside_the_snapshots_of_another_training_that_runs(solver: Path) -> None:
    """Two files are written, for TRAIN and TEST, under one lock; what is kept in memory or elsewhere needs none."""
    axes = read_axes(["loss=none"])
    with locked("small", print):
        sweep(solver, axes, SweepOptions(device="cpu", display=Silent(), max_iter=1))
        sweep(solver, axes, SweepOptions(device="cpu", display=Silent(), max_iter=1, cache_budget=1, cache_dir="cache"))
        with pytest.raises(TrainingError, match=r"small\.lock: another training writes snapshots of this prefix"):
            sweep(solver, axes, SweepOptions(device="cpu", display=Silent(), max_iter=1, cache_budget=1))
        assert not list(Path().glob("small.trunk*"))
    sweep(solver, axes, SweepOptions(device="cpu", display=Silent(), max_iter=1, cache_budget=1))
    assert len(list(Path().glob("small.trunk*.rows"))) == 2
    with locked("small", print):
        pass
