"""ONNX files where commands take a net: measured on a list, on images, and as an original in the report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from caffe_fusion_tools import evaluate, predict, report
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from fusion.composition.onnx_net import onnx_net
from fusion.errors import ComposeError
from fusion.pct import Predictions, file_hash

Check = Callable[..., object]
WEIGHTS = np.array([[3.0, 0, 0], [0, 2, 0], [0, 0, 1]], np.float32)  # class i: the mean of channel i, red first
COLORS = [(255, 0, 0), (0, 102, 51), (51, 0, 204), (204, 51, 51)]


def write_onnx(path: str, size: int | str) -> None:
    """A net from unit pixels to probabilities: the mean of each channel, times WEIGHTS."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["p"], axis=1),
    ]
    ends = [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, size, size])]
    outs = [helper.make_tensor_value_info("p", TensorProto.FLOAT, ["n", 3])]
    graph = helper.make_graph(nodes, "net", ends, outs, [numpy_helper.from_array(WEIGHTS, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_onnx("net.onnx", 4)
    for number, color in enumerate(COLORS):
        Image.new("RGB", (4, 4), color).save(f"{number}.png")
    Path("list.txt").write_text("0.png 0\n1.png 1\n2.png 2\n3.png 2\n")


def scores() -> NDArray[np.float32]:
    return (np.array(COLORS, np.float32) / 255) @ WEIGHTS


MEASURE = ["--model", "net.onnx", "--list", "list.txt", "--pixels", "unit", "-q"]


def test_a_list_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main([*MEASURE, "--json", "--predictions", "old.npz"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == 0.75  # image 3 scores red 2.4 against blue 0.2
    found = Predictions.load("old.npz")
    np.testing.assert_allclose(found.logits, scores(), rtol=1e-5)
    assert (found.keys.tolist(), found.labels.tolist()) == (["0.png", "1.png", "2.png", "3.png"], [0, 1, 2, 2])
    assert (found.name, found.meta["net"]) == ("net", file_hash("net.onnx"))
    assert found.meta["weights"] == file_hash("net.onnx")


def test_images_are_classified(capsys: pytest.CaptureFixture[str]) -> None:
    assert predict.main(["net.onnx", "--pixels", "unit", "1.png", "2.png", "--jsonl", "--top", "3"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for line, row in zip(map(json.loads, out.splitlines()), scores()[1:3], strict=True):
        shares = np.exp(row) / np.exp(row).sum()
        assert line["output"] == "prob"
        found = {item["class"]: item["score"] for item in line["top"]}
        assert found == pytest.approx(dict(enumerate(shares)), rel=1e-5)


def test_an_original_in_the_report(capsys: pytest.CaptureFixture[str]) -> None:
    Predictions(["0.png", "1.png", "2.png", "3.png"], [0, 1, 2, 2], np.eye(3)[[1, 1, 2, 2]]).save("new.npz")
    words = ["--new", "new.npz", "--list", "list.txt", "--pixels", "unit", "--json"]
    assert report.main(["--old", "o=net.onnx", *words]) == 0
    read = json.loads(capsys.readouterr().out)
    (old,) = read["references"]
    assert (old["name"], old["classes"], old["meta"]["file_sha256"]) == ("o", [0, 1, 2], file_hash("net.onnx"))
    assert read["new"][0]["against_all"]["outcomes"]["negative"] == 1
    assert report.main(["--old", "net.onnx@2,1,0", *words]) == 0
    read = json.loads(capsys.readouterr().out)
    # the answers of the old net are now 2, 1, 2, 2, of which three are right
    assert read["references"][0]["classes"] == [2, 1, 0]
    assert read["new"][0]["against_all"]["outcomes"]["negative"] == 0


def test_unknown_pixels_are_refused_with_the_choices(refused: Check) -> None:
    choices = "give --pixels, one of rgb, unit, centered, torchvision, or such as mean:104,117,123,std:1,order:bgr"
    refused(evaluate.main, ["--model", "net.onnx", "--list", "list.txt"], choices)
    refused(predict.main, ["net.onnx", "0.png"], choices)
    Predictions(["0.png"], [0], np.eye(3)[[0]]).save("new.npz")
    refused(report.main, ["--old", "net.onnx", "--new", "new.npz", "--list", "list.txt"], choices)
    refused(report.main, ["--old", "net.onnx", "--new", "new.npz"], "an ONNX file names no data to run it on")
    refused(evaluate.main, ["--model", "a.prototxt", "--weights", "w", "--pixels", "rgb"], "--pixels is for ONNX files")


def test_usage(misused: Check) -> None:
    misused(evaluate.main, ["--model", "net.onnx", "--pixels", "unit"], "give --list LIST")
    misused(evaluate.main, [*MEASURE, "--weights", "w"], "no --weights")
    misused(evaluate.main, ["--model", "a.prototxt"], "give --weights WEIGHTS")
    misused(evaluate.main, ["--model", "a", "--weights", "w", "--input-shape", "a=1,3,4,4"], "is for an ONNX file")
    misused(predict.main, ["net.onnx", "0.png", "--mean", "104"], "give --pixels for an ONNX file")
    misused(predict.main, ["net.prototxt"], "give the weights of the net")


def test_an_open_size_is_given(refused: Check, capsys: pytest.CaptureFixture[str]) -> None:
    write_onnx("open.onnx", "side")
    words = ["open.onnx", "0.png", "--pixels", "unit", "--top", "1"]
    refused(predict.main, words, "give --input-shape image=1,3,224,224")
    assert predict.main([*words, "--input-shape", "image=1,3,8,8"]) == 0
    assert capsys.readouterr().out.startswith("0.png  prob: 0 0.9")


def test_nets_that_take_no_images() -> None:
    with pytest.raises(ComposeError, match="there are no pixels 'blue'"):
        onnx_net("net.onnx", pixels="blue")
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 5])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 5])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "flat", [value], [out])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), "flat.onnx")
    with pytest.raises(ComposeError):
        onnx_net("flat.onnx", pixels="unit")
