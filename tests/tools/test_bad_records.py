"""fusion-train and fusion-test on data with bad records and with reading processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from caffe_fusion_tools import evaluate, train

from fusion.pct.predictions import Predictions
from prototxt import read_weights

SOLVER = 'net: "net.prototxt" base_lr: 0.001 lr_policy: "fixed" max_iter: 5 snapshot_prefix: "net" random_seed: 1'


@pytest.fixture(autouse=True)
def project(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dense_net: Callable[..., str],
    write_images: Callable[..., None],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_images(10, (6, 7), classes=3, ending="jpg")
    Path("net.prototxt").write_text(dense_net(image="shuffle: true", transform="crop_size: 5 mirror: true"))
    Path("solver.prototxt").write_text(SOLVER)


def weights_of(*arguments: str) -> np.ndarray:
    assert train.main(["--solver", "solver.prototxt", "--device", "cpu", *arguments]) == 0
    return read_weights("net_iter_5.caffemodel")["ip"][0].copy()


def test_workers_train_the_same_net() -> None:
    one = weights_of("-q")
    np.testing.assert_array_equal(weights_of("-q", "--data-budget", "0", "--workers", "0"), one)
    np.testing.assert_array_equal(weights_of("-q", "--data-budget", "0", "--workers", "2"), one)


def test_bad_records(capsys: pytest.CaptureFixture[str]) -> None:
    Path("3.jpg").write_bytes(Path("3.jpg").read_bytes()[:300])
    assert train.main(["--solver", "solver.prototxt", "--device", "cpu"]) == 1
    assert "list.txt:4: cannot decode the image '3.jpg'" in capsys.readouterr().err
    weights_of("--on-bad-record", "skip")
    output = capsys.readouterr().err
    assert "warning: 1 bad records were skipped" in output
    assert "list.txt:4: cannot decode the image '3.jpg'" in output
    tested = ["--model", "net.prototxt", "--weights", "net_iter_5.caffemodel", "--device", "cpu"]
    assert evaluate.main(tested) == 1
    capsys.readouterr()
    written = ["--on-bad-record", "skip", "--predictions", "out.npz", "--logits", "ip"]
    assert evaluate.main([*tested, *written]) == 0
    assert "1 bad records were skipped" in capsys.readouterr().err
    assert len(Predictions.load("out.npz")) == 9
    assert "3.jpg" not in Predictions.load("out.npz").keys.tolist()
