"""fusion-run: a whole job by one command; unchanged steps are skipped, killed trainings continue with the same bits."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from caffe_fusion_tools.run import main

from fusion import pct
from fusion.job.job import Job
from prototxt.formats.weights import read_weights

JobFile = Callable[..., Path]
Capture = pytest.CaptureFixture[str]
TITLES = ("compose", "compose", "merge", "verify", "test", "test", "train", "test", "train", "test", "report")


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # no measurement of threads


def commands(output: str) -> list[str]:
    return [line for line in output.splitlines() if line.startswith("fusion-")]


@pytest.mark.slow
def test_a_job_from_nets_to_report_and_export(job_folder: JobFile, capsys: Capture) -> None:
    path = str(job_folder("[gate]\nmax_nfr = '50%'\n"))
    assert main([path]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    found = commands(out)
    assert [re.match(r"fusion-(\w+) ", line)[1] for line in found] == [*TITLES, "merge", "export"]  # type: ignore[index]
    assert all(re.search(r"  # [\d.]+ s$", line) for line in found)
    assert "kept: NFR of fused-pct is" in out
    assert out.splitlines()[-2].startswith("13 steps in ")
    assert out.splitlines()[-1].split() == ["out/report.html", "out/report.json", "out/pct/deploy.caffemodel",
                                            "out/pct/deploy.onnx"]  # fmt: skip
    # the originals are right about all images of their classes, and were asked about all images
    low = pct.Predictions.load("out/low.npz")
    assert (len(low), low.classes.tolist(), pct.accuracy(low.take(low.labels < 3))) == (30, [0, 1, 2], 1.0)
    report = json.loads(Path("out/report.json").read_text())
    assert report["old"]["name"] == "low ∪ high"
    assert [one["name"] for one in report["new"]] == ["fused-plain", "fused-pct"]
    assert "<title>" in Path("out/report.html").read_text()
    trained, deployed = (read_weights(f"out/pct/{name}.caffemodel") for name in ("fused_iter_40", "deploy"))
    assert sorted(trained) == sorted([*deployed, "low/ip2", "high/ip2"])
    np.testing.assert_array_equal(trained["ip2"][0], deployed["ip2"][0])
    assert not (trained["ip2"][0] == read_weights("out/plain/fused_iter_40.caffemodel")["ip2"][0]).all()

    # nothing has changed: nothing runs
    assert main([path]) == 0
    out = capsys.readouterr().out
    assert commands(out) == []
    assert "0 steps in" in out
    assert ", 13 unchanged" in out

    # a test image has changed: the nets are tested again, and not trained
    os.utime("test/00_0.png", (1, 1))
    assert main([path, "--dry-run"]) == 0
    planned = capsys.readouterr().out.splitlines()
    assert [line.endswith("# to do") for line in planned] == [command in ("test", "report") for command in TITLES] + [
        False,
        False,
    ]
    assert main([path]) == 0
    ran = commands(capsys.readouterr().out)
    assert [line.split()[0] for line in ran][:4] == ["fusion-test"] * 4

    # a gate that is not kept: the report's exit code, no step after it, and no step before it again
    Path(path).write_text(Path(path).read_text().replace("'50%'", "0\nmin_accuracy = '100%'\nmax_nfr_upper = 0"))
    assert main([path]) == 3
    out, err = capsys.readouterr()
    assert len(commands(out)) == 1
    assert commands(out)[0].endswith(", exit code 3")
    assert "BROKEN: " in out
    assert "the job stops at step report" in err
    assert main([path, "--from", "deploy"]) == 3  # steps before it are no exception


def test_from_and_force_run_unchanged_steps(job_folder: JobFile, capsys: Capture) -> None:
    path = job_folder()
    path.write_text("plain = false\nreport = false\nexport = false\nverify = false\n" + path.read_text())
    assert main([str(path)]) == 0
    before = Path("out/pct/fused_iter_40.caffemodel").read_bytes()
    capsys.readouterr()
    assert main([str(path), "--from", "train"]) == 0
    assert [line.split()[0] for line in commands(capsys.readouterr().out)] == ["fusion-train", "fusion-test"]
    assert main([str(path), "--force"]) == 0
    assert len(commands(capsys.readouterr().out)) == 4
    assert Path("out/pct/fused_iter_40.caffemodel").read_bytes() == before
    assert main([str(path), "--from", "test", "--quiet"]) == 0
    out = capsys.readouterr().out
    assert "accuracy = 0.666667" in out
    assert not re.search("fusion-|steps in|deploy", out)
    assert main([str(path), "--from", "tarin"]) == 1
    assert "did you mean 'train'?" in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_training_continues_with_the_same_bits(job_folder: JobFile, capsys: Capture) -> None:
    path = job_folder()
    text = "plain = false\nreport = false\nexport = false\nverify = false\n" + path.read_text()
    path.write_text(text.replace("max_iter = 40", "max_iter = 1500").replace('"out"', '"whole"'))
    assert main([str(path)]) == 0
    path.write_text(text.replace("max_iter = 40", "max_iter = 1500"))
    with subprocess.Popen(
        [sys.executable, "-m", "caffe_fusion_tools.run", str(path)], stdout=subprocess.DEVNULL
    ) as run:
        states = []
        while not states and run.poll() is None:
            states = [state for state in Path().glob("out/pct/*.solverstate") if "1500" not in state.name]
            time.sleep(0.001)
        run.send_signal(signal.SIGKILL)
    assert states, "it was killed too late"
    assert not Path("out/pct/fused_iter_1500.caffemodel").exists()
    capsys.readouterr()
    assert main([str(path), "--dry-run"]) == 0
    assert [line.rpartition("# ")[2] for line in capsys.readouterr().out.splitlines()] == [
        *("unchanged", "unchanged", "to resume", "to do"),
    ]
    assert main([str(path)]) == 0
    first = commands(capsys.readouterr().out)[0]
    assert re.search(r"^fusion-train .* --resume  # ", first)
    finals = [Path(f"{folder}/pct/fused_iter_1500.caffemodel").read_bytes() for folder in ("whole", "out")]
    assert finals[0] == finals[1]


def test_only_one_run_works_in_a_folder(job_folder: JobFile, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    path = job_folder()
    with Job("out", ()).held():
        assert main([str(path)]) == 1
    assert re.search(r"out/run.lock: another run works in this folder: .*, pid \d+", capsys.readouterr().err)


def test_errors_of_steps_are_shown(job_folder: JobFile, capsys: Capture) -> None:
    path = str(job_folder())
    os.truncate("train/01_1.png", 20)
    assert main([path]) == 1
    out, err = capsys.readouterr()
    assert commands(out)[-1].startswith("fusion-train ")
    assert re.search(r"^error: .*train/01_1.png", err, re.MULTILINE)
    assert err.count("error: ") == 1
    assert err.endswith("the job stops at step train-plain; its output is in out/log/train-plain.txt\n")


@pytest.mark.slow
def test_times_and_memory_are_measured_by_a_trial(job_folder: JobFile, capsys: Capture) -> None:
    path = str(job_folder())
    assert main([path, "--dry-run", "--measure"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 13 + 3
    for line, name in zip(lines[13:15], ("plain", "pct"), strict=True):
        assert re.fullmatch(rf"train-{name}: about [\d.]+ s: [\d.]+ s to begin with, then 40 iterations of [\d.]+ ms; "
                            "tests and snapshots not counted", line)  # fmt: skip
    assert re.fullmatch(r"memory: \d+\.\d GiB at the peak of these trials", lines[15])
    assert not Path("out").exists()


def test_a_job_is_written_from_nets(job_folder: JobFile, capsys: Capture) -> None:
    job_folder().unlink()
    nets = ["low.prototxt:low.caffemodel", "high.prototxt:high.caffemodel"]
    assert main(["--init", *nets, "--data", "train.txt", "-o", "job.toml"]) == 0
    assert capsys.readouterr().out == "wrote job.toml\nto decide: low: classes\nto decide: high: classes\n"
    text = Path("job.toml").read_text()
    assert main(["--init", *nets, "--data", "train.txt", "-o", "job.toml"]) == 1
    assert "this file exists" in capsys.readouterr().err
    assert main(["job.toml", "--dry-run"]) == 1
    assert "scores 3 classes in 'low/ip2', the fused net 5" in capsys.readouterr().err
    for classes in ([0, 1, 2], [3, 4]):
        text = re.sub(r"# classes = \.\.\..*", f"classes = {classes}", text, count=1)
    Path("job.toml").write_text(text)
    assert main(["job.toml", "--dry-run"]) == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "give a file JOB.toml, or write one with --init"),
        (["job.toml", "--init", "a.onnx"], "not both"),
        (["--init", "a.onnx", "-o", "job.toml"], "--init needs --data"),
        (["job.toml", "--data", "x"], "go with --init"),
        (["job.toml", "--measure"], "--measure goes with --dry-run"),
    ],
)
def test_bad_usage(words: list[str], says: str, misused: Callable[..., None]) -> None:
    misused(main, words, says)
