"""The loop as a user meets it: caching, resuming, snapshots, messages, errors."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from fusion.errors import DataError, FusionError, TrainingError
from fusion.nets.build import params
from fusion.solver import Solver
from fusion.solver.logging.console import Bar, Lines, Silent
from fusion.solver.snapshots.files import names
from prototxt import read_solverstate, read_weights

Make = Callable[..., Path]


def solver(path: Path, **options: object) -> Solver:
    return Solver(path, device="cpu", display=options.pop("display", Silent()), **options)  # type: ignore[arg-type]


def weights(run: Solver) -> dict[str, list[np.ndarray]]:
    return {name: [t.detach().numpy().copy() for t in tensors] for name, tensors in params(run.net).items()}


def same(one: dict[str, list[np.ndarray]], other: dict[str, list[np.ndarray]]) -> bool:
    return all(np.array_equal(a, b) for name in one for a, b in zip(one[name], other[name], strict=True))


def test_cached_trunk_gives_the_numbers_of_the_live_one(project: Make) -> None:
    path = project()
    cached, live = solver(path), solver(path, cache_budget=0)
    before = weights(cached)
    for _ in range(12):
        assert cached.step() == pytest.approx(live.step(), rel=1e-5)
    np.testing.assert_allclose(cached.test()[0]["loss"], live.test()[0]["loss"], rtol=1e-5)
    assert cached.test()[0]["acc"] == pytest.approx(live.test()[0]["acc"])
    after = weights(cached)
    assert all(np.array_equal(a, b) for a, b in zip(before["trunk"], after["trunk"], strict=True))
    assert not np.array_equal(before["ip"][0], after["ip"][0])


def test_small_heads_have_a_closed_form_and_learn(project: Make) -> None:
    run = solver(project())
    first = run.step()
    assert run.engine.closed is not None
    run.step(60)
    assert run.test()[0]["acc"] > 0.9
    assert run.step() < first


def test_a_trunk_that_is_kept_or_not_as_before_is_told(project: Make) -> None:
    path, log = project(), io.StringIO()
    solver(path, cache_budget=0).train()
    run = solver(path, display=Lines(log))
    run.restore("small_iter_10.solverstate")
    run.step(1)
    assert "snapshot ran the trunk in each iteration (--no-cache): the last bits may differ" in log.getvalue()


@pytest.mark.slow
def test_a_run_does_not_wait_for_the_compiler(project: Make) -> None:
    """Whole, with a head in closed form: torch's compiler takes longer to import than small nets to train."""
    code = f"""
import sys
from fusion.solver import Solver
solver = Solver({str(project())!r})
solver.train()
print(solver.engine.closed is not None, "torch._dynamo" in sys.modules)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "True False"


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("shuffle", [True, False])
def test_a_resumed_run_equals_one_that_was_not_stopped(project: Make, frozen: bool, shuffle: bool) -> None:
    path = project(frozen=frozen, shuffle=shuffle)
    whole = solver(path)
    whole.train()
    resumed = solver(path)
    resumed.restore("small_iter_10.solverstate")
    assert resumed.iter == 10
    resumed.train()
    assert same(weights(whole), weights(resumed))


def test_snapshots_are_caffes_files(project: Make) -> None:
    run = solver(project())
    run.train()
    model, state, exact = names("small", 20)
    assert all(Path(path).exists() for path in (model, state, exact))
    stored = read_weights(model)
    assert same({name: stored[name] for name in stored}, weights(run))
    found = read_solverstate(state)
    assert (found.iter, found.learned_net, len(found.history)) == (20, model, 4)


def test_hdf5_snapshots(project: Make) -> None:
    pytest.importorskip("h5py")
    path = project(snapshot_format="HDF5")
    run = solver(path)
    run.train()
    resumed = solver(path)
    resumed.restore("small_iter_10.solverstate.h5")
    resumed.train()
    assert same(weights(run), weights(resumed))


def test_lines_are_caffes(project: Make) -> None:
    log = io.StringIO()
    solver(project(), display=Lines(log)).train()
    text = log.getvalue()
    assert "Iteration 0, Testing net (#0)\n    Test net output #0: acc = " in text
    assert "\n    Test net output #1: loss = " in text
    assert "Iteration 0, lr = 0.05\n" in text
    assert "Iteration 10, lr = 0.025\n" in text
    assert "Snapshotting to binary proto file small_iter_10.caffemodel\n" in text
    assert text.endswith("Optimization Done.\n")
    assert "loss = " in text.split("Iteration 20, ")[1]
    assert "frozen trunk computed once" in text


def test_bar_reports_too(project: Make) -> None:
    stream = io.StringIO()
    solver(project(), display=Bar(stream)).train()
    assert "\ntest: iteration 20, acc " in stream.getvalue()
    assert "\nsnapshot: small_iter_20.caffemodel\n" in stream.getvalue()


def test_interrupt_takes_a_snapshot(project: Make) -> None:
    run = solver(project(snapshot=0))

    class Interrupting(Silent):
        def say(self, text: str) -> None:
            if text.startswith("Iteration 5,"):
                os.kill(os.getpid(), signal.SIGINT)

    run.display = Interrupting()
    before = signal.getsignal(signal.SIGINT)  # ignored where a shell started the tests in the background
    with pytest.raises(KeyboardInterrupt):
        run.train()
    assert Path("small_iter_6.solverstate").exists()
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
def test_hang_up_takes_a_snapshot_and_goes_on(project: Make, number: signal.Signals) -> None:
    run = solver(project(snapshot=0))

    class HangingUp(Silent):
        def say(self, text: str) -> None:
            if text.startswith("Iteration 5,"):
                os.kill(os.getpid(), number)

    run.display = HangingUp()
    run.train()
    assert Path("small_iter_6.solverstate").exists()
    assert run.iter == 20


def test_loss_that_is_no_number(project: Make) -> None:
    run = solver(project(base_lr=1e30))
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf) in iteration \d") as error:
        run.train()
    assert "lower base_lr" in str(error.value)
    assert not Path("small_iter_20.caffemodel").exists()


def test_full_disk(project: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    run = solver(project())
    run.step(10)
    assert Path("small_iter_10.solverstate").exists()

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("prototxt.formats.solverstate.atomic_write", full)
    with pytest.raises(TrainingError, match="No space left on device") as error:
        run.step(10)
    assert "small_iter_10.solverstate" in str(error.value)
    assert not Path("small_iter_20.caffemodel").exists()
    assert Path("small_iter_10.caffemodel").exists()


def test_missing_snapshot_folder_is_found_before_training(project: Make) -> None:
    run = solver(project(snapshot_prefix='"nowhere/x"'))
    with pytest.raises(TrainingError, match="does not exist: nowhere"):
        run.train()
    assert run.iter == 0


def test_label_out_of_range(project: Make) -> None:
    path = project()
    with Path("train.txt").open("a") as file:
        file.write("train0.png 3\n")
    with pytest.raises(DataError, match=r"train.txt:23: label 3 is out of range 0..2"):
        solver(path)


def test_undecodable_pictures_are_found_before_training(project: Make) -> None:
    path = project()
    Path("train3.png").write_bytes(b"no picture")
    Path("train5.png").unlink()
    with pytest.raises(DataError) as error:
        solver(path).train()
    assert "train.txt:4: cannot decode the image 'train3.png'" in str(error.value)
    assert "train.txt:6: cannot read the image 'train5.png'" in str(error.value)


def test_state_of_another_net(project: Make) -> None:
    path = project()
    run = solver(path)
    run.step(10)
    other = Path("solver.prototxt").read_text() + 'type: "Adam"'
    Path("other.prototxt").write_text(other)
    with pytest.raises(FusionError, match="holds 4 history blobs, Adam on this net has 8"):
        solver(Path("other.prototxt")).restore("small_iter_10.solverstate")


def test_nothing_to_learn(project: Make) -> None:
    path = project()
    text = Path("net.prototxt").read_text().replace("lr_mult: 1", "lr_mult: 0").replace("lr_mult: 2", "lr_mult: 0")
    Path("net.prototxt").write_text(text)
    with pytest.raises(TrainingError, match="nothing to learn"):
        solver(path)


def test_several_weights_later_ones_win(project: Make) -> None:
    path = project(snapshot=5)
    solver(path).train()
    run = solver(path, weights=["small_iter_20.caffemodel", "small_iter_5.caffemodel"])
    stored = read_weights("small_iter_5.caffemodel")
    assert np.array_equal(weights(run)["ip"][0], stored["ip"][0])


def test_iter_size_adds_up(project: Make) -> None:
    path = project(iter_size=2)
    run = solver(path)
    run.step(3)
    assert run.nets[0].batches.position == 6


def test_same_seed_same_run(project: Make) -> None:
    path = project(shuffle=True)
    one, other = solver(path), solver(path)
    one.step(15)
    other.step(15)
    assert same(weights(one), weights(other))


def test_optimizer_is_one_of_torchs(project: Make) -> None:
    run = solver(project())
    assert isinstance(run.optimizer, torch.optim.Optimizer)
