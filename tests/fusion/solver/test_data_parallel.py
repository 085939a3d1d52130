"""Several processes that train together: as one process would, and what happens when one of them is gone."""

from __future__ import annotations

import io
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusion.solver import Solver
from fusion.solver.logging.console import Lines, Silent
from prototxt import read_weights

Make = Callable[..., Path]
Starter = Any  # see conftest.py
IP = 'layer { name: "ip" type: "InnerProduct"'
NORM = """layer { name: "norm" type: "BatchNorm" bottom: "trunk" top: "trunk"
  batch_norm_param { moving_average_fraction: 0.9 } }
"""
CONVOLVED = """layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { kernel_size: 2 stride: 2 } }
"""


def rewrite(*pairs: tuple[str, str]) -> None:
    """Replace parts of the net's description."""
    text = Path("net.prototxt").read_text()
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    Path("net.prototxt").write_text(text)


def stored(prefix: str, iterations: int = 20) -> dict[str, list[np.ndarray]]:
    weights = read_weights(f"{prefix}_iter_{iterations}.caffemodel")
    return {name: [np.array(array) for array in weights[name]] for name in weights}


def agree(one: dict[str, list[np.ndarray]], other: dict[str, list[np.ndarray]], tolerance: float) -> None:
    for name in one:
        for a, b in zip(one[name], other[name], strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(a).max(), err_msg=name)


def ignored_labels() -> None:
    ignoring = "loss_param { ignore_label: 2 normalization: VALID } }"
    rewrite(('bottom: "label" top: "loss" }', f'bottom: "label" top: "loss" {ignoring}'))


def summed() -> None:
    rewrite(
        (
            'bottom: "label" top: "loss" }',
            'bottom: "label" top: "loss" loss_weight: 0.1 loss_param { normalization: NONE } }',
        )
    )


def convolved() -> None:
    rewrite(('layer { name: "trunk"', CONVOLVED + 'layer { name: "trunk"'))
    rewrite(('bottom: "data" top: "trunk"', 'bottom: "pool" top: "trunk"'))


CASES: dict[str, tuple[dict[str, object], Callable[[], None]]] = {
    "from scratch": ({"frozen": False, "shuffle": True}, convolved),
    "head only": ({"frozen": True, "iter_size": 2, "clip_gradients": 1.0}, lambda: None),
    "BatchNorm": ({"frozen": False, "test_iter": 3, "momentum": 0.0}, lambda: rewrite((IP, NORM + IP))),
    "ignored labels": ({"frozen": True, "shuffle": True}, ignored_labels),
    "summed loss": ({"frozen": True, "type": '"Adam"', "momentum2": 0.99, "base_lr": 0.01}, summed),
}


@pytest.mark.parametrize(
    "case", [case if case == "from scratch" else pytest.param(case, marks=pytest.mark.slow) for case in CASES]
)
def test_two_processes_train_as_one(project: Make, starter: Starter, case: str) -> None:
    options, change = CASES[case]
    path = project(**options)
    change()
    whole = io.StringIO()
    Solver(path, device="cpu", display=Lines(whole)).train()
    log = starter.run("two", processes=2)
    assert "2 processes, each with its share of every batch" in log
    agree(stored("small"), stored("two"), 1e-4 if case == "BatchNorm" else 1e-5)
    assert (log.count("BatchNorm layers take statistics over all processes"), Path("two.1.log").read_text()) == (
        int(case == "BatchNorm"),
        "",
    )
    assert accuracies(log) == accuracies(whole.getvalue())


def accuracies(log: str) -> list[str]:
    """The accuracy of each test, as the log shows it."""
    found = [line.rpartition("= ")[2] for line in log.splitlines() if "acc = " in line]
    assert len(found) == 3
    return found


def test_scaled_processes_train_as_one_with_larger_batches(project: Make, starter: Starter) -> None:
    path = project(frozen=False)
    starter.run("two", "--auto-scale", processes=2)
    rewrite(("batch_size: 4", "batch_size: 8"))
    path.write_text(path.read_text().replace("base_lr: 0.05", "base_lr: 0.1"))
    Solver(path, device="cpu", display=Silent()).train()
    agree(stored("small"), stored("two"), 1e-5)


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_two_processes_in_mixed_precision(project: Make, starter: Starter, amp: str) -> None:
    """They leave the same updates out, for what overflows in one overflows in the mean."""
    project(frozen=False, base_lr=0.01)
    starter.run("one", "--amp", amp)
    starter.run("two", "--amp", amp, processes=2)
    agree(stored("one"), stored("two"), 1e-2)


@pytest.mark.slow
def test_local_statistics_end_equal_and_go_on_exactly(project: Make, starter: Starter) -> None:
    project(frozen=False, shuffle=True)
    drop = 'layer { name: "drop" type: "Dropout" bottom: "trunk" top: "trunk" }\n'
    rewrite((IP, NORM + drop + IP))
    starter.run("whole", "--batch-norm", "local", processes=2)
    starter.run("half", "--batch-norm", "local", "--max-iter", "10", processes=2)
    log = starter.run("half", "--batch-norm", "local", "--resume", processes=2)
    assert "Restored iteration 10 from half_iter_10.solverstate, exactly" in log
    assert "take statistics over each process's own share" in log
    agree(stored("whole"), stored("half"), 0.0)


@pytest.mark.slow
def test_neighbours_are_looked_for_in_the_whole_batch(project: Make, starter: Starter) -> None:
    path = project(shuffle=True)
    starter.run("two", "--reference", "@trunk", "--pct", "cna,on=ip,weight=0.1", processes=2)
    Solver(path, device="cpu", display=Silent(), references=["@trunk"], pct=["cna,on=ip,weight=0.1"]).train()
    agree(stored("small"), stored("two"), 1e-4)


def test_one_process_writes_the_trunk_and_all_read_it(project: Make, starter: Starter) -> None:
    path = project(shuffle=True)
    log = starter.run("two", "--cache-dir", "kept", processes=2)
    assert "trunk for 22 records, 0 MiB, written to kept/" in log
    assert len(list(Path("kept").iterdir())) == 2
    Solver(path, device="cpu", display=Silent()).train()
    agree(stored("small"), stored("two"), 1e-5)


def test_batches_that_cannot_be_divided(project: Make, starter: Starter) -> None:
    project()
    rewrite(("batch_size: 4", "batch_size: 5"))
    starter.start("odd", processes=2)
    assert starter.wait() == [1, 1]
    assert (
        "batches of 5 cannot be divided among 2 processes\n  hint: set batch_size to 4" in Path("odd.log").read_text()
    )


def test_one_asks_and_all_stop_with_a_snapshot(project: Make, starter: Starter) -> None:
    project(max_iter=10**6, snapshot=0, test_interval=0, test_iter=None, display=1000)
    path = Path("solver.prototxt")
    path.write_text("\n".join(line for line in path.read_text().splitlines() if "test_" not in line))
    processes = starter.start("asked", processes=2)
    wait_for(lambda: "Iteration 0, lr" in Path("asked.log").read_text())
    os.kill(processes[1], signal.SIGHUP)
    wait_for(lambda: list(Path.cwd().glob("asked_iter_*.solverstate")))
    os.kill(processes[1], signal.SIGINT)
    assert starter.wait() == [130, 130]
    assert len(list(Path.cwd().glob("asked_iter_*.solverstate"))) == 2


def wait_for(condition: Callable[[], object], patience: float = 60.0) -> None:
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def lose(starter: Starter, number: signal.Signals) -> None:
    """Lose the second of two processes in the midst of training, and wait until the other one has ended."""
    processes = starter.start("lost", processes=2)
    wait_for(lambda: Path("lost_iter_10.solverstate").exists())
    os.kill(processes[1], number)
    wait_for(lambda: "error:" in Path("lost.log").read_text(), 90)
    if number != signal.SIGKILL:  # a process that is dead may be reaped by now
        os.kill(processes[1], signal.SIGKILL)
    assert starter.wait() == [1, -signal.SIGKILL]


@pytest.mark.slow
def test_a_killed_process_is_reported_and_training_goes_on_later(project: Make, starter: Starter) -> None:
    project(max_iter=600, snapshot=10, test_interval=1000, display=1000)
    lose(starter, signal.SIGKILL)
    assert "process 1 (" in Path("lost.log").read_text()
    assert "start all of them again with --resume" in Path("lost.log").read_text()
    log = starter.run("lost", "--resume", "--max-iter", "600", processes=2)
    assert ", exactly" in log
    starter.run("whole", processes=2)
    agree(stored("whole", 600), stored("lost", 600), 0.0)


@pytest.mark.slow
def test_a_process_that_hangs_is_reported(project: Make, starter: Starter) -> None:
    project(max_iter=10**6, snapshot=10, test_interval=10**6, display=0)
    lose(starter, signal.SIGSTOP)
    assert "has been silent for 25 seconds" in Path("lost.log").read_text()
