"""A small net with its solver as files in the working directory, and what trains it as a process of its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, cast

import numpy as np
import pytest
from PIL import Image

NET = """
name: "small"
layer { name: "data" type: "ImageData" top: "data" top: "label" include { phase: TRAIN }
  image_data_param { source: "train.txt" batch_size: 4 is_color: false SHUFFLE } transform_param { scale: 0.01 } }
layer { name: "data" type: "ImageData" top: "data" top: "label" include { phase: TEST }
  image_data_param { source: "test.txt" batch_size: 3 is_color: false } transform_param { scale: 0.01 } }
layer { name: "trunk" type: "InnerProduct" bottom: "data" top: "trunk" FROZEN
  inner_product_param { num_output: 8 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "trunk" top: "trunk" }
layer { name: "ip" type: "InnerProduct" bottom: "trunk" top: "ip" param { lr_mult: 1 } param { lr_mult: 2 }
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "acc" type: "Accuracy" bottom: "ip" bottom: "label" top: "acc" include { phase: TEST } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
SOLVER = {
    "net": '"net.prototxt"', "test_iter": 4, "test_interval": 10, "base_lr": 0.05, "momentum": 0.9,
    "weight_decay": 0.001, "lr_policy": '"step"', "gamma": 0.5, "stepsize": 8, "display": 5, "max_iter": 20,
    "snapshot": 10, "snapshot_prefix": '"small"', "random_seed": 3, "average_loss": 4,
}  # fmt: skip
Make = Callable[..., Path]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Write pictures, lists, net and solver, and go there; returns the solver's path."""
    monkeypatch.chdir(tmp_path)

    def make(*, frozen: bool = True, shuffle: bool = False, records: int = 22, **solver: object) -> Path:
        rng = np.random.default_rng(0)
        for name, count in (("train", records), ("test", 12)):
            lines = []
            for index in range(count):
                label = index % 3
                pixels = rng.integers(0, 60, (5, 6)).astype(np.uint8)
                pixels[:, label * 2 : label * 2 + 2] += 150
                Image.fromarray(pixels).save(f"{name}{index}.png")
                lines.append(f"{name}{index}.png {label}\n")
            Path(f"{name}.txt").write_text("".join(lines))
        net = NET.replace("FROZEN", "param { lr_mult: 0 } param { lr_mult: 0 }" if frozen else "")
        Path("net.prototxt").write_text(net.replace("SHUFFLE", "shuffle: true" if shuffle else ""))
        lines = [f"{name}: {value}\n" for name, value in {**SOLVER, **solver}.items()]
        Path("solver.prototxt").write_text("".join(lines))
        return Path("solver.prototxt")

    return make


@pytest.fixture
def write_old(dense_net: Callable[..., str]) -> Callable[..., None]:
    """Return a function that writes an old net for the images of `project`, with random weights."""

    def write(outputs: int = 3, seed: int = 5, name: str = "old") -> None:
        from fusion import build, save_weights

        Path(f"{name}.prototxt").write_text(dense_net(outputs, source="train.txt", batch=5))
        net = build(f"{name}.prototxt", shapes={"data": (1, 1, 5, 6), "label": (1,)}, seed=seed)
        save_weights(net, f"{name}.caffemodel")

    return write


# Imports what training needs once, then makes a process of its own for every command line in a line of JSON.
_CODE = """
import json, os, sys
import fusion.solver.data_parallel
from caffe_fusion_tools.train import main

def run(log, arguments, environment):
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    os.environ.update(environment)
    code = 70
    try:
        code = main(arguments)
    except SystemExit as end:
        code = end.code
    except BaseException:
        import traceback
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)

for line in sys.stdin:
    job = json.loads(line)
    os.chdir(job["folder"])
    children = []
    for each in job["runs"]:
        child = os.fork()
        if not child:
            run(**each)
        children.append(child)
    print(json.dumps(children), flush=True)
    print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]), flush=True)
"""


class Starter:
    """Starts `fusion-train` in the working directory, alone or as several processes that work together."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", _CODE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def start(self, prefix: str, *options: str, processes: int = 1) -> list[int]:
        """Train with snapshots under this prefix, messages in PREFIX.log and PREFIX.RANK.log; returns their numbers."""
        solver = f"{prefix}.prototxt"
        Path(solver).write_text(Path("solver.prototxt").read_text().replace('"small"', f'"{prefix}"'))
        arguments = ["--solver", solver, "--device", "cpu", *options]
        port = str(_free_port())
        runs = []
        for rank in range(processes):
            torchrun = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "MASTER_ADDR": "localhost"}
            environment = {name: str(value) for name, value in torchrun.items()} | {"MASTER_PORT": port}
            log = f"{prefix}.{rank}.log" if rank else f"{prefix}.log"
            runs.append({"log": log, "arguments": arguments, "environment": environment if processes > 1 else {}})
        pipe = cast("IO[str]", self.process.stdin)
        pipe.write(json.dumps({"folder": str(Path.cwd()), "runs": runs}) + "\n")
        pipe.flush()
        found: list[int] = json.loads(cast("IO[str]", self.process.stdout).readline())
        return found

    def wait(self) -> list[int]:
        """Their exit codes, below 0 for a signal."""
        found: list[int] = json.loads(cast("IO[str]", self.process.stdout).readline())
        return found

    def run(self, prefix: str, *options: str, processes: int = 1) -> str:
        """Train to the end; returns the messages."""
        self.start(prefix, *options, processes=processes)
        codes = self.wait()
        assert codes == [0] * processes, "".join(path.read_text() for path in sorted(Path.cwd().glob(f"{prefix}*.log")))
        return Path(f"{prefix}.log").read_text()

    def stop(self) -> None:
        """End it."""
        cast("IO[str]", self.process.stdin).close()
        cast("IO[str]", self.process.stdout).close()
        self.process.wait(60)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def session_starter() -> Iterator[Starter]:
    """One for all tests; started when the first of them needs it."""
    if not hasattr(os, "fork"):
        pytest.skip("POSIX only")
    starter = Starter()
    yield starter
    starter.stop()


@pytest.fixture
def starter(project: Make, session_starter: Starter) -> Starter:
    """Trains in the project's folder."""
    return session_starter
