"""fusion-train's options beyond the solver file: reports, plans, timing, what goes together."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from caffe_fusion_tools import curve_plot, train
from caffe_fusion_tools.train import main
from caffe_fusion_tools.training_options import check_options, parser
from PIL import Image

from fusion.report.curves import read_log
from prototxt import read_weights

NET = """
name: "three"
layer { name: "data" type: "HDF5Data" top: "data" top: "label" hdf5_data_param { source: "list.txt" batch_size: 4 } }
layer { name: "trunk" type: "InnerProduct" bottom: "data" top: "trunk"
  inner_product_param { num_output: 6 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "trunk" top: "trunk" }
layer { name: "ip" type: "InnerProduct" bottom: "trunk" top: "ip"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "acc" type: "Accuracy" bottom: "ip" bottom: "label" top: "acc" include { phase: TEST } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
SOLVER = """
net: "net.prototxt" base_lr: 0.05 momentum: 0.9 lr_policy: "fixed" display: 5 max_iter: 12 snapshot: 6
snapshot_prefix: "net" random_seed: 1 test_iter: 2 test_interval: 4
"""
TRAIN = ("--solver", "solver.prototxt", "--device", "cpu")


@pytest.fixture(autouse=True)
def project(to_train: Callable[[str, str, int], None]) -> None:
    to_train(NET, SOLVER, 20)


def records(path: str = "run.jsonl") -> list[dict[str, object]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_log_files_agree_and_are_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    files = ["--log", "run.log", "--log-json", "run.jsonl", "--plot", "run.png"]
    assert main([*TRAIN, *files, "-q"]) == 0
    assert capsys.readouterr().err == ""
    found = records()
    assert [record["kind"] for record in found] == [
        *("start", "test", "train", "test", "train", "snapshot", "test", "train", "snapshot", "test", "end"),
    ]  # fmt: skip
    start, train = found[0], found[4]
    assert (start["version"], start["net"], start["max_iter"], start["device"]) == (1, "three", 12, "cpu")
    assert (train["iter"], train["lr"]) == (5, pytest.approx(0.05))
    assert set(train) == {"kind", "iter", "loss", "lr", "it_s", "outputs", "time", "seconds", "memory"}
    assert train["memory"]["resident"] > 1e6  # type: ignore[index]
    assert set(found[1]["outputs"]) == {"acc", "loss"}  # type: ignore[call-overload]
    text, objects = read_log("run.log", "run"), read_log("run.jsonl", "run")
    for one, other in (
        (text.loss, objects.loss),
        (text.rates, objects.rates),
        (text.tests["acc"], objects.tests["acc"]),
    ):
        assert [i for i, _ in one] == [i for i, _ in other]
        np.testing.assert_allclose([v for _, v in one], [v for _, v in other], rtol=1e-5)
    with Image.open("run.png") as picture:
        assert picture.size == (2160, 652)
        assert len(set(picture.convert("L").resize((200, 60)).tobytes())) > 5


def test_a_resumed_run_goes_on_with_its_log_and_options() -> None:
    assert main([*TRAIN, "--log-json", "run.jsonl", "--warmup", "8", "--lr-policy", "cosine", "-q"]) == 0
    whole = read_weights("net_iter_12.caffemodel")["ip"][0].copy()
    before = len(records())
    Path("net_iter_12.solverstate").unlink()
    assert main([*TRAIN, "--resume", "--log-json", "run.jsonl", "-q"]) == 0
    np.testing.assert_array_equal(read_weights("net_iter_12.caffemodel")["ip"][0], whole)
    assert [record["iter"] for record in records()[before:]][:2] == [6, 8]
    assert main([*TRAIN, "--snapshot", "net_iter_6.solverstate", "--lr-policy", "fixed", "-q"]) == 0
    assert not np.array_equal(read_weights("net_iter_12.caffemodel")["ip"][0], whole)


def test_mixed_precision_from_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TRAIN, "--amp", "bf16", "--dry-run"]) == 0
    assert re.match(
        r"Net: three, SGD on the CPU \(\d+ threads?\), in mixed precision \(bf16\)\n", capsys.readouterr().out
    )
    assert main([*TRAIN, "--amp", "bf16"]) == 0
    text = capsys.readouterr().err
    assert "mixed precision: products and convolutions in bfloat16; weights, losses, updates, tests in float32" in text
    whole = read_weights("net_iter_12.caffemodel")["ip"][0].copy()
    assert main([*TRAIN, "--snapshot", "net_iter_6.solverstate", "-q"]) == 0
    np.testing.assert_array_equal(read_weights("net_iter_12.caffemodel")["ip"][0], whole)
    assert main([*TRAIN, "-q"]) == 0
    assert not np.array_equal(read_weights("net_iter_12.caffemodel")["ip"][0], whole)
    assert main([*TRAIN, "--time", "--iterations", "1", "--amp", "bf16"]) == 0
    assert "Average Forward-Backward" in capsys.readouterr().err


def test_tensorboard(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert main([*TRAIN, "--tensorboard", "events", "-q"]) == 0
    events = accumulator.EventAccumulator("events")
    events.Reload()
    assert {"train/loss", "train/lr", "train/it/s", "test0/acc", "test0/loss"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("test0/acc")] == [0, 4, 8, 12]
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto", None)
    assert main([*TRAIN, "--tensorboard", "events"]) == 1
    assert "pip install caffe-fusion[tensorboard]" in capsys.readouterr().err


def test_plan_without_training(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TRAIN, "--dry-run", "--freeze", "trunk", "--best-on", "0.2", "--lr", "0.1", "--warmup", "3"]) == 0
    text = capsys.readouterr().out
    assert re.match(r"Net: three, SGD on the CPU \(\d+ threads?\)\n", text)
    assert "learns 21 values in 1 layers: ip" in text
    assert "keeps 30 values in 1 layers: trunk" in text
    assert "16 records in batches of 4 to data, label" in text
    assert "3 passes over them in all" in text
    assert "frozen trunk up to trunk: computed once, 0.000427 MiB in memory" in text
    assert "Validation data:\n  4 records in batches of 4" in text
    assert "12 iterations, from 0 to 12\n  learning rate 0.1, fixed, rising in the first 3" in text
    assert "snapshots every 6 iterations: net_iter_N.caffemodel" in text
    assert re.search(r"Memory, about: [\d.e-]+ MiB \(", text)
    assert not list(Path().glob("net_*"))
    for more in ([], ["--set", "snapshot=0"], ["--set", "snapshot_after_train=false"]):
        assert main([*TRAIN, "--dry-run", "--set", "snapshot_prefix=nowhere/x", *more]) == 1
        assert "does not exist: nowhere" in capsys.readouterr().err
    none = ["--set", "snapshot=0", "--set", "snapshot_after_train=false"]
    assert main([*TRAIN, "--dry-run", "--set", "snapshot_prefix=nowhere/x", *none]) == 0


@pytest.mark.parametrize("what", [["--solver", "solver.prototxt"], ["--model", "net.prototxt"]], ids=str)
def test_time_as_caffe_prints_it(what: list[str], golden: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*what, "--time", "--iterations", "3", "--device", "cpu"]) == 0
    caffes = (golden / "misc" / "solverlog" / "run" / "time.log").read_text().splitlines()
    said = [line.split("] ", 1)[1] for line in caffes if re.search(r" caffe\.cpp:[34]\d\d\] ", line)]
    expected = [re.sub(r"\bconv\b", "trunk", form(line)) for line in said]
    ours = [form(line.split("] ", 1)[1]) for line in capsys.readouterr().err.splitlines()]
    assert [line.strip() for line in ours] == [line.strip() for line in expected]


def form(line: str) -> str:
    return re.sub(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e[-+]\d+)?", "#", line)


def test_a_deploy_net_can_be_timed(capsys: pytest.CaptureFixture[str]) -> None:
    Path("deploy.prototxt").write_text(
        'layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 2 dim: 4 } } }\n'
        + "".join(part for part in re.split(r"(?=^layer)", NET, flags=re.MULTILINE) if "label" not in part)
    )
    assert main(["--model", "deploy.prototxt", "--time", "--iterations", "1", "--device", "cpu"]) == 0
    assert "        ip\tbackward: " in capsys.readouterr().err


@pytest.mark.parametrize(("setting", "message"), [
    ("base_lrr=1", "SolverParameter has no field 'base_lrr'"),
    ("base_lr", "not KEY=VALUE"),
    ("base_lr=fast", "fast"),
    ("train_state=a", "train_state is a block (NetState)"),
    ("train_state.stag=a", "NetState has no field 'stag'"),
    ("test_state.stage=a", "test_state may occur several times"),
    ("base_lr.x=1", "base_lr has no fields of its own"),
    ("type=SDG", "unknown solver type 'SDG'"),
    ("iter_size=0", "iter_size must be at least 1"),
])  # fmt: skip
def test_settings_that_are_none(setting: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TRAIN, "--set", setting]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_settings_are_set(capsys: pytest.CaptureFixture[str]) -> None:
    values = ["lr_policy=multistep", "stepvalue=2, 4", "gamma=0.5", "max_iter=6", "snapshot_prefix=other", "momentum=0"]
    assert main([*TRAIN, *(part for value in values for part in ("--set", value)), "--lr", "0.4"]) == 0
    text = capsys.readouterr().err
    assert "Iteration 0, lr = 0.4" in text
    assert "Iteration 5, lr = 0.1" in text
    assert Path("other_iter_6.caffemodel").exists()
    assert main([*TRAIN, "--set", "base_lrr=1", "--set", "gama=2"]) == 1
    error = capsys.readouterr().err
    assert "did you mean 'base_lr'?" in error
    assert "did you mean 'gamma'?" in error


def test_init_only_names_and_best(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TRAIN, "--save-init", "init.caffemodel", "--best-on", "0.25", "--keep", "1", "-q"]) == 0
    assert {path.name for path in Path().glob("*.caffemodel")} == {
        *("init.caffemodel", "net_best.caffemodel", "net_iter_12.caffemodel"),
    }  # fmt: skip


MODEL = ("--model", "net.prototxt")
NO_PLAN = "--time neither plans nor resumes a run"


@pytest.mark.parametrize(("arguments", "says"), [
    ([], "give --solver SOLVER.prototxt\n"),
    (MODEL, "--model goes with --time"),
    ([*MODEL, *TRAIN], "--model goes with --time"),
    ([*MODEL, *TRAIN, "--time"], "or --model, not both"),
    ([*TRAIN, "--sweep", "loss=kd", "--mixup", "0.9"], "no --mixup: heads learn"),
    ([*TRAIN, "--sweep", "loss=kd", "--compile"], "no --compile: heads are traced"),
    ([*TRAIN, "--time", "--dry-run"], NO_PLAN),
    ([*TRAIN, "--time", "--snapshot", "x"], NO_PLAN),
    ([*TRAIN, "--time", "--resume"], NO_PLAN),
    ([*TRAIN, "--time", "--compile"], "no --compile"),
    ([*TRAIN, "--dry-run", "--pct", "kd", "--pct", "auto,kind=kd"], "it cannot choose"),
    ([*TRAIN, "--resume", "--snapshot", "x"], "leave --snapshot out"),
    ([*TRAIN, "--weights", "w", "--snapshot", "x"], "not allowed with argument"),
    ([*TRAIN, "--amp", "half"], "invalid choice: 'half'"),
    ([*TRAIN, "--keep", "0"], "'0' is not a whole number from 1"),
    ([*TRAIN, "--threads", "0"], "'0' is not a whole number from 1"),
    ([*TRAIN, "--lr-policy", "cosin"], "invalid choice: 'cosin'"),
], ids=str)  # fmt: skip
def test_what_does_not_go_together(arguments: list[str], says: str, misused: Callable[..., object]) -> None:
    misused(main, arguments, says)


@pytest.mark.parametrize("arguments", [
    [*TRAIN], [*TRAIN, "--resume"], [*TRAIN, "--snapshot", "x"], [*TRAIN, "--dry-run", "--pct", "kd"],
    [*TRAIN, "--dry-run", "--resume"], [*TRAIN, "--pct", "auto"], [*TRAIN, "--compile"], [*TRAIN, "--time"],
    [*MODEL, "--time"], [*TRAIN, "--sweep", "loss=kd"],
], ids=str)  # fmt: skip
def test_what_does(arguments: list[str]) -> None:
    usage = parser()
    check_options(usage.parse_args(arguments), usage)


@pytest.mark.parametrize(
    ("words", "weights", "resume"),
    [
        ([], None, False),
        (["--weights", "a,b"], ["a", "b"], False),
        (["--snapshot", "x"], [], True),
        (["--resume"], None, True),
        (["--resume", "--weights", "a"], ["a"], True),
    ],
)
def test_the_weights_that_a_run_starts_from(
    words: list[str], weights: object, resume: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(train, "_solver_options", lambda options, display: {"display": display})
    monkeypatch.setattr("fusion.sweep.choose_pct", lambda *call, **given: asked.append((*call, given)) or {"x": 1})
    monkeypatch.setattr("fusion.solver.Solver", lambda *call, **given: (*call, given))
    found: object = train._open(parser().parse_args(["--solver", "s", *words]), None)
    assert found == ("s", weights, {"x": 1})
    assert asked == [("s", weights, {"select_on": 0.1, "slack": 0.003, "resume": resume, "display": None})]


@pytest.mark.parametrize(
    ("words", "omp", "threads"),
    [([], None, "auto"), ([], "2", None), (["--threads", "3"], "2", 3), (["--threads", "auto"], "2", "auto")],
)
def test_the_number_of_threads(
    words: list[str], omp: str | None, threads: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if omp is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", omp)
    more = ["--batch-norm", "local", "--auto-scale"]
    found = train._solver_options(parser().parse_args([*TRAIN, *words, *more]), None)
    assert found["threads"] == threads
    assert (found["data_parallel"].batch_norm, found["data_parallel"].auto_scale) == ("local", True)


def entry(name: str, loss: str, diverged: bool = False, chosen: bool = False) -> SimpleNamespace:
    return SimpleNamespace(cell=SimpleNamespace(name=name, loss=loss), diverged=diverged, chosen=chosen)


@pytest.mark.parametrize(
    ("entries", "baseline"),
    [
        ([entry("a", "kd"), entry("b", "none"), entry("c", "none")], " --baseline d/new/b.npz"),
        ([entry("a", "none", diverged=True), entry("b", "none", chosen=True), entry("c", "kd")], ""),
    ],
)
def test_a_sweep_says_how_to_report_it(
    entries: list[SimpleNamespace], baseline: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []
    result = SimpleNamespace(entries=entries, best=SimpleNamespace(name="best"))
    monkeypatch.setattr("fusion.sweep.sweep", lambda *call: asked.append(call) or result)
    for words, weights, threads in (([], None, 1), (["--weights", "w", "--threads", "2"], ["w"], 2)):
        assert main([*TRAIN, "--sweep", "loss=kd,none", "--output", "d", *words]) == 0
        out = capsys.readouterr().out
        assert out == (
            f"{len(entries)} heads in d/table.csv; chosen: best\n"
            f"  fusion-report --old d/old/*.npz --new d/new/*.npz{baseline}"
            " --featured d/new/best.npz --html d/report.html\n"
        )
        assert (asked[-1][0], asked[-1][2].weights, asked[-1][2].threads) == ("solver.prototxt", weights, threads)


def test_a_curve_of_the_first_test_net_and_its_single_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr(curve_plot, "write_plot", lambda path, curve: drawn.append((path, curve)))
    plot = curve_plot.CurvePlot("run.png")
    plot.on_tests_end(0)
    assert drawn == [], "nothing to draw yet"
    metrics: Any = SimpleNamespace
    for index, name in ((0, "acc"), (1, "other")):
        plot.on_test_end(4, index, metrics(outputs=[(name, [0.5], 0.0), ("each", [1.0, 2.0], 0.0)]))
    plot.on_display(metrics(iteration=5, loss=3.0, rate=0.1))
    plot.on_display(metrics(iteration=6, loss=2.0, rate=None))
    plot.on_end()
    ((path, curve),) = drawn
    assert (path, curve.name, list(curve.loss), list(curve.rates)) == (
        "run.png",
        "run",
        [(5, 3.0), (6, 2.0)],
        [(5, 0.1)],
    )
    assert {name: list(values) for name, values in curve.tests.items()} == {"acc": [(4, 0.5)]}


def test_a_sweep_says_why_it_takes_an_option_not(misused: Callable[..., object]) -> None:
    words = [*TRAIN, "--sweep", "loss=kd", "--pct", "kd", "--keep", "2", "--resume", "--plot", "run.png"]
    misused(main, words, "losses are values to try (--sweep loss=kd,focal); no --resume, --keep: it takes no snapshots")
