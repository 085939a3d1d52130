"""Callbacks alone, on a run that is only what they look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from fusion.errors import TrainingError
from fusion.solver.callbacks import best_weights, keep_newest
from fusion.solver.callbacks.best_weights import BestWeights
from fusion.solver.callbacks.callback import Callback, CallbackList
from fusion.solver.callbacks.early_stopping import EarlyStopping
from fusion.solver.callbacks.ema import EMA, averaging_decay, ema_path
from fusion.solver.callbacks.from_options import callbacks_from_options
from fusion.solver.callbacks.keep_newest import KeepNewest, SaveInit
from fusion.solver.callbacks.loss_scale import LossScale
from fusion.solver.mixed_precision import Precision
from fusion.solver.train_options import TrainOptions

Call = SimpleNamespace


def call(kind: str, *bottoms: str, top: str = "t") -> Any:
    return Call(type=kind, bottoms=bottoms, tops=(top,))


def run_of(calls: Sequence[Any] = (), outputs: Sequence[str] = (), *, writes: bool = True) -> Any:
    said: list[str] = []
    plan = SimpleNamespace(calls=calls, outputs=[(name, name) for name in outputs])
    net = SimpleNamespace(plan=plan)
    settings = SimpleNamespace(prefix="run", snapshot_hdf5=False)
    display = SimpleNamespace(say=said.append, report=lambda lines, brief="": said.extend(lines))
    return SimpleNamespace(nets=[SimpleNamespace(net=net)], net=net, settings=settings, display=display, said=said,
                           writes=writes, iter=0)  # fmt: skip


class Result(dict[str, float]):
    """The mean outputs of a test."""

    loss = 0.0


def result(loss: float, **outputs: float) -> Any:
    found = Result(outputs)
    found.loss = loss
    return found


LOSS, ACCURACY = call("SoftmaxWithLoss", "ip", "label"), call("Accuracy", "ip", "label", top="acc")


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    paths: list[str] = []
    for module in (best_weights, keep_newest):
        monkeypatch.setattr(module, "save_weights", lambda net, path: paths.append(path))
    return paths


@pytest.mark.parametrize(
    ("calls", "outputs", "by_accuracy"),
    [
        ([LOSS, ACCURACY], ["acc", "loss"], True),
        ([ACCURACY, LOSS], ["acc"], True),
        ([LOSS], ["loss"], False),
        ([LOSS, ACCURACY], ["loss"], False),
        ([LOSS, ACCURACY, call("EuclideanLoss", "z", "target")], ["acc"], False),
        ([LOSS, ACCURACY, call("Softmax", "ip")], ["acc"], True),
        ([call("SoftmaxWithLoss", "ip", "label", top="acc")], ["acc"], False),
        ([LOSS, Call(type="Accuracy", bottoms=("ip", "label"), tops=()), ACCURACY], ["acc"], True),
    ],
)
def test_accuracy_decides_where_it_measures_the_only_task(
    saved: list[str], calls: Sequence[Any], outputs: Sequence[str], by_accuracy: bool
) -> None:
    best = BestWeights()
    best.run = run_of(calls, outputs)
    best.on_start()
    best.on_validation(10, result(2.0, acc=0.5))
    best.on_validation(20, result(1.0, acc=0.4))
    best.on_validation(30, result(3.0, acc=0.6))
    word = "acc = 0.5" if by_accuracy else "loss = 2"
    assert best.run.said[0] == f"Iteration 10, validation: {word}, the best so far: run_best.caffemodel"
    assert [("the best so far" in line) for line in best.run.said] == [True, not by_accuracy, by_accuracy]
    assert saved == ["run_best.caffemodel"] * 2


def test_equal_results_are_no_better_and_are_counted(saved: list[str]) -> None:
    best = BestWeights()
    best.run = run_of([LOSS, ACCURACY], ["acc"])
    best.on_finish(0)
    assert best.run.said == []
    best.on_start()
    counts = []
    for iteration, value in ((1, 0.5), (2, 0.5), (3, 0.25), (4, 0.75), (5, float("nan"))):
        best.on_validation(iteration, result(0.0, acc=value))
        counts.append(best.tests_since)
    assert counts == [0, 1, 2, 0, 1]
    assert best.run.said[1].endswith("acc = 0.5; the best was 0.5 in iteration 1")
    best.on_finish(5)
    assert best.run.said[-1] == "Best weights: 0.75 in iteration 4: run_best.caffemodel"
    again = BestWeights()
    again.load_state_dict(best.state_dict())
    again.run = run_of([LOSS, ACCURACY], ["acc"], writes=False)
    again.on_start()
    again.on_validation(6, result(0.0, acc=0.75))
    assert (again.tests_since, again.run.said) == (2, [
        "Iteration 6, validation: acc = 0.75; the best was 0.75 in iteration 4"
    ])  # fmt: skip
    again.on_validation(7, result(0.0, acc=0.8))
    assert len(saved) == 2, "another process writes"
    again.run.settings.snapshot_hdf5 = True
    assert again.path == "run_best.caffemodel.h5"


def test_losses_are_told_as_they_are(saved: list[str]) -> None:
    best = BestWeights()
    best.run = run_of([LOSS], ["loss"])
    best.on_start()
    best.on_validation(1, result(2.5))
    best.on_validation(2, result(3.5))
    assert best.run.said[1] == "Iteration 2, validation: loss = 3.5; the best was 2.5 in iteration 1"


def test_a_run_ends_after_as_many_tests_as_allowed() -> None:
    stopped: list[str] = []
    best = BestWeights()
    stopping = EarlyStopping(best, 3)
    stopping.run = SimpleNamespace(stop=stopped.append)  # type: ignore[assignment]
    for count in (2, 3):
        best.tests_since = count
        stopping.on_validation(1, result(0.0))
    assert stopped == ["Early stopping: no improvement in 3 tests"]


def test_decays_of_an_average() -> None:
    assert [averaging_decay(0.9, updates) for updates in (0, 1, 8)] == [0.1, 2 / 11, 0.5]
    assert averaging_decay(0.9, 10**6) == 0.9
    assert ema_path("a_iter_5.caffemodel") == "a_iter_5.ema.caffemodel"
    assert ema_path("a_iter_5.caffemodel.h5") == "a_iter_5.ema.caffemodel.h5"
    for decay in (0.0, 1.0, -0.1, 1.1):
        with pytest.raises(TrainingError, match="must lie between 0 and 1"):
            EMA(decay)


@pytest.mark.parametrize(("iteration", "state", "told"), [(0, {}, False), (5, {}, True), (5, {"0": [1.0]}, False)])
def test_an_average_that_starts_anew_is_told(iteration: int, state: dict[str, Any], told: bool) -> None:
    tensor = torch.nn.Parameter(torch.tensor([3.0]))
    flat = SimpleNamespace(updated=[tensor], homes=[(tensor, 0), None], view=lambda values, index: values[tensor])
    average = EMA(0.5)
    average.run = run_of()
    average.run.iter, average.run.flat_params = iteration, flat  # type: ignore[misc]
    average.load_state_dict({name: np.array(values, np.float32) for name, values in state.items()})
    average.on_start()
    assert bool(average.run.said) is told  # type: ignore[attr-defined]
    assert {name: values.tolist() for name, values in average.state_dict().items()} == {"0": [1.0 if state else 3.0]}
    average.on_tests_start(0)
    assert tensor.item() == (1.0 if state else 3.0)
    average.on_tests_end(0)
    assert tensor.item() == 3.0


def snapshot(iteration: int) -> tuple[str, str, str]:
    paths = tuple(f"run_iter_{iteration}.{ending}" for ending in ("caffemodel", "fusionstate", "solverstate"))
    for path in (*paths, f"run_iter_{iteration}.ema.caffemodel"):
        Path(path).touch()
    return paths  # type: ignore[return-value]


def test_the_newest_snapshots_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    keep = KeepNewest(2)
    for iteration in (5, 10, 10, 15):
        keep.on_snapshot(iteration, snapshot(iteration))
    left = sorted({path.name.split(".")[0] for path in tmp_path.iterdir()})
    assert left == ["run_iter_10", "run_iter_15"]
    assert len(list(tmp_path.iterdir())) == 8
    Path("run_iter_10.caffemodel").unlink()
    keep.on_snapshot(20, snapshot(20))
    assert not list(tmp_path.glob("run_iter_10*")), "a file that is gone already stops nothing"
    assert KeepNewest(0).count == 1


def test_the_first_weights_are_written_by_one_process(saved: list[str]) -> None:
    for writes in (False, True):
        first = SaveInit("init.caffemodel")
        first.run = run_of(writes=writes)
        first.on_start()
        assert first.run.said == ["weights before the first step: init.caffemodel"]
        assert saved == ["init.caffemodel"] * writes


def test_updates_that_were_left_out_are_told_once() -> None:
    scale = LossScale()
    precision = Precision("fp16")
    scale.run = run_of()
    scale.run.precision = precision  # type: ignore[misc]
    for skipped, tell in ((0, scale._log), (1, scale._log), (1, scale._log), (4, scale._log)):
        precision.skipped = skipped
        tell()
    assert [line.split(",")[0] for line in scale.run.said] == ["fp16: 1 update left out", "fp16: 3 updates left out"]
    precision.load_state_dict({**precision.state_dict(), "scale": 512.0})
    state = scale.state_dict()
    other = LossScale()
    other.run = run_of()
    other.run.precision = Precision("fp16")  # type: ignore[misc]
    other.load_state_dict(state)
    assert other.run.precision.scale == 512.0
    assert Precision().state_dict() == {}
    assert Precision().scale == 1.0


class Recorder(Callback):
    """Notes which hooks are called."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log, self.given = name, log, {}

    def on_start(self) -> None:
        self.log.append(f"{self.name} start")

    def on_end(self) -> None:
        self.log.append(f"{self.name} end")

    def on_tests_end(self, iteration: int) -> None:
        self.log.append(f"{self.name} tests end {iteration}")

    def state_dict(self) -> dict[str, Any]:
        return {"x": np.array(len(self.name))}

    def load_state_dict(self, state: Any) -> None:
        self.given = dict(state)


class Updating(Callback):
    """Overrides the hook that the innermost loop calls."""

    def on_update(self, iteration: int) -> None:
        """Take part."""


def test_hooks_are_called_in_order_and_ends_in_reverse() -> None:
    log: list[str] = []
    first, second = Recorder("a", log), Recorder("bb", log)
    updating = Updating()
    every = CallbackList(run_of(), [first, updating, second])
    every.call("on_start")
    every.call("on_tests_end", 7)
    every.call("on_end")
    assert log == ["a start", "bb start", "bb tests end 7", "a tests end 7", "bb end", "a end"]
    assert every.on_update == (updating.on_update,)
    assert {name: int(value) for name, value in every.state_dict().items()} == {"a.x": 1, "bb.x": 2}
    every.load_state_dict({"a.x": np.array(1), "bb.x": np.array(2), "bb.y": np.array(3), "c.x": np.array(4)})
    assert list(first.given) == ["x"]
    assert list(second.given) == ["x", "y"]
    assert_array_equal(second.given["x"], 2)


@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        ({}, []),
        ({"ema": 0.9, "best_on": 0.1, "early_stopping": 3, "keep": 2, "save_init": "x", "amp": "fp16"},
         [EMA, LossScale, BestWeights, EarlyStopping, KeepNewest, SaveInit]),
        ({"best_on": "list.txt"}, [BestWeights]),
        ({"amp": "bf16", "early_stopping": 3}, []),
    ],
)  # fmt: skip
def test_options_have_their_callbacks(options: dict[str, Any], kinds: list[type[Callback]]) -> None:
    assert [type(callback) for callback in callbacks_from_options(TrainOptions(**options))] == kinds


def test_an_average_moves_towards_the_weights_and_is_what_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[Any, str, float]] = []
    tensor = torch.nn.Parameter(torch.tensor([0.0]))
    flat = SimpleNamespace(updated=[tensor], homes=[(tensor, 0)], view=lambda values, index: values[tensor])
    average = EMA(0.5)
    average.run = run_of()
    average.run.flat_params = flat  # type: ignore[misc]
    average.on_snapshot(0, ["a.caffemodel", "b", "c"])
    monkeypatch.setattr(
        "fusion.solver.callbacks.ema.save_weights", lambda net, path: written.append((net, path, tensor.item()))
    )
    average.on_start()
    expected = 0.0
    for update in range(1, 12):
        with torch.no_grad():
            tensor += 1
        average.on_update(update)
        decay = min(0.5, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * update
    average.on_snapshot(11, ["a.caffemodel", "b", "c"])
    assert written == [(average.run.net, "a.ema.caffemodel", pytest.approx(expected))]
    assert tensor.item() == 11, "the weights themselves are back"
