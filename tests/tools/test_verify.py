"""fusion-verify, and fusion-merge --verify, as a person uses them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from caffe_fusion_tools import export, merge
from caffe_fusion_tools.verify import main

from prototxt.formats.weights import read_weights, write_weights

Check = Callable[..., object]
SOURCE = "odd=odd.prototxt:odd.caffemodel"


@pytest.fixture
def folder(fused: Path) -> Path:
    assert merge.main(["fused.prototxt", SOURCE, "-o", "init.caffemodel"]) == 0
    return fused


def change() -> None:
    weights = {name: [np.array(blob) for blob in blobs] for name, blobs in read_weights("init.caffemodel").items()}
    weights["odd/ip"][1][3] = 5
    write_weights("init.caffemodel", weights)


def test_agreement_is_exit_0_with_a_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fused.prototxt", "init.caffemodel", SOURCE]) == 0
    out = capsys.readouterr().out
    assert "odd/ip  odd/ip  2x4    0             0" in out
    assert "odd: 1 blob agrees bit for bit" in out
    assert main(["fused.prototxt", "init.caffemodel", SOURCE, "-q"]) == 0
    assert capsys.readouterr() == (out, "")


def test_a_difference_is_exit_1_and_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change()
    capsys.readouterr()
    assert main(["fused.prototxt", "init.caffemodel", SOURCE]) == 1
    out, err = capsys.readouterr()
    assert "DIFFERS" in out
    assert err.startswith("error: odd: differs first in layer 'odd/ip', blob 'odd/ip': absolute 5.00e+00, relative ")
    assert main(["fused.prototxt", "init.caffemodel", SOURCE, "--rtol", "10"]) == 0


def test_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change()
    capsys.readouterr()
    assert main(["fused.prototxt", "init.caffemodel", SOURCE, "--json"]) == 1
    (found,) = json.loads(capsys.readouterr().out)
    assert found["first_difference"] == "odd/ip"
    assert found["blobs"][0]["absolute"] == pytest.approx(5.0)


def test_weights_alone_must_be_equal(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fused.prototxt", "init.caffemodel", "odd=odd.caffemodel"]) == 0
    change()
    assert main(["fused.prototxt", "init.caffemodel", "odd=odd.caffemodel"]) == 1
    assert "blob 'weights 1'" in capsys.readouterr().err


def test_two_nets(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["odd.prototxt", "odd.caffemodel", "--against", "odd.prototxt:odd.caffemodel"]) == 0
    assert "nets: 1 blob agrees" in capsys.readouterr().out


def test_an_export(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export.main(["odd.prototxt", "odd.caffemodel", "-o", "odd.onnx"]) == 0
    assert main(["odd.prototxt", "odd.caffemodel", "--against", "odd.onnx"]) == 0
    assert "onnx: 1 blob agrees" in capsys.readouterr().out
    write_weights("odd.caffemodel", {"ip": [np.ones((4, 6)), np.zeros(4)]})
    assert main(["odd.prototxt", "odd.caffemodel", "--against", "odd.onnx"]) == 1


def test_merge_verifies_what_it_wrote(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert merge.main(["fused.prototxt", SOURCE, "-o", "init.caffemodel", "--verify"]) == 0
    assert capsys.readouterr().out.endswith("verified odd: 1 blob agrees bit for bit\n")
    assert merge.main(["fused.prototxt", SOURCE, "-o", "init.caffemodel", "--verify", "--json"]) == 0
    out, err = capsys.readouterr()
    json.loads(out)
    assert "verified odd" in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["absent.prototxt", "init.caffemodel", SOURCE], "absent.prototxt"),
        (["fused.prototxt", "absent.caffemodel", SOURCE], "absent.caffemodel: there is no such file"),
        (["fused.prototxt", "init.caffemodel", "even=odd.prototxt:odd.caffemodel"], "have no layer in common"),
        (["fused.prototxt", "init.caffemodel", "even=odd.caffemodel"], "no layer of 'even' is in init.caffemodel"),
        (
            ["fused.prototxt", "init.caffemodel", SOURCE, "--images", "absent"],
            "absent: there is no such file or folder",
        ),
        (["fused.prototxt", "init.caffemodel", SOURCE, "--images", "odd.prototxt"], "of shape 1x6 takes no images"),
        (["fused.prototxt", "odd.caffemodel", SOURCE], "none of its 1 layers is one of net"),
    ],
)
def test_bad_input_is_one_message(folder: Path, refused: Check, arguments: list[str], says: str) -> None:
    refused(main, arguments, says)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["f", "w"], "give sources"),
        (["f", "w", SOURCE, "--against", "a:b"], "give sources"),
        (["f", "w", "--against", "a"], "--against takes NET.prototxt:WEIGHTS or NET.onnx"),
        (["f", "w", "--against", "a.onnx", "--images", "p"], "compared on noise"),
        (["f", "w", SOURCE, SOURCE], "prefix given twice: odd"),
        (["f", "w", SOURCE, "--batch", "0"], "--batch: '0' is not a whole number from 1"),
        (["f", "w", SOURCE, "--rtol", "nan"], "--rtol is 0 or more"),
        (["f", "w", SOURCE, "--input-shape", "data"], "is not BLOB=N,C,H,W"),
    ],
)
def test_bad_usage_is_exit_2(misused: Check, arguments: list[str], says: str) -> None:
    misused(main, arguments, says)
