"""A process that is killed at any moment, what it leaves, and that going on from there gives the same weights."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, cast

import numpy as np
import pytest

from fusion.solver.snapshot import states
from prototxt import read_weights

Make = Callable[..., Path]

# Imports what training needs once, then makes a real process of its own for every command line that it reads.
_STARTER = """
import os, sys
from fusion_tools.train import main
import fusion.solver
for line in sys.stdin:
    log, *arguments = line.split()
    child = os.fork()
    if not child:
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
        code = 70
        try:
            code = main(arguments)
        finally:
            os._exit(code)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
_DROPPED = """layer { name: "drop" type: "Dropout" bottom: "trunk" top: "trunk" }
layer { name: "ip" type: "InnerProduct" """


class Starter:
    """Starts training processes, one at a time."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.to, self.of = cast("IO[str]", process.stdin), cast("IO[str]", process.stdout)

    def start(self, prefix: str, *options: str) -> int:
        """Train with snapshots under this prefix and messages in PREFIX.log; returns the process's number."""
        solver = f"{prefix}.prototxt"
        Path(solver).write_text(Path("solver.prototxt").read_text().replace('"small"', f'"{prefix}"'))
        self.to.write(" ".join([f"{prefix}.log", "--solver", solver, "--device", "cpu", *options]) + "\n")
        self.to.flush()
        return int(self.of.readline())

    def wait(self) -> int:
        """The process's exit code, below 0 for a signal."""
        return int(self.of.readline())


@pytest.fixture
def starter(project: Make) -> Iterator[Starter]:
    """In the project's folder, with one thread."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", _STARTER]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        yield Starter(process)
        cast("IO[str]", process.stdin).close()
        process.wait(60)


def make_random(project: Make, iterations: int) -> None:
    """A net whose every iteration draws: shuffled data, random crops and mirrors, dropout; snapshots without end."""
    project(frozen=False, shuffle=True, max_iter=iterations, snapshot=2, snapshot_after_train="true", test_interval=7)
    net = Path("net.prototxt").read_text().replace("scale: 0.01", "scale: 0.01 mirror: true crop_size: 4")
    Path("net.prototxt").write_text(net.replace('layer { name: "ip" type: "InnerProduct" ', _DROPPED))


def kill_often(starter: Starter, kills: int, longest: float, dice: random.Random) -> None:
    """Start, kill after a random while, start again with --resume, and so on."""
    for turn in range(kills):
        process, seen = starter.start("killed", "--resume"), len(states("killed"))
        while turn % 2 == 0 and len(states("killed")) <= seen:
            time.sleep(0.005)
        time.sleep(dice.uniform(0, longest))
        os.kill(process, signal.SIGKILL)
        assert starter.wait() == -signal.SIGKILL, Path("killed.log").read_text()


def series(starter: Starter, iterations: int, kills: int, longest: float, seed: int) -> None:
    """An undisturbed run and one that is killed again and again end with the same weights, bit for bit."""
    starter.start("whole")
    assert starter.wait() == 0, Path("whole.log").read_text()
    kill_often(starter, kills, longest, random.Random(seed))
    starter.start("killed", "--resume")
    assert starter.wait() == 0, Path("killed.log").read_text()
    expected, found = (read_weights(f"{prefix}_iter_{iterations}.caffemodel") for prefix in ("whole", "killed"))
    for name in expected:
        for one, other in zip(expected[name], found[name], strict=True):
            np.testing.assert_array_equal(one, other, err_msg=name)
    log = Path("killed.log").read_text()
    assert log.count(", exactly\n") >= (kills + 1) // 2
    assert "damaged" not in log
    assert "as Caffe does" not in log
    assert not list(Path.cwd().glob(".snapshot-*"))


pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX only")


def test_killed_twice(project: Make, starter: Starter) -> None:
    make_random(project, 120)
    series(starter, iterations=120, kills=2, longest=0.2, seed=1)


@pytest.mark.slow
def test_killed_twenty_times(project: Make, starter: Starter) -> None:
    """At random moments, many of them within the writing of a snapshot: it goes on all the time."""
    make_random(project, 4000)
    series(starter, iterations=4000, kills=20, longest=0.6, seed=int(os.environ.get("SEED", "2")))
