"""The command itself: tables, JSON, pictures, exit codes."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from caffe_fusion_tools import convert, show

from prototxt.formats.weights import write_weights

NET = """name: "n"
layer { name: "d" type: "Input" top: "d" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "ip" type: "InnerProduct" bottom: "d" top: "ip" inner_product_param { num_output: 4 } }
layer { name: "m" type: "Mystery" bottom: "ip" top: "m" }
"""


@pytest.fixture
def net(tmp_path: Path) -> Path:
    path = tmp_path / "net.prototxt"
    path.write_text(NET)
    return path


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "w.caffemodel"
    write_weights(path, {"ip": [np.ones((4, 3)), np.zeros(4)]})
    return path


def test_table(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert show.main([str(net)]) == 0
    out = capsys.readouterr().out
    assert "ip     InnerProduct       d       ip   2x4" in out
    assert "3 layers, at least 24 MACs, at least 16 parameters" in out
    assert "not known: type 'Mystery'" in out


def test_json_with_weights(net: Path, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert show.main([str(net), "--json", "--weights", str(weights), "--input-shape", "d=5,3"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["layers"][1]["macs"] == 5 * 12
    assert found["weights"]["blobs"][0]["statistics"]["mean"] == 1.0
    assert found["weights"]["misfits"] == []


def test_pictures(net: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [tmp_path / f"n.{ending}" for ending in ("dot", "svg", "html")]
    assert show.main([str(net), *(part for name in names for part in (f"--{name.suffix[1:]}", str(name)))]) == 0
    assert names[0].read_text().startswith("digraph")
    ElementTree.parse(names[1])
    assert "<!DOCTYPE html>" in names[2].read_text()
    assert capsys.readouterr().err.count("wrote") == 3
    assert show.main([str(net), "-q", "--svg", str(names[1])]) == 0
    out, err = capsys.readouterr()
    assert "InnerProduct" in out
    assert err == ""


def test_binary_files(weights: Path, golden: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert show.main([str(weights)]) == 0
    assert "1 layers, 2 blobs, 16 values (64 B)" in capsys.readouterr().out
    assert show.main([str(weights), "--stats"]) == 0
    assert "zeros" in capsys.readouterr().out
    assert show.main([str(weights), "--phase", "TEST"]) == 0, "the description inside"
    assert "net without a name" in capsys.readouterr().out
    assert show.main([str(golden / "solvers" / "resume_sgd" / "snap_iter_10.solverstate"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["iteration"] == 10


def test_solver(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "s.prototxt"
    path.write_text('net: "n"\nbase_lr: 0.01\nstepvalue: 1\nstepvalue: 2\nsolver_type: ADAM\n')
    assert show.main([str(path)]) == 0
    out = capsys.readouterr().out
    assert "base_lr    0.01" in out
    assert "stepvalue  1, 2" in out
    assert "Adam" in out


def test_errors(net: Path, tmp_path: Path, refused: Callable[..., object], misused: Callable[..., object]) -> None:
    refused(show.main, [str(tmp_path / "none")], "none")
    refused(show.main, [str(net), "--input-shape", "x=1"], "'x', which the net lacks")
    misused(show.main, [str(net), "--input-shape", "d=0"])


def test_an_onnx_model_of_another_name_is_no_damaged_mean(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "net.prototxt"
    path.write_bytes(b"\x08\x08\x12\x01x\x3a\x03\x12\x01g\x42\x02\x10\x11")  # ir_version, producer, graph, opset
    assert show.main([str(path)]) == 1
    assert (
        capsys.readouterr().err
        == f"error: {path}: this is an ONNX model, not a file of Caffe's\n  hint: name it .onnx\n"
    )


def shown(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert show.main(arguments) == 0
    return capsys.readouterr().out


def test_whether_weights_fit_is_said_below_them(
    net: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.caffemodel"
    write_weights(other, {"ip": [np.ones((5, 3)), np.zeros(4)]})
    text = shown([str(net), "--weights", str(weights)], capsys)
    assert text.index("Mystery") < text.index("2 blobs") < text.index("every blob of the net has its weights\n")
    assert "does not fit" not in text
    text = shown([str(net), "--weights", str(other)], capsys)
    assert text.count("does not fit: ") == 1
    assert "every blob" not in text
    assert json.loads(shown([str(net), "--json", "--weights", str(other)], capsys))["weights"]["misfits"]


def test_json_is_indented_ascii(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net.write_text(NET.replace('"n"', '"é"'), encoding="utf-8")
    text = shown([str(net), "--json"], capsys)
    assert text == json.dumps(json.loads(text), indent=1) + "\n"
    assert '"\\u00e9"' in text


@pytest.mark.parametrize("option", ["dot", "svg", "html", "phase", "input-shape", "weights"])
def test_what_asks_for_the_net_inside_weights(
    option: str, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    value = {"phase": "TEST", "weights": str(weights)}.get(option, str(tmp_path / "out"))
    if option == "input-shape":
        value = "d=2,3"
        (tmp_path / "net.prototxt").write_text(NET)
        convert.main([str(tmp_path / "net.prototxt"), str(tmp_path / "net.caffemodel"), "-q"])
        weights = tmp_path / "net.caffemodel"
    text = shown([str(weights), f"--{option}", value], capsys)
    assert "  MACs  " in text


def test_a_net_in_binary_form_and_a_solver(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A solver may have settings of forks, which are listed too, and need no strict reading."""
    (tmp_path / "s.prototxt").write_text('net: "n"\nbase_lr: 0.5\nfork_field: 3\n')
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert "base_lr  0.5\n" in shown([str(tmp_path / "s.prototxt")], capsys)
    (tmp_path / "s.prototxt").write_text('net: "n"\nbase_lr: 0.5\n')
    assert convert.main([str(tmp_path / "s.prototxt"), str(tmp_path / "s.binaryproto"), "-q"]) == 0
    found = json.loads(shown([str(tmp_path / "s.binaryproto"), "--json"], capsys))
    assert (found["kind"], found["file"], found["base_lr"]) == ("solver", str(tmp_path / "s.binaryproto"), 0.5)


def test_drawings_are_of_the_asked_phase(net: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = [f'layer {{ name: "{phase}" type: "ReLU" bottom: "ip" top: "{phase}" include {{ phase: {phase} }} }}\n'
            for phase in ("TRAIN", "TEST")]  # fmt: skip
    net.write_text(NET + "".join(more))
    drawing = tmp_path / "n.dot"
    for options, phases in (([], ("TEST",)), (["--phase", "train"], ("TRAIN",))):
        shown([str(net), "--dot", str(drawing), *options], capsys)
        assert tuple(phase for phase in ("TRAIN", "TEST") if phase in drawing.read_text()) == phases


def test_a_terminal_without_unicode(net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net.write_text(NET.replace('name: "m"', 'name: "é"'), encoding="utf-8")
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", stream)
    assert show.main([str(net)]) == 0
    stream.flush()
    assert b"\n?      Mystery" in stream.buffer.getvalue()  # type: ignore[attr-defined]
