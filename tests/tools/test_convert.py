"""The command itself: what it says, exit codes, streams."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from caffe_fusion_tools import convert

from prototxt.formats.weights import write_weights

V1 = 'layers { name: "r" type: RELU bottom: "d" top: "r" } # kept\n'
TRAIN = (
    'layer { name: "d" type: "ImageData" top: "d" top: "l" image_data_param { source: "none" batch_size: 3 } }\n'
    'layer { name: "r" type: "InnerProduct" bottom: "d" top: "r" inner_product_param { num_output: 2 } }\n'
    'layer { name: "s" type: "SoftmaxWithLoss" bottom: "r" bottom: "l" }\n'
)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "old.prototxt"
    path.write_text(V1)
    return path


def test_upgrade(old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert convert.main([str(old), str(tmp_path / "new.prototxt"), "--upgrade"]) == 0
    assert (tmp_path / "new.prototxt").read_text() == V1.replace("layers", "layer").replace("RELU", '"ReLU"')
    assert "a net's text, from a net's text" in capsys.readouterr().out


def test_stdout_holds_the_text_alone(old: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert convert.main([str(old), "-", "--upgrade"]) == 0
    out, err = capfd.readouterr()
    assert out == V1.replace("layers", "layer").replace("RELU", '"ReLU"')
    assert err.startswith("-: a net's text")
    assert convert.main([str(old), "-", "--upgrade", "-q"]) == 0
    assert capfd.readouterr().err == ""


def test_deploy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "t.prototxt", tmp_path / "d.prototxt"
    path.write_text(TRAIN)
    assert convert.main([str(path), str(out), "--deploy"]) == 1
    assert "--input-shape d=1,3,?,?" in capsys.readouterr().err
    assert not out.exists()
    assert convert.main([str(path), str(out), "--deploy", "--input-shape", "d=1,3,4,4"]) == 0
    assert "becomes Softmax on 'r'" in capsys.readouterr().out
    assert 'type: "Input"' in out.read_text()


@pytest.mark.parametrize(
    "wrong",
    [["--input-shape", "d=1"], ["--deploy", "--input-shape", "1,3,4,4"], ["--deploy", "--input-shape", "d=1,x"]],
)
def test_usage(old: Path, misused: Callable[..., object], wrong: list[str]) -> None:
    misused(convert.main, [str(old), "x.prototxt", *wrong])


def test_errors(old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert convert.main([str(old), str(tmp_path / "x.prototxt")]) == 1
    assert "give --upgrade" in capsys.readouterr().err
    assert convert.main([str(tmp_path / "none"), "x.h5"]) == 1


def test_weights_are_not_written_as_text_named_pt(
    tmp_path: Path, refused: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    write_weights(tmp_path / "x.caffemodel", {"ip": [np.ones((2, 2), np.float32)]})
    refused(convert.main, [str(tmp_path / "x.caffemodel"), str(tmp_path / "x.pt")], "or a PyTorch file")
    refused(convert.main, [str(tmp_path / "x.caffemodel"), str(tmp_path / "x.pth")], ".safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["x.caffemodel"]
