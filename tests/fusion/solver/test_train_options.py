"""What training offers beyond a solver file: each option does what it says, and resumed runs equal unbroken ones."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from fusion.errors import FusionError, TrainingError
from fusion.layers.losses import SoftmaxWithLoss
from fusion.nets.build import params
from fusion.solver import Solver
from fusion.solver.logging.console import Lines, Silent
from fusion.solver.mixup import Mix, MixedLoss
from fusion.solver.settings import read_settings
from fusion.solver.train_options import TrainOptions
from prototxt import read_weights
from prototxt.schema.messages import SolverParameter

Make = Callable[..., Path]


def solver(path: Path, log: io.StringIO | None = None, **extras: object) -> Solver:
    display = Silent() if log is None else Lines(log)
    return Solver(path, device="cpu", display=display, extras=TrainOptions(**extras))  # type: ignore[arg-type]


def weights(run: Solver) -> dict[str, list[np.ndarray]]:
    return {name: [t.detach().numpy().copy() for t in tensors] for name, tensors in params(run.net).items()}


def same(one: dict[str, list[np.ndarray]], other: dict[str, list[np.ndarray]]) -> bool:
    return all(np.array_equal(a, b) for name in one for a, b in zip(one[name], other[name], strict=True))


@pytest.mark.parametrize(
    "extras",
    [
        {"lr_policy": "cosine", "warmup": 15},
        {"ema": 0.9},
        {"label_smoothing": 0.2},
        {"mixup": 0.4},
        {"best_on": 0.25},
        {"amp": "bf16"},
        {"amp": "fp16", "ema": 0.9},
        {"freeze": "^trunk$", "ema": 0.5, "best_on": 0.25, "early_stopping": 9},
    ],
    ids=str,
)
def test_a_resumed_run_equals_one_that_was_not_stopped(project: Make, extras: dict[str, object]) -> None:
    path = project(frozen=False, shuffle=True)
    whole = solver(path, **extras)
    whole.train()
    stored = {file.name: file.read_bytes() for file in Path().glob("small*.caffemodel") if "iter_10" not in file.name}
    resumed = solver(path, **extras)
    resumed.restore("small_iter_10.solverstate")
    resumed.train()
    assert same(weights(whole), weights(resumed))
    assert {name: Path(name).read_bytes() for name in stored} == stored
    plain = solver(path)
    plain.train()
    changes = set(extras) - {"early_stopping", "ema"} or None
    assert same(weights(whole), weights(plain)) == (changes is None)


def test_a_snapshot_names_what_it_was_trained_with(project: Make) -> None:
    path, log = project(), io.StringIO()
    solver(path, lr_policy="cosine", warmup=5).train()
    run = solver(path, log, warmup=6)
    run.restore("small_iter_10.solverstate")
    assert "warning: lr_policy was cosine and is now not given" in log.getvalue()
    assert "warning: warmup was 5 and is now 6" in log.getvalue()
    choices = {"extras": '{"warmup": 5, "lr_policy": "cosine", "of a later version": 1}'}
    assert TrainOptions(warmup=6, keep=2).completed(choices) == TrainOptions("cosine", 6, keep=2)


def test_averaged_weights_are_tested_and_written(project: Make) -> None:
    path = project(snapshot=5)
    run = solver(path, ema=0.9)
    run.step(20)
    before = weights(run)
    tested = run.test()
    assert same(before, weights(run))
    written = read_weights("small_iter_20.ema.caffemodel")
    stored = solver(path)
    stored.load(["small_iter_20.ema.caffemodel"])
    assert stored.test()[0].loss == pytest.approx(tested[0].loss, rel=1e-6)
    assert not np.array_equal(written["ip"][0], before["ip"][0])
    with pytest.raises(TrainingError, match="between 0 and 1"):
        solver(path, ema=1.0)


def test_average_of_weights_follows_its_formula(project: Make) -> None:
    run = solver(project(snapshot=20), ema=0.9)
    run.test()  # prepares the run, so that the first weights are known
    average = weights(run)["ip"][0].astype(np.float64)
    for n in range(1, 21):
        run.step()
        average += (1 - min(0.9, (1 + n) / (10 + n))) * (weights(run)["ip"][0] - average)
    np.testing.assert_allclose(read_weights("small_iter_20.ema.caffemodel")["ip"][0], average, rtol=1e-4, atol=1e-6)


def test_choosing_on_a_share_that_is_not_trained_on(project: Make) -> None:
    path, log = project(shuffle=True), io.StringIO()
    run = solver(path, log, best_on=0.25)
    run.train()
    kept, rest = set(run.nets[-1].sources[0].keys), set(run.nets[0].sources[0].keys)
    assert len(kept) == 6
    assert len(rest) == 16
    assert not kept & rest
    assert kept | rest == {f"train{i}.png" for i in range(22)}
    text = log.getvalue()
    assert "Iteration 0, validation: acc = " in text
    assert "the best so far: small_best.caffemodel" in text
    assert "Best weights: " in text.splitlines()[-3]
    assert text.count("Testing net (#0)") == 3
    assert "Testing net (#1)" not in text
    assert set(read_weights("small_best.caffemodel")) == {"trunk", "ip"}


def test_choosing_on_a_list(project: Make) -> None:
    path = project()
    Path("choose.txt").write_text("".join(Path("test.txt").read_text().splitlines(keepends=True)[:6]))
    run = solver(path, best_on="choose.txt")
    run.train()
    assert len(run.nets[-1].sources[0]) == 6
    assert len(run.nets[0].sources[0]) == 22
    assert run.nets[-1].batches.position == 2


def test_early_stopping(project: Make) -> None:
    path, log = project(base_lr=0.0, max_iter=100, snapshot=0), io.StringIO()
    run = solver(path, log, best_on=0.25, early_stopping=2)
    run.train()
    assert run.iter == 20 + 1
    assert "Early stopping: no improvement in 2 tests" in log.getvalue()
    assert Path("small_iter_21.solverstate").exists()
    assert "Optimization Done." in log.getvalue()


@pytest.mark.parametrize(("extras", "settings", "message"), [
    ({"early_stopping": 3}, {}, "early stopping needs validation records"),
    ({"best_on": 0.01}, {}, "a share of 0.01 of 22 training records"),
    ({"best_on": 0.1}, {"test_iter": "", "test_interval": 0}, "the solver has none"),
    ({"label_smoothing": 1.0}, {}, r"must lie in \[0, 1\)"),
    ({"mixup": -1.0}, {}, "alpha must be positive"),
    ({"lr_policy": "cosin"}, {}, "did you mean 'cosine'"),
    ({"warmup": -1}, {}, "warm-up must not be negative"),
    ({}, {"lr_policy": '"cosine"'}, "Caffe knows no learning rate policy 'cosine'"),
])  # fmt: skip
def test_refused(project: Make, extras: dict[str, object], settings: dict[str, object], message: str) -> None:
    path = project(**settings)
    text = path.read_text()
    path.write_text("\n".join(line for line in text.splitlines() if not line.endswith(": ")))
    with pytest.raises(TrainingError, match=message):
        solver(path, **extras)


def test_freezing_by_name(project: Make) -> None:
    path, log = project(frozen=False), io.StringIO()
    run = solver(path, log, freeze="^trunk")
    before = weights(run)
    run.step(5)
    assert "frozen trunk computed once" in log.getvalue()
    assert np.array_equal(before["trunk"][0], weights(run)["trunk"][0])
    assert not np.array_equal(before["ip"][0], weights(run)["ip"][0])
    with pytest.raises(TrainingError, match=r"--freeze trunck: no layer's name matches(.|\n)*the layers are trunk"):
        solver(path, freeze="trunck")
    with pytest.raises(FusionError, match="nothing to learn"):
        solver(path, freeze=".")


def test_keeps_the_newest_snapshots_and_removes_only_its_own(project: Make) -> None:
    path = project(snapshot=3)
    Path("small_iter_1.solverstate").write_text("another run's")
    solver(path, keep=2, ema=0.5).train()
    assert {int(file.stem.rpartition("_")[2]) for file in Path().glob("*.solverstate")} == {1, 18, 20}
    assert sorted(file.name for file in Path().glob("*.caffemodel")) == [
        "small_iter_18.caffemodel", "small_iter_18.ema.caffemodel",
        "small_iter_20.caffemodel", "small_iter_20.ema.caffemodel",
    ]  # fmt: skip


def test_weights_before_the_first_step_and_snapshots_by_epochs(project: Make) -> None:
    path = project()
    run = solver(path, save_init="init.caffemodel", snapshot_epochs=1)
    before = weights(run)
    run.train()
    stored = read_weights("init.caffemodel")
    assert same({name: stored[name] for name in stored}, before)
    found = {int(file.stem.rpartition("_")[2]) for file in Path().glob("*.solverstate")}
    assert found == {6, 12, 18, 20}  # 22 records in batches of 4


def test_label_smoothing_is_torchs() -> None:
    torch.manual_seed(0)
    layer, x, y = SoftmaxWithLoss(1, None, "VALID", probabilities=False), torch.randn(6, 5), torch.randint(5, (6,))
    layer.smoothing = 0.1
    expected = torch.nn.functional.cross_entropy(x, y, label_smoothing=0.1)
    torch.testing.assert_close(layer(x, y.float()), expected)
    layer.ignore_label = 2
    expected = torch.nn.functional.cross_entropy(x, y, label_smoothing=0.1, ignore_index=2)
    torch.testing.assert_close(layer(x, y.float()), expected)


def test_mixed_losses_are_those_of_mixed_labels() -> None:
    torch.manual_seed(0)
    mix = Mix(0.4, seed=3)
    mix.draw(7, 6, torch.device("cpu"))
    x, y = torch.randn(6, 5), torch.randint(5, (6,))
    both = torch.nn.functional.one_hot(y, 5).float()
    loss = MixedLoss(SoftmaxWithLoss(1, None, "VALID", probabilities=False), mix)
    torch.testing.assert_close(loss(x, y.float()), torch.nn.functional.cross_entropy(x, mix.apply(both)))
    again = Mix(0.4, seed=3)
    again.draw(7, 6, torch.device("cpu"))
    assert torch.equal(again.order, mix.order)
    assert 0 < float(mix.share) < 1


def test_mixup_runs_the_trunk_live_and_wants_classes(project: Make) -> None:
    path, log = project(), io.StringIO()
    run = solver(path, log, mixup=0.4)
    run.step(3)
    assert "TRAIN net: the whole net runs in each iteration: mixup mixes its inputs again each time" in log.getvalue()
    assert "TEST net: frozen trunk computed once" in log.getvalue()
    net = Path("net.prototxt").read_text()
    Path("net.prototxt").write_text(net.replace("SoftmaxWithLoss", "HingeLoss"))
    with pytest.raises(TrainingError) as error:
        solver(path, mixup=0.4)
    assert "net.prototxt:1" in str(error.value)
    assert "layer 'loss' (HingeLoss)" in str(error.value)
    with pytest.raises(TrainingError, match="label smoothing needs a SoftmaxWithLoss"):
        solver(path, label_smoothing=0.1)


def test_smoothing_on_kept_rows_is_that_of_the_live_net(project: Make) -> None:
    path = project()
    kept = solver(path, label_smoothing=0.3)
    live = Solver(path, device="cpu", display=Silent(), cache_budget=0, extras=TrainOptions(label_smoothing=0.3))
    plain = solver(path)
    for _ in range(6):
        loss = kept.step()
        assert loss == pytest.approx(live.step(), rel=1e-5)
        assert abs(loss - plain.step()) > 1e-3
    assert kept.test()[0].loss == pytest.approx(live.test()[0].loss, rel=1e-5)


def test_references_answer_the_records_that_are_left(project: Make) -> None:
    path = project()
    solver(path).train()
    run = Solver(path, device="cpu", display=Silent(), extras=TrainOptions(best_on=0.25), pct=["kd,weight=0.5"],
                 references=["net.prototxt:small_iter_20.caffemodel@ip"])  # fmt: skip
    run.train()
    assert len(run.nets[0].sources[0]) == 16
    assert Path("small_best.caffemodel").exists()


SETTINGS = SimpleNamespace(test_iter=(1,), test_interval=1)


@pytest.mark.parametrize(
    ("options", "settings", "message"),
    [
        ({"label_smoothing": 1.0}, SETTINGS, r"label smoothing must lie in \[0, 1\), not 1"),
        ({"label_smoothing": -0.1}, SETTINGS, "label smoothing must lie in"),
        ({"label_smoothing": 0.99}, SETTINGS, None),
        ({"early_stopping": 1}, SETTINGS, "early stopping needs validation records"),
        ({"early_stopping": 1, "best_on": 0.1}, SETTINGS, None),
        ({"best_on": 0.1}, SimpleNamespace(test_iter=(), test_interval=1), "the solver has none"),
        ({"best_on": 0.1}, SimpleNamespace(test_iter=(1,), test_interval=0), "the solver has none"),
        ({}, SimpleNamespace(test_iter=(), test_interval=0), None),
    ],
)
def test_options_that_go_together(options: dict[str, Any], settings: Any, message: str | None) -> None:
    if message is None:
        TrainOptions(**options).check(settings)
        return
    with pytest.raises(TrainingError, match=message):
        TrainOptions(**options).check(settings)


def test_a_snapshot_holds_the_options_that_change_numbers() -> None:
    assert TrainOptions().to_decisions() == {}
    assert TrainOptions(save_init="x", keep=3, snapshot_epochs=2, amp="off").to_decisions() == {}
    given = TrainOptions("cosine", 5, "^a", 0.1, 0.2, 0.9, "bf16", 0.1, 3, 2, 1, "x")
    held = json.loads(given.to_decisions()["extras"])
    assert held == {
        "lr_policy": "cosine", "warmup": 5, "freeze": "^a", "label_smoothing": 0.1, "mixup": 0.2, "ema": 0.9,
        "amp": "bf16", "best_on": 0.1, "early_stopping": 3,
    }  # fmt: skip
    assert TrainOptions().completed(given.to_decisions()) == replace(given, keep=0, save_init=None, snapshot_epochs=0)
    assert TrainOptions(ema=0.5).completed(given.to_decisions()).ema == 0.5
    assert TrainOptions(ema=0.5).completed({}) == TrainOptions(ema=0.5)
    assert given.differences(given.to_decisions()) == []
    assert TrainOptions(warmup=6, mixup=0.1).differences({"extras": '{"warmup": 5, "ema": 0.9}'}) == [
        "ema was 0.9 and is now not given", "mixup was not given and is now 0.1", "warmup was 5 and is now 6"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("epochs", "sizes", "iter_size", "expected"),
    [(0, [(20, 4)], 1, 77), (1, [(20, 4)], 1, 5), (3, [(21, 4)], 1, 18), (1, [(21, 4)], 4, 1), (1, [(4, 4)], 2, 1),
     (1, [(8, 4), (40, 4)], 1, 10)],
)  # fmt: skip
def test_snapshots_by_epochs_count_batches(
    epochs: int, sizes: list[tuple[int, int]], iter_size: int, expected: int
) -> None:
    class Source(list[None]):
        batch_size = 0

    sources = []
    for count, batch in sizes:
        sources.append(Source([None] * count))
        sources[-1].batch_size = batch
    settings = replace(read_settings(SolverParameter(lr_policy="fixed", iter_size=iter_size)), snapshot=77)
    found = TrainOptions(snapshot_epochs=epochs).interval(settings, SimpleNamespace(sources=sources))  # type: ignore[arg-type]
    assert found.snapshot == expected
