"""Logs of Caffe itself and their curves on the page."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from fusion import pct
from fusion.errors import ReportError
from fusion.report import gather, page, read_log
from fusion.report.curves import Curve, _thinned, accuracies, losses, rates
from fusion.report.svg_plot import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axis


def test_a_log_of_caffe(golden: Path) -> None:
    curve = read_log(golden / "tutorial" / "fuse_train_1.log", "fused")
    assert curve.name == "fused"
    assert curve.loss[:3] == [(0, 2.80385), (200, 0.169376), (400, 0.0923982)]
    assert curve.tests["accuracy"][:2] == [(0, 0.0804999), (1000, 0.983701)]
    assert curve.loss == sorted(curve.loss)


def test_every_recorded_log_can_be_drawn(golden: Path) -> None:
    for name in ("train", "resume", "debug"):
        curve = read_log(golden / "misc" / "solverlog" / "run" / f"{name}.log")
        drawn = losses([(curve, "c-0")])
        assert "polyline" in drawn
        assert "nan" not in drawn.lower()


def test_a_resumed_run_counts_once(tmp_path: Path) -> None:
    path = tmp_path / "run.log"
    lines = [
        "Iteration 0, loss = 3",
        "Iteration 10 (5 iter/s, 2s/10 iters), loss = 2e-1",
        "Iteration 10, lr = 0.1",
        "noise loss = 9",
        "Iteration 10, loss = 0.25",
        "Iteration 20, loss = nan",
    ]
    path.write_text("\n".join(lines), "utf-8")
    curve = read_log(path)
    assert (curve.name, curve.loss, curve.tests) == ("run", [(0, 3.0), (10, 0.25)], {})
    assert accuracies([(curve, "c-0")]) is None
    path.write_text("nothing", "utf-8")
    with pytest.raises(ReportError, match=r"run\.log: no line like"):
        read_log(path)


@pytest.mark.parametrize("values", [(10.0, 98.5), (97.0,), (-0.5,), (1e17, 1e17), (math.inf, 0.9, 0.8), (0.9,)])
def test_accuracies_of_other_logs_are_drawn_too(values: tuple[float, ...]) -> None:
    """Percents, a mistake below 0, and what no room can be added to."""
    curve = Curve("run", [], {"accuracy": list(enumerate(values))})
    drawn = str(accuracies([(curve, "c-0")]))
    heights = [float(found) for found in re.findall(r",([-\d.]+)", re.findall('points="(.*?)"', drawn)[0])]
    assert heights
    assert all(TOP <= height <= HEIGHT - BOTTOM for height in heights)
    assert f"{100 * values[-1]:.2f} %" in drawn


def test_curves_are_those_of_the_first_test_net(tmp_path: Path) -> None:
    lines = ["Iteration 0, loss = 3"]
    for iteration in (0, 10):
        for net, value in ((0, 0.5), (1, 0.25)):
            lines.append(f"Iteration {iteration}, Testing net (#{net})")
            lines.append(f"Test net output #0: acc = {value + iteration / 100}")
    records = [{"kind": "train", "iter": 0, "loss": 3.0}]
    records += [
        {"kind": "test", "iter": iteration, "test_net": net, "outputs": {"acc": value + iteration / 100}}
        for iteration in (0, 10)
        for net, value in ((0, 0.5), (1, 0.25))
    ]
    for content in (lines, [json.dumps(record) for record in records]):
        path = tmp_path / "run.log"
        path.write_text("\n".join(content))
        assert read_log(path).tests == {"acc": [(0, 0.5), (10, 0.6)]}


def test_long_runs_are_thinned() -> None:
    series = [(i, float(i)) for i in range(10_000)]
    thin = _thinned(series)
    assert len(thin) <= 240
    assert thin[-1][0] == 9999
    assert np.mean([v for _, v in thin]) == pytest.approx(4999.5, rel=0.02)


def test_the_page_shows_them(golden: Path) -> None:
    nets = [pct.Predictions(["a", "b"], [0, 1], np.eye(2), meta={"name": name}) for name in ("old", "new")]
    curve = read_log(golden / "tutorial" / "fuse_train_1.log", "new")
    text = page(gather(old=nets[:1], new=nets[1:]), curves=[curve])
    assert 'id="training"' in text
    assert "Test accuracy. new ends at 98." in text


def polylines(drawn: str | None) -> list[tuple[str, list[list[float]]]]:
    """The style and the points of each line."""
    found = re.findall(r'<polyline points="([^"]*)" class="curve ([^"]*)"', drawn or "")
    return [(kind, [[float(n) for n in point.split(",")] for point in points.split()]) for points, kind in found]


def numbers(drawn: str | None) -> list[str]:
    return re.findall(r'class="tick">([^<]*)', drawn or "")


def test_losses_are_drawn_over_powers_of_ten() -> None:
    x, y = Axis(0, 200, LEFT, WIDTH - RIGHT), Axis(-2, 1, HEIGHT - BOTTOM, TOP)
    one = Curve("one", [(0, 4.0), (100, 0.0), (150, float("nan")), (200, 0.02)])
    other = Curve("other", [(50, 1.0), (60, float("inf")), (70, -1.0)])
    drawn = losses([(one, "c-0"), (other, "c-1")])
    assert polylines(drawn) == [
        ("c-0", [[x.at(0), y.at(0.60206)], [x.at(200), y.at(-1.69897)]]),
        ("c-1", [[x.at(50), y.at(0)]]),
    ]
    assert numbers(drawn) == ["0.01", "0.1", "1", "10", "0", "50", "100", "150", "200"]
    assert "one ends at 0.02; other ends at -1." in drawn
    flat = losses([(Curve("flat", [(0, 10.0)]), "c-0")])
    assert numbers(flat)[:2] == ["10", "100"]
    assert polylines(flat) == [("c-0", [[LEFT, HEIGHT - BOTTOM]])]
    nothing = losses([(Curve("nothing", [(5, 0.0)]), "c-0")])
    assert numbers(nothing)[:2] == ["0.1", "1"]
    assert polylines(nothing) == [("c-0", [])]


def test_learning_rates_are_drawn_where_a_log_has_them() -> None:
    with_rates = Curve("one", [(0, 1.0)], rates=[(0, 0.1), (100, 0.001)])
    drawn = rates([(Curve("none", [(0, 1.0)]), "c-0"), (with_rates, "c-1")])
    assert polylines(drawn) == [("c-1", [[LEFT, TOP], [WIDTH - RIGHT, HEIGHT - BOTTOM]])]
    assert "one ends at 0.001." in str(drawn)
    assert rates([(Curve("none", [(0, 1.0)]), "c-0")]) is None


def test_accuracies_fill_the_chart_from_the_second_test_on() -> None:
    tests = {"loss": [(0, 9.0)], "Accuracy": [(0, 0.1), (10, 0.5), (20, 0.7)], "acc5": [(0, 1.0)]}
    drawn = accuracies([(Curve("one", [], tests), "c-0"), (Curve("none", [], {"loss": [(90, 1.0)]}), "c-1")])
    y, x = Axis(0.47, 0.73, HEIGHT - BOTTOM, TOP), Axis(0, 20, LEFT, WIDTH - RIGHT)
    assert polylines(drawn) == [("c-0", [[x.at(10), y.at(0.5)], [x.at(20), y.at(0.7)]])]
    assert numbers(drawn) == ["50", "60", "70", "0", "5", "10", "15", "20"]
    assert "one ends at 70.00 %." in str(drawn)
    once = accuracies([(Curve("once", [], {"acc": [(0, 0.5)]}), "c-0")])
    assert polylines(once) == [("c-0", [[LEFT, 136.0]])]  # 0.498 to 0.502
    assert numbers(once)[:5] == ["49.8", "49.9", "50", "50.1", "50.2"]
    ends = accuracies([(Curve("ends", [], {"acc": [(0, 0.0), (5, 0.0), (9, 1.0)]}), "c-0")])
    assert polylines(ends)[0][1][-1] == [WIDTH - RIGHT, TOP]
    assert polylines(ends)[0][1][:2] == [[LEFT, HEIGHT - BOTTOM], [pytest.approx(LEFT + 300 * 5 / 9, abs=0.01), 258.0]]


def test_means_of_neighbours_stand_at_the_last_of_them() -> None:
    series = [(i, float(i)) for i in range(481)]
    assert _thinned(series)[:2] == [(2, 1.0), (5, 4.0)]
    assert _thinned(series)[-1] == (480, 480.0)
    assert _thinned(series[:480]) == [(2 * i + 1, 2 * i + 0.5) for i in range(240)]
    assert _thinned(series[:240]) == series[:240]
    assert _thinned([]) == []


def written(tmp_path: Path, *records: object) -> Path:
    path = tmp_path / "run.log"
    path.write_text("\n".join(one if isinstance(one, str) else json.dumps(one) for one in records))
    return path


def test_json_logs_have_losses_rates_and_outputs(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        {"kind": "start", "loss": 7},
        {"kind": "train", "iter": 10, "loss": 0.5, "lr": 0.1},
        {"kind": "train", "iter": 0, "loss": 2, "lr": None},
        {"kind": "train", "iter": 20},
        {"kind": "test", "iter": 10, "test_net": 0, "outputs": {"acc": 1, "many": [1, 2], "text": "a"}},
        {"kind": "test", "iter": 20, "test_net": 1, "outputs": {"acc": 0.5}},
        '{"kind": "train", "iter": 30, "lo',
        "[" * 10,
        '{"kind"' + ': {"a"' * 100_000,
    )
    curve = read_log(path, "given")
    assert (curve.name, curve.loss, curve.rates) == ("given", [(0, 2.0), (10, 0.5)], [(10, 0.1)])
    assert curve.tests == {"acc": [(10, 1.0)]}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"kind": "train", "loss": 1.0}, "it has no 'iter'"),
        ({"kind": "test", "test_net": 0}, "it has no 'iter' and no 'outputs'"),
        ({"kind": "test", "iter": 1, "test_net": 0}, "it has no 'outputs'"),
        ({"kind": "train", "iter": 10**15, "loss": 1.0}, "there is no iteration 1e"),
        ({"kind": "train", "iter": -(10**15), "loss": 1.0}, "there is no iteration -1e"),
        ({"kind": "train", "iter": "x", "loss": 1.0}, "not what fusion-train --log-json writes"),
        ({"kind": "train", "iter": 1, "loss": "x"}, "not what fusion-train --log-json writes"),
    ],
)
def test_damaged_records_are_named(tmp_path: Path, record: dict[str, object], message: str) -> None:
    path = written(tmp_path, {"kind": "train", "iter": 0, "loss": 1.0}, record)
    with pytest.raises(ReportError, match=message) as caught:
        read_log(path)
    assert caught.value.place == f"{path}:2"


def test_lines_of_caffe_with_numbers_that_are_none(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "Test net output #0: early = 1",
        "Iteration 0, Testing net (#0)",
        "Test net output #0: acc = 1e-1",
        "Test net output #1: loss = 2.5 (* 1 = 2.5 loss)",
        "Test net output #2: odd = --",
        "Iteration 0, Testing net (#10)",
        "Test net output #0: acc = 0.9",
        "Iteration 0, loss = 3 ",
        "Iteration 1234567890123456, loss = 4",
        "Iteration 5, loss = 1.2.3",
        "Iteration 5, lr = 1e-05",
    )
    curve = read_log(path)
    assert [iteration for iteration, _ in curve.loss] == [0, 5]
    assert curve.loss[0] == (0, 3.0)
    assert np.isnan(curve.loss[1][1])
    assert curve.rates == [(5, 1e-5)]
    assert curve.tests["acc"] == [(0, 0.1)]
    assert curve.tests["loss"] == [(0, 2.5)]
    assert set(curve.tests) == {"acc", "loss", "odd"}
