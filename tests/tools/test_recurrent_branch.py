"""A net for text lines, by both of torch's exporters, as a branch beside a Caffe net, through the commands."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from caffe_fusion_tools import compose, evaluate, export, merge, show, train, verify
from onnx import numpy_helper
from PIL import Image
from torch import Tensor, nn

from fusion.nets.build import build
from fusion.nets.weights import save_weights
from prototxt.formats.weights import read_weights

pytest.importorskip("onnxruntime")
CAFFE = """name: "small"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 1 dim: 8 dim: 8 } } }
layer { name: "ip1" type: "InnerProduct" bottom: "data" top: "ip1"
  inner_product_param { num_output: 6 weight_filler { type: "xavier" } } }
layer { name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
"""


class TextLine(nn.Module):
    """Convolutions, whose columns are the steps of two bidirectional layers; a dense layer per step; the classes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3, (2, 1), 1))
        self.rnn = nn.LSTM(6 * 2, 5, num_layers=2, bidirectional=True)
        self.step = nn.Linear(10, 7)
        self.score = nn.Linear(4 * 7, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores [N, 3] of images [N, 1, 8, 8]."""
        steps, _ = self.rnn(self.conv(x).relu().permute(3, 0, 1, 2).flatten(2))
        scores: Tensor = self.score(self.step(steps).permute(1, 0, 2).flatten(1))
        return scores


def replace_in(path: str, pattern: str, text: str) -> None:
    changed = re.sub(pattern, text, Path(path).read_text())
    Path(path).write_text(changed)


def weights(snapshot: str) -> list[np.ndarray[Any, Any]]:
    """The weights of the branch, in its file's order."""
    return [np.array(array) for array in read_weights(f"{snapshot}.onnx.safetensors")["b/onnx"]]


@pytest.fixture(params=[False, pytest.param(True, marks=pytest.mark.slow)], ids=["torchscript", "dynamo"])
def net(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TextLine:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    module = TextLine().eval()
    if request.param:
        pytest.importorskip("onnxscript")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (torch.zeros(1, 1, 8, 8),), "line.onnx", dynamo=request.param, verbose=False)
    Path("a.prototxt").write_text(CAFFE)
    save_weights(build("a.prototxt", seed=1), "a.caffemodel")
    pixels = np.random.default_rng(0).integers(0, 256, (12, 8, 8), np.uint8)
    for index, image in enumerate(pixels):
        Image.fromarray(image).save(f"{index}.png")
    Path("list.txt").write_text("".join(f"{index}.png {index % 3}\n" for index in range(12)))
    return module


def test_from_two_files_to_one(net: TextLine, capsys: pytest.CaptureFixture[str]) -> None:
    assert show.main(["line.onnx"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"LSTM +2  yes", shown)
    assert "the batch, 1 in the file, is open" in shown
    lists = ["--train-list", "list.txt", "--val-list", "list.txt", "--train-batch", "4", "--test-batch", "4"]
    sources = ["--source", "a=a.prototxt", "--source", "b=line.onnx", "--pixels", "b=unit"]
    assert compose.main([*sources, *lists, "--num-output", "3", "-o", "fused"]) == 0
    assert "width 6 + 28" in capsys.readouterr().out
    whole = ["fused/deploy.prototxt", "a=a.prototxt:a.caffemodel", "b=line.onnx"]
    assert merge.main([*whole, "-o", "init.caffemodel", "--verify"]) == 0
    capsys.readouterr()
    assert verify.main([whole[0], "init.caffemodel", *whole[1:], "--json"]) == 0
    assert [item["agrees"] for item in json.loads(capsys.readouterr().out)] == [True, True]
    start = weights("init")
    assert [array.shape for array in start if array.ndim == 3] == [(2, 20, 12), (2, 20, 5), (2, 20, 10), (2, 20, 5)]
    for text in ("max_iter: 3", "snapshot: 2"):
        replace_in("fused/solver.prototxt", text.split()[0] + r" \d+", text)
    for frozen in ("true", "false"):
        for name in ("train_val", "deploy"):
            replace_in(f"fused/{name}.prototxt", r"frozen: \w+", f"frozen: {frozen}")
        replace_in("fused/solver.prototxt", 'snapshot_prefix: ".*"', f'snapshot_prefix: "{frozen}"')
        assert train.main(["--solver", "fused/solver.prototxt", "--weights", "init.caffemodel"]) == 0
        trained = weights(f"{frozen}_iter_3")
        unchanged = [np.array_equal(*pair) for pair in zip(trained, start, strict=True)]
        assert unchanged == [frozen == "true"] * len(start)
        Path(f"{frozen}_iter_3.onnx.safetensors").unlink()
        resumed = ["--solver", "fused/solver.prototxt", "--snapshot", f"{frozen}_iter_2.solverstate"]
        assert train.main(resumed) == 0
        assert all(np.array_equal(*pair) for pair in zip(weights(f"{frozen}_iter_3"), trained, strict=True))
        capsys.readouterr()
        model = f"{frozen}_iter_3.caffemodel"
        assert evaluate.main(["--model", "fused/train_val.prototxt", "--weights", model]) == 0
        assert "accuracy = " in capsys.readouterr().out
        assert export.main(["fused/deploy.prototxt", model, "-o", f"{frozen}.onnx", "--check"]) == 0
        assert "agree" in capsys.readouterr().out
        written = [numpy_helper.to_array(tensor) for tensor in onnx.load(f"{frozen}.onnx").graph.initializer]
        assert all(any(np.array_equal(array, other) for other in written) for array in trained)


def test_a_cut_between_steps_is_refused(net: TextLine, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the first axis is time, its rows are no samples."""
    lstm = next(node for node in onnx.load("line.onnx").graph.node if node.op_type == "LSTM")
    lists = ["--train-list", "list.txt", "--val-list", "list.txt", "--num-output", "3"]
    assert compose.main(["--source", f"b=line.onnx@{lstm.output[0]}", *lists, "-o", "fused"]) == 1
    assert "is of shape 4x2xNx5: its first axis is not the batch\n" in capsys.readouterr().err
