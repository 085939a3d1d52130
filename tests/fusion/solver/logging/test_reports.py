"""Each form of report alone: lines, a bar, JSON, TensorBoard, and the table of times."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from fusion.nets.build import build, total_loss
from fusion.solver.logging import console, layer_timing, memory
from fusion.solver.logging.caffe_log import CaffeLog, for_training
from fusion.solver.logging.caffe_report import CaffeReport
from fusion.solver.logging.console import Bar, Display, Lines, Quiet, for_stream, output_lines, six_digits
from fusion.solver.logging.debug_info import Watched
from fusion.solver.logging.json_log import JsonLog
from fusion.solver.logging.layer_timing import Timing, _zeros, time_net
from fusion.solver.logging.memory import peak_allocated, peak_memory, peak_resident
from fusion.solver.logging.tensorboard import TensorBoard
from fusion.solver.metrics import MeanOutputs, TrainMetrics
from fusion.solver.mixed_precision import Precision
from fusion.solver.net_with_data import open_net_with_data
from prototxt import parse
from prototxt.schema.load import load_net

OUTPUTS = (("acc", [0.5], 0.0), ("loss", [2.0, 3.0], 0.25))
CPU = torch.device("cpu")


def run_of(iteration: int = 0, **settings: Any) -> Any:
    said: list[str] = []
    ticks: list[tuple[Any, ...]] = []
    shown = Display()
    shown.say, shown.tick = said.append, lambda *given: ticks.append(given)  # type: ignore[method-assign]
    values = {"display": 5, "max_iter": 20, "test_iter": (1,), "test_compute_loss": False, "snapshot_hdf5": False}
    values |= settings
    plan = SimpleNamespace(name="small")
    return SimpleNamespace(
        settings=SimpleNamespace(**values, schedule=SimpleNamespace(policy="step")), display=shown, said=said,
        ticks=ticks, net=SimpleNamespace(plan=plan), iter=iteration, device=CPU, seed=3,
    )  # fmt: skip


def test_numbers_have_six_digits() -> None:
    assert [six_digits(value) for value in (1234567.0, 0.000012345678, 2.0, 1 / 3)] == [
        "1.23457e+06", "1.23457e-05", "2", "0.333333"
    ]  # fmt: skip


def test_outputs_are_numbered_through_with_their_part_of_the_loss() -> None:
    assert output_lines("Test", OUTPUTS) == [
        "    Test net output #0: acc = 0.5",
        "    Test net output #1: loss = 2 (* 0.25 = 0.5 loss)",
        "    Test net output #2: loss = 3 (* 0.25 = 0.75 loss)",
    ]
    means = MeanOutputs(OUTPUTS)
    assert (means.loss, means["acc"], means["loss"]) == (1.25, 0.5, 2.0)
    assert [TrainMetrics(1, 0.5, iterations=10, seconds=seconds).speed for seconds in (4.0, 0.0)] == [2.5, 0.0]


def test_the_report_of_a_display() -> None:
    report = CaffeReport()
    report.run = run_of()
    report.on_start()
    report.on_display(TrainMetrics(10, 0.25, 0.01, OUTPUTS[:1], 5, 2.0))
    report.on_display(TrainMetrics(20, 0.125))
    assert report.run.said == [
        "Solving small", "Learning Rate Policy: step", "Iteration 10 (2.5 iter/s, 2s/5 iters), loss = 0.25",
        "    Train net output #0: acc = 0.5", "Iteration 10, lr = 0.01", "Iteration 20, loss = 0.125",
    ]  # fmt: skip
    assert report.run.ticks == [(10, 0.25, 0.01)]
    report.on_log(99)
    assert report.run.ticks[-1] == (99,)


@pytest.mark.parametrize("compute", [False, True])
@pytest.mark.parametrize("hdf5", [False, True])
def test_the_report_of_a_test_and_a_snapshot(compute: bool, hdf5: bool) -> None:
    report = CaffeReport(all_outputs=True)
    report.run = run_of(test_compute_loss=compute, snapshot_hdf5=hdf5)
    report.on_test_start(10, 1)
    report.on_test_end(10, 1, MeanOutputs(OUTPUTS))
    report.on_snapshot(10, ["m", "f", "s"])
    report.on_finish(10)
    form = "HDF5 file" if hdf5 else "binary proto file"
    assert report.run.said == [
        "Iteration 10, Testing net (#1)", *["Test loss: 1.25"] * compute, *output_lines("Test", OUTPUTS),
        f"Snapshotting to {form} m", f"Snapshotting solver state to {form} s",
        report.run.said[-2], "Optimization Done.",
    ]  # fmt: skip
    assert report.run.said[-2].startswith("Peak memory: ")


def test_outputs_with_several_values_are_named_once() -> None:
    outputs = (("acc", [0.5], 0.0), ("old", [1.0, 2.0], 0.0), ("zloss", [3.0], 1.0))
    report = CaffeReport()
    report.run = run_of()
    for iteration in (10, 20):
        report.on_test_end(iteration, 0, MeanOutputs(outputs))
    report.on_display(TrainMetrics(20, 0.25, 0.01, (("new", [1.0, 2.0, 3.0], 0.0),), 5, 2.0))
    scalars = ["    Test net output #0: acc = 0.5", "    Test net output #3: zloss = 3 (* 1 = 3 loss)"]
    assert report.run.said == [
        *scalars, "not listed: old (2 values); --all-outputs lists every value", *scalars,
        "Iteration 20 (2.5 iter/s, 2s/5 iters), loss = 0.25",
        "not listed: new (3 values); --all-outputs lists every value", "Iteration 20, lr = 0.01",
    ]  # fmt: skip


@pytest.mark.parametrize(("tests", "topic"), [((1,), "test"), ((1, 1), "test net 0")])
def test_a_bar_has_a_line_per_test_and_snapshot(tests: tuple[int, ...], topic: str) -> None:
    stream = io.StringIO()
    report = CaffeReport()
    report.run = run_of(test_iter=tests)
    report.run.display = Bar(stream)
    report.on_start()
    report.on_test_start(10, 0)
    report.on_test_end(10, 0, MeanOutputs((*OUTPUTS, ("top5", [1 / 3], 0.0))))
    report.on_display(TrainMetrics(10, 0.25, 0.01, OUTPUTS, 5, 2.0))
    report.on_snapshot(10, ["m.caffemodel", "f", "s"])
    report.on_finish(10)
    assert stream.getvalue() == f"{topic}: iteration 10, acc 0.5, top5 0.333333\nsnapshot: m.caffemodel\n"


def test_quiet_prints_warnings_and_the_last_figures(capsys: pytest.CaptureFixture[str]) -> None:
    quiet = Quiet()
    report = CaffeReport()
    report.run = run_of()
    report.run.display = quiet
    for iteration in (10, 20):
        report.on_test_end(iteration, 0, MeanOutputs(OUTPUTS))
        report.on_snapshot(iteration, [f"{iteration}.caffemodel", "f", "s"])
        quiet.say("Train net: cached")
        quiet.progress("decoding", 5, 5)
    quiet.say("warning: no weights")
    assert capsys.readouterr() == ("", "warning: no weights\n")
    quiet.close()
    quiet.close()
    assert capsys.readouterr() == ("test: iteration 20, acc 0.5\nsnapshot: 20.caffemodel\n", "")


def test_lines_tell_of_a_step_when_it_is_complete() -> None:
    stream = io.StringIO()
    lines = Lines(stream)
    for done in (0, 5, 10):
        lines.progress("decoding", done, 10)
    assert stream.getvalue() == "decoding: 10 records\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_is_for_terminals_only() -> None:
    assert [type(each) for each in (for_stream(Terminal()), for_stream(io.StringIO()))] == [Bar, Lines]
    assert [type(each) for each in (for_training(Terminal()), for_training(io.StringIO()))] == [Bar, CaffeLog]
    Display().say("nothing")


def test_a_bar_is_drawn_ten_times_a_second_and_with_each_display(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(console, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    bar = Bar(Terminal())
    bar.tick(1)  # before training nothing is drawn
    bar.start(10, 50)
    updates: list[dict[str, Any]] = []
    monkeypatch.setattr(bar._bars, "update", lambda task, **fields: updates.append(fields))
    for seconds, iteration, given in (
        (0.0, 11, ()), (0.05, 12, ()), (0.1, 13, ()), (0.15, 14, (0.5, 0.01)), (0.2, 15, ()), (0.3, 16, ()),
        (2.0, 30, ()),
    ):  # fmt: skip
        now[0] = 100 + seconds
        bar.tick(iteration, *given)
    assert updates == [
        {"completed": 11}, {"completed": 13}, {"completed": 14, "state": "loss 0.5  lr 0.01"},
        {"completed": 16, "speed": "20 it/s"}, {"completed": 30, "speed": "10 it/s"},
    ]  # fmt: skip
    bar.close()
    assert not bar._open
    bar.close()


def test_lines_above_a_bar_are_as_they_are() -> None:
    screen = Terminal()
    bar = Bar(screen)
    bar.start(0, 10)
    text = "[red]" + "long " * 60 + "[/red] :smile: 12 'a' True"
    bar.say(text)
    assert text in screen.getvalue()
    bar.tick(3, 0.5)
    assert [task.fields["state"] for task in bar._bars.tasks] == [""], "a loss without its rate"
    bar.tick(3, 0.5, 0.1)
    assert [task.fields["state"] for task in bar._bars.tasks] == ["loss 0.5  lr 0.1"]
    bar.close()
    assert screen.getvalue().endswith("\x1b[2K"), "the bar is wiped out at the end"


def test_a_bar_of_each_step_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    bar = Bar(screen)
    begun: list[float] = []
    add = bar._bars.add_task
    monkeypatch.setattr(
        bar._bars, "add_task", lambda *a, **fields: (begun.append(fields["completed"]), add(*a, **fields))[1]
    )
    bar.progress("decoding", 1, 4)
    first = bar._task
    bar.progress("decoding", 4, 4)
    assert bar._task == first
    bar.progress("trunk", 2, 4)
    assert bar._task != first
    assert begun == [0, 0]
    assert [(task.description, task.completed, task.total) for task in bar._bars.tasks] == [("trunk", 2, 4)]
    bar.close()
    assert "decoding: 4 records" in screen.getvalue()
    assert "trunk: 4 records" not in screen.getvalue()


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_json_has_a_record_per_event(tmp_path: Path) -> None:
    path = tmp_path / "log.json"
    path.write_text("an earlier run\n")
    log = JsonLog(str(path))
    log.run = run_of()
    log.on_display(TrainMetrics(0, 1.0))  # before the start there is no file
    log.on_start()
    log.on_display(TrainMetrics(5, 0.5, 0.01, OUTPUTS, 10, 4.0))
    log.on_display(TrainMetrics(6, math.inf, None, (("x", [math.nan, 1.0], 0.0),)))
    log.on_test_end(5, 1, MeanOutputs(OUTPUTS))
    log.on_validation(5, MeanOutputs(OUTPUTS))
    log.on_snapshot(5, ["m", "f", "s"])
    log.on_finish(7)
    log.on_end()
    log.on_end()
    found = records(path)
    assert [(each["kind"], each["iter"]) for each in found] == [
        ("start", 0), ("train", 5), ("train", 6), ("test", 5), ("choose", 5), ("snapshot", 5), ("end", 7)
    ]  # fmt: skip
    start, train, broken, test, choose, snapshot, _ = found
    assert {name: start[name] for name in ("version", "net", "max_iter", "device", "seed")} == {
        "version": 1, "net": "small", "max_iter": 20, "device": "cpu", "seed": 3
    }  # fmt: skip
    assert (train["loss"], train["lr"], train["it_s"]) == (0.5, 0.01, 2.5)
    assert train["outputs"] == {"acc": 0.5, "loss": [2.0, 3.0]}
    assert (broken["loss"], broken["lr"], broken["it_s"], broken["outputs"]) == (None, None, None, {"x": [None, 1.0]})
    assert (test["test_net"], test["loss"], choose["loss"], snapshot["files"]) == (1, 1.25, 1.25, ["m", "f", "s"])
    assert all(each[name] == round(each[name], 3) for each in found for name in ("time", "seconds"))
    assert all(0 <= each["seconds"] < 60 and each["memory"]["resident"] > 1 << 20 for each in found)
    again = JsonLog(str(path))
    again.run = run_of(iteration=7)
    again.on_start()
    again.on_end()
    assert [each["kind"] for each in records(path)][-2:] == ["end", "start"], "a resumed run adds to the file"


def test_tensorboard_has_a_point_per_value(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    board = TensorBoard(str(tmp_path))
    board.run = run_of(7)
    board.on_start()
    board.on_display(TrainMetrics(5, 0.5, 0.0, OUTPUTS, 10, 4.0))
    board.on_display(TrainMetrics(6, 0.25))
    board.on_test_end(8, 1, MeanOutputs(OUTPUTS[:1]))
    board.on_validation(9, MeanOutputs(OUTPUTS[:1]))
    board.on_end()
    board.on_end()
    version, start, *events = events_of(tmp_path)
    assert version.file_version == "brain.Event:2"
    assert (start.step, start.session_log.status) == (7, start.session_log.START)  # hides an earlier run's later points
    points = [(event.summary.value[0].tag, event.summary.value[0].simple_value, event.step) for event in events]
    assert points == [
        ("train/acc", 0.5, 5), ("train/loss/0", 2.0, 5), ("train/loss/1", 3.0, 5), ("train/loss (smoothed)", 0.5, 5),
        ("train/lr", 0.0, 5), ("train/it/s", 2.5, 5), ("train/loss (smoothed)", 0.25, 6), ("test1/acc", 0.5, 8),
        ("choose/acc", 0.5, 9),
    ]  # fmt: skip


def test_a_new_run_hides_no_points(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    board = TensorBoard(str(tmp_path))
    board.run = run_of(0)
    board.on_start()
    board.on_end()
    assert [event.file_version for event in events_of(tmp_path)] == ["brain.Event:2"]


def events_of(folder: Path) -> list[Any]:
    """The events of the only file in a folder, whose records have a length, two checksums and a message."""
    from tensorboard.compat.proto.event_pb2 import Event

    (path,) = folder.iterdir()
    content, found = path.read_bytes(), []
    while content:
        size = int.from_bytes(content[:8], "little")
        found.append(Event.FromString(content[12 : 12 + size]))
        content = content[16 + size :]
    return found


def test_memory_is_told_in_mebibytes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert peak_allocated(CPU) is None
    found = peak_resident()
    assert found is not None
    assert 10 << 20 < found < 1 << 40
    for platform, size in (("linux", 5 << 10), ("darwin", 5)):
        with monkeypatch.context() as patched:
            patched.setattr("resource.getrusage", lambda _: SimpleNamespace(ru_maxrss=5))
            patched.setattr(memory, "sys", SimpleNamespace(platform=platform))
            assert peak_resident() == size
    monkeypatch.setattr(memory, "peak_resident", lambda: 3 << 20)
    assert peak_memory(CPU) == "3 MiB resident"
    monkeypatch.setattr(memory, "peak_allocated", lambda device: 5 << 20)
    assert peak_memory(CPU) == "3 MiB resident, 5 MiB on the GPU"
    for name in ("peak_resident", "peak_allocated"):
        monkeypatch.setattr(memory, name, lambda *device: None)
    assert peak_memory(CPU) == "not known on this system"


@pytest.mark.parametrize(
    ("device", "used"),
    [("cpu", "Use CPU."), ("cuda", "Use GPU with device ID 0"), ("cuda:2", "Use GPU with device ID 2")],
)
def test_times_are_those_of_the_caffe_tool(device: str, used: str) -> None:
    timing = Timing([("data", 0.5, 0.0), ("a layer of one", 1.0, 2.0)], [4.0, 6.0], 0.25, torch.device(device))
    assert timing.lines() == [
        used, "Performing Forward", "Initial loss: 0.25", "Performing Backward", "*** Benchmark begins ***",
        "Testing for 2 iterations.", "Iteration: 1 forward-backward time: 4 ms.",
        "Iteration: 2 forward-backward time: 6 ms.", "Average time per layer: ", "      data\tforward: 0.5 ms.",
        "      data\tbackward: 0 ms.", "a layer of one\tforward: 1 ms.", "a layer of one\tbackward: 2 ms.",
        "Average Forward pass: 1.5 ms.", "Average Backward pass: 2 ms.", "Average Forward-Backward: 5 ms.",
        "Total Time: 10 ms.", "*** Benchmark ends ***",
    ]  # fmt: skip


NET = """name: "timed"
layer { name: "in" type: "Input" top: "data" top: "label" input_param { shape { dim: 2 dim: 3 } shape { dim: 2 } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 4 } }
"""
LOSS = 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }\n'


@pytest.mark.parametrize(("text", "loss"), [(NET + LOSS, math.log(4)), (NET, 0.0)])
def test_every_layer_is_timed_both_ways(text: str, loss: float) -> None:
    timing = time_net(load_net(parse(text)), iterations=3, device="cpu")
    names = [name for name, _, _ in timing.layers]
    assert names == ["in", "ip", *["loss"] * bool(loss)]
    assert len(timing.steps) == 3
    assert timing.loss == pytest.approx(loss)
    forward, backward = np.array([times for _, *times in timing.layers]).T
    assert (forward > 0).all()
    assert backward[0] == 0
    assert (backward[1:] > 0).all()
    assert forward.sum() + backward.sum() <= np.mean(timing.steps)
    assert max(timing.steps) < 1e4, "milliseconds"


TIMED = """
layer { name: "in" type: "Input" top: "data" top: "label"
  input_param { shape { dim: 4 dim: 3 } shape { dim: 4 } } }
layer { name: "low" type: "InnerProduct" bottom: "data" top: "low"
  inner_product_param { num_output: 3 weight_filler { type: "gaussian" std: 1 } } }
layer { name: "up" type: "InnerProduct" bottom: "low" top: "up"
  inner_product_param { num_output: 3 weight_filler { type: "gaussian" std: 1 } } }
layer { name: "sum" type: "Eltwise" bottom: "low" bottom: "up" top: "sum" }
"""
LOSS = 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "sum" bottom: "label" top: "loss" loss_weight: 2 }'


@pytest.mark.parametrize("loss", ["", LOSS])
def test_the_timed_passes_are_those_of_training(loss: str) -> None:
    arrays = {"data": np.arange(12, dtype=np.float32).reshape(4, 3) / 7, "label": np.array([0, 2, 1, 1], np.float32)}
    message = load_net(parse(TIMED + loss))
    job = open_net_with_data(message, "TRAIN", seed=1, device=CPU, arrays=arrays)
    batch = next(job.batches)
    found: dict[str, list[torch.Tensor]] = {}
    for name, parameter in job.net.named_parameters():
        parameter.register_hook(found.setdefault(name, []).append)
    took = layer_timing._pass(job, batch, iter(range(100)).__next__)
    assert took == [(1, 1)] * len(job.net.plan.calls)
    assert all(parameter.grad is None for parameter in job.net.parameters())
    out = job.net(batch)
    torch.autograd.backward(total_loss(job.net, out) if loss else out["sum"].sum())
    assert len(found) == 4
    for name, parameter in job.net.named_parameters():
        (first, second) = found[name]
        torch.testing.assert_close(first, second, msg=name)
        assert parameter.grad is not None


class Scaled(Precision):
    """Multiplies the loss by 8, as the scale of fp16 does."""

    scale = 8.0  # type: ignore[assignment]

    def backward(self, loss: torch.Tensor) -> None:
        super().backward(loss * 8)


def test_debug_info_tells_of_gradients_without_their_scale() -> None:
    message = load_net(parse(TIMED + LOSS))
    batch = {"data": torch.arange(12.0).reshape(4, 3) / 7, "label": torch.tensor([0.0, 2, 1, 1])}
    told = []
    for precision in (Precision(), Scaled()):
        said: list[str] = []
        _, loss = Watched(build(message, "TRAIN", seed=1), message, said.append, precision).step(batch)
        told.append((float(loss), said))
    assert told[0] == told[1]
    assert len([line for line in told[0][1] if "[Backward]" in line]) == 9


def test_debug_info_has_no_gradient_of_a_blob_that_is_blocked() -> None:
    text = TIMED.replace('bottom: "low" top: "up"', 'bottom: "low" propagate_down: false top: "up"') + LOSS
    message, said = load_net(parse(text)), list[str]()
    batch = {"data": torch.arange(12.0).reshape(4, 3) / 7, "label": torch.tensor([0.0, 2, 1, 1])}
    watched = Watched(build(message, "TRAIN", seed=1), message, said.append, Precision())
    watched.step(batch)
    bottoms = [line.split(" diff")[0].split("Layer ")[1] for line in said if "bottom blob" in line]
    assert bottoms == ["loss, bottom blob sum", "sum, bottom blob low", "sum, bottom blob up"]
    with torch.no_grad():
        assert watched(batch)["loss"].isfinite()


def test_only_what_learns_below_a_layer_gets_gradients() -> None:
    """Neither the data, nor a bottom that propagate_down blocks: they would cost time that training does not take."""
    text = TIMED.replace('bottom: "low" top: "up"', 'bottom: "low" propagate_down: false top: "up"') + LOSS
    job = open_net_with_data(load_net(parse(text)), "TRAIN", seed=1, device=CPU, arrays=_zeros(load_net(parse(text))))
    asked: dict[str, list[bool]] = {}
    for call in job.net.plan.calls:
        asked[call.name] = []
        module = job.net.get_submodule(call.path)
        module.register_forward_pre_hook(
            lambda _, given, name=call.name: asked[name].extend(x.requires_grad for x in given)
        )
    layer_timing._pass(job, next(job.batches), iter(range(100)).__next__)
    assert asked == {"low": [False], "up": [False], "sum": [True, True], "loss": [True, False]}


def test_inputs_of_zeros_have_the_net_s_shapes() -> None:
    found = {top: values.shape for top, values in _zeros(load_net(parse(TIMED))).items()}
    assert found == {"data": (4, 3), "label": (4,)}
    assert _zeros(load_net(parse('layer { name: "d" type: "DummyData" top: "x" }'))) == {}


def test_times_are_means_in_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(np.arange(0, 1000, 0.5))
    monkeypatch.setattr(layer_timing, "_stopwatch", lambda device: clock.__next__)
    net = load_net(parse(TIMED + LOSS))
    timing = time_net(net, device="cpu", iterations=3)
    assert timing.layers == [("in", 500.0, 0.0), *((name, 500.0, 500.0) for name in ("low", "up", "sum", "loss"))]
    assert timing.steps == [500.0 * 18] * 3
    assert timing.loss == pytest.approx(2 * np.log(3))
    assert len(time_net(net, device="cpu").steps) == 50


def test_lines_are_written_at_once(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    with path.open("w") as stream:
        shown = Lines(stream)
        shown.say("first")
        assert path.read_text() == "first\n"
        shown.progress("decoding", 1, 2)
        shown.progress("decoding", 2, 2)
        assert path.read_text() == "first\ndecoding: 2 records\n"
