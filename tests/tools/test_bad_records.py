"""fusion-train and fusion-test on data with bad records and with reading processes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from caffe_fusion_tools import evaluate, train
from PIL import Image

from fusion.pct.predictions import Predictions
from prototxt import read_weights

NET = """
layer { name: "data" type: "ImageData" top: "data" top: "label"
  image_data_param { source: "list.txt" batch_size: 4 is_color: false shuffle: true }
  transform_param { crop_size: 5 mirror: true } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
SOLVER = 'net: "net.prototxt" base_lr: 0.001 lr_policy: "fixed" max_iter: 5 snapshot_prefix: "net" random_seed: 1'


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for index in range(10):
        Image.fromarray(rng.integers(0, 255, (6, 7)).astype(np.uint8)).save(f"{index}.jpg")
    Path("list.txt").write_text("".join(f"{index}.jpg {index % 3}\n" for index in range(10)))
    Path("net.prototxt").write_text(NET)
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
    assert "list.txt:4: cannot decode the picture '3.jpg'" in capsys.readouterr().err
    weights_of("--on-bad-record", "skip")
    output = capsys.readouterr().err
    assert "warning: 1 bad records were skipped" in output
    assert "list.txt:4: cannot decode the picture '3.jpg'" in output
    tested = ["--model", "net.prototxt", "--weights", "net_iter_5.caffemodel", "--device", "cpu"]
    assert evaluate.main(tested) == 1
    capsys.readouterr()
    written = ["--on-bad-record", "skip", "--predictions", "out.npz", "--logits", "ip"]
    assert evaluate.main([*tested, *written]) == 0
    assert "1 bad records were skipped" in capsys.readouterr().err
    assert len(Predictions.load("out.npz")) == 9
    assert "3.jpg" not in Predictions.load("out.npz").keys.tolist()
