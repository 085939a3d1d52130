"""A process that is killed at any moment, what it leaves, and that going on from there gives the same weights."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusion.solver.snapshot import states
from prototxt import read_weights

Make = Callable[..., Path]
Starter = Any  # see conftest.py

_DROPPED = """layer { name: "drop" type: "Dropout" bottom: "trunk" top: "trunk" }
layer { name: "ip" type: "InnerProduct" """


def make_random(project: Make, iterations: int) -> None:
    """A net whose every iteration draws: shuffled data, random crops and mirrors, dropout; snapshots without end."""
    project(frozen=False, shuffle=True, max_iter=iterations, snapshot=2, snapshot_after_train="true", test_interval=7)
    net = Path("net.prototxt").read_text().replace("scale: 0.01", "scale: 0.01 mirror: true crop_size: 4")
    Path("net.prototxt").write_text(net.replace('layer { name: "ip" type: "InnerProduct" ', _DROPPED))


def kill_often(starter: Starter, kills: int, longest: float, dice: random.Random) -> None:
    """Start, kill after a random while, start again with --resume, and so on."""
    for turn in range(kills):
        (process,), seen = starter.start("killed", "--resume"), len(states("killed"))
        while turn % 2 == 0 and len(states("killed")) <= seen:
            time.sleep(0.005)
        time.sleep(dice.uniform(0, longest))
        os.kill(process, signal.SIGKILL)
        assert starter.wait() == [-signal.SIGKILL], Path("killed.log").read_text()


def series(starter: Starter, iterations: int, kills: int, longest: float, seed: int) -> None:
    """An undisturbed run and one that is killed again and again end with the same weights, bit for bit."""
    starter.run("whole")
    kill_often(starter, kills, longest, random.Random(seed))
    starter.run("killed", "--resume")
    expected, found = (read_weights(f"{prefix}_iter_{iterations}.caffemodel") for prefix in ("whole", "killed"))
    for name in expected:
        for one, other in zip(expected[name], found[name], strict=True):
            np.testing.assert_array_equal(one, other, err_msg=name)
    log = Path("killed.log").read_text()
    assert log.count(", exactly\n") >= (kills + 1) // 2
    assert "damaged" not in log
    assert "as Caffe does" not in log
    assert not list(Path.cwd().glob(".snapshot-*"))


def test_killed_twice(project: Make, starter: Starter) -> None:
    make_random(project, 120)
    series(starter, iterations=120, kills=2, longest=0.2, seed=1)


@pytest.mark.slow
def test_killed_twenty_times(project: Make, starter: Starter) -> None:
    """At random moments, many of them within the writing of a snapshot: it goes on all the time."""
    make_random(project, 4000)
    series(starter, iterations=4000, kills=20, longest=0.6, seed=int(os.environ.get("SEED", "2")))
