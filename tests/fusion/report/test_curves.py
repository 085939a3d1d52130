"""Logs of Caffe itself and their curves on the page."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fusion import pct
from fusion.errors import ReportError
from fusion.report import gather, page, read_log
from fusion.report.curves import _thinned, accuracies, losses


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
