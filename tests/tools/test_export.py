"""fusion-export as a person uses it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from caffe_fusion_tools.export import main

from prototxt.formats.weights import write_weights

NET = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 6 } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 4 } }
"""
Check = Callable[..., object]
INDEX = 'layer { name: "i" type: "Input" top: "i" input_param { shape { dim: 1 } } }\n'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("net.prototxt").write_text(NET)
    Path("other.prototxt").write_text(
        NET + INDEX + 'layer { name: "f" type: "BatchReindex" bottom: "ip" bottom: "i" top: "f" }\n'
    )
    write_weights("net.caffemodel", {"ip": [np.arange(24.0).reshape(4, 6), np.zeros(4)]})
    return tmp_path


def test_it_writes_checks_and_tells(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["net.prototxt", "net.caffemodel", "-o", "net.onnx", "--check"]) == 0
    out, err = capsys.readouterr()
    assert "onnx: all 2 blobs agree" in out
    assert err == "wrote net.onnx: data [N, 6] to ip, 1 nodes, opset 17\n"
    assert main(["net.prototxt", "net.caffemodel", "-o", "net.onnx", "--check", "--json", "--opset", "13"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["agrees"] is True


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["absent.prototxt", "net.caffemodel", "-o", "o.onnx"], "absent.prototxt"),
        (["net.prototxt", "absent.caffemodel", "-o", "o.onnx"], "absent.caffemodel: there is no such file"),
        (["net.prototxt", "net.prototxt", "-o", "o.onnx"], "this is a text file; weights are binary"),
        (["net.prototxt", "net.caffemodel", "-o", "absent/o.onnx"], "absent"),
        (["net.prototxt", "net.caffemodel", "-o", "o.onnx", "--opset", "9"], "opset 9 is not one of 13 to"),
        (["net.prototxt", "net.caffemodel", "-o", "o.onnx", "--output-blob", "pi"], "has no blob 'pi' in phase TEST"),
        (
            ["net.prototxt", "net.caffemodel", "-o", "o.onnx", "--input-shape", "dta=1,6"],
            "'dta', which is not an",
        ),
        (["net.prototxt", "net.caffemodel", "-o", "o.onnx", "--input-shape", "data=1,7"], "needs blobs of shape"),
        (["other.prototxt", "net.caffemodel", "-o", "o.onnx"], "there is no exporter for the type 'BatchReindex'"),
    ],
)
def test_bad_input_is_one_message(folder: Path, refused: Check, arguments: list[str], says: str) -> None:
    refused(main, arguments, says)
    assert not list(folder.glob("*o.onnx*"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["n", "w"], "required: -o"),
        (["n", "w", "-o", "net.pb"], "ends in .onnx"),
        (["n", "w", "-o", "o.onnx", "--input-shape", "data"], "is not BLOB=N,C,H,W"),
    ],
)
def test_bad_usage_is_exit_2(misused: Check, arguments: list[str], says: str) -> None:
    misused(main, arguments, says)
