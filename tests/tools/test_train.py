"""fusion-train as a program: exit codes, messages, what it leaves behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from caffe_fusion_tools.train import main

from prototxt import read_weights

NET = """
layer { name: "data" type: "HDF5Data" top: "data" top: "label" hdf5_data_param { source: "list.txt" batch_size: 4 } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
SOLVER = """
net: "net.prototxt" base_lr: 0.05 momentum: 0.9 lr_policy: "fixed" display: 5 max_iter: 12 snapshot: 6
snapshot_prefix: "net" random_seed: 1
"""


@pytest.fixture(autouse=True)
def project(to_train: Callable[[str, str, int], None]) -> None:
    to_train(NET, SOLVER, 10)


def test_trains_and_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--solver", "solver.prototxt", "--device", "cpu"]) == 0
    output = capsys.readouterr()
    assert output.out == ""
    assert "Iteration 10" in output.err
    assert output.err.endswith("Optimization Done.\n")
    whole = read_weights("net_iter_12.caffemodel")["ip"][0].copy()
    Path("net_iter_12.caffemodel").unlink()
    assert main(["--solver", "solver.prototxt", "--snapshot", "net_iter_6.solverstate", "-q"]) == 0
    np.testing.assert_array_equal(read_weights("net_iter_12.caffemodel")["ip"][0], whole)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("going_on", [["--snapshot", "net_iter_6.solverstate"], ["--resume"]])
def test_a_run_without_a_seed_goes_on_with_that_of_its_snapshot(
    going_on: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("solver.prototxt").write_text(SOLVER.replace("random_seed: 1", ""))
    Path("net.prototxt").write_text(NET.replace("batch_size: 4", "batch_size: 4 shuffle: true"))
    assert main(["--solver", "solver.prototxt", "--device", "cpu", "-q"]) == 0
    whole = read_weights("net_iter_12.caffemodel")["ip"][0].copy()
    for path in Path().glob("net_iter_12.*"):
        path.unlink()
    assert main(["--solver", "solver.prototxt", "--device", "cpu", *going_on]) == 0
    assert "exactly" in capsys.readouterr().err
    np.testing.assert_array_equal(read_weights("net_iter_12.caffemodel")["ip"][0], whole)
    assert main(["--solver", "solver.prototxt", "--set", "random_seed=5", "--device", "cpu", *going_on]) == 0
    assert "but not the random draws: set random_seed: " in capsys.readouterr().err


def test_max_iter_and_weights() -> None:
    assert main(["--solver", "solver.prototxt", "--max-iter", "3", "-q"]) == 0
    assert main(["--solver", "solver.prototxt", "--weights", "net_iter_3.caffemodel", "--max-iter", "1", "-q"]) == 0
    assert Path("net_iter_1.solverstate").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--solver", "absent.prototxt"], "absent.prototxt"),
        (["--solver", "solver.prototxt", "--weights", "absent.caffemodel"], "absent.caffemodel"),
        (["--solver", "solver.prototxt", "--weights", "net.prototxt"], "net.prototxt"),
        (["--solver", "solver.prototxt", "--snapshot", "net.prototxt"], "net.prototxt"),
        (["--solver", "solver.prototxt", "--device", "quantum"], "quantum"),
        (["--solver", "net.prototxt"], "net.prototxt:2:1"),
    ],
)
def test_bad_input_is_one_message(arguments: list[str], message: str, refused: Callable[..., object]) -> None:
    refused(main, arguments, message)
    assert not list(Path.cwd().glob("*.caffemodel"))


@pytest.mark.parametrize(
    "arguments", [[], ["--solver", "s", "--max-iter", "0"], ["--solver", "s", "--cache-budget", "x"]]
)
def test_bad_usage(arguments: list[str], misused: Callable[..., object]) -> None:
    misused(main, arguments)


@pytest.mark.slow
def test_ctrl_c_takes_a_snapshot() -> None:
    Path("solver.prototxt").write_text(SOLVER.replace("max_iter: 12", "max_iter: 100000000").replace("snapshot: 6", ""))
    command = [sys.executable, "-m", "caffe_fusion_tools.train", "--solver", "solver.prototxt"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "] Iteration 10" in line:
                break
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        process.stderr.read()
        assert process.wait(60) == 130
    (state,) = Path.cwd().glob("*.solverstate")
    assert main(["--solver", "solver.prototxt", "--snapshot", str(state), "--max-iter", "1", "-q"]) == 0


def test_sigterm_and_sighup_end_a_command_like_ctrl_c() -> None:
    """Here while a file is being written, of which nothing is left."""
    code = """if True:
        import os, sys, time
        from caffe_fusion_tools.cli import run_command
        from prototxt.files import atomic_write
        def write():
            with atomic_write("file") as file:
                print("writing", flush=True)
                time.sleep(60)
        sys.exit(run_command(write))
    """
    for number, end in ((signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated"), (signal.SIGHUP, "hung up")):
        with subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "writing\n"
            process.send_signal(number)
            assert process.communicate(timeout=60)[1] == f"{end}\n"
        assert process.returncode == 128 + number
    assert not [path.name for path in Path.cwd().iterdir() if "file" in path.name]


def test_help_is_quick_and_needs_no_torch() -> None:
    code = "import sys, caffe_fusion_tools.train as t; t.parser(); sys.exit(bool({'torch', 'numpy'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
