"""fusion-surgery as a person uses it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from caffe_fusion_tools import surgery
from caffe_fusion_tools.surgery import main
from caffe_fusion_tools.verify import main as verify
from PIL import Image

from prototxt.formats.weights import read_weights, write_weights

Check = Callable[..., object]
NET = """# a comment
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 2 dim: 4 dim: 4 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" param { lr_mult: 0 }
  convolution_param { num_output: 3 kernel_size: 3 bias_term: false } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" }
layer { name: "fc" type: "InnerProduct" bottom: "conv" top: "fc" inner_product_param { num_output: 2 } }
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("net.prototxt").write_text(NET)
    random = np.random.default_rng(0)
    shapes = {"conv": [(3, 2, 3, 3)], "bn": [(3,), (3,), (1,)], "fc": [(2, 12), (2,)]}
    weights = {name: [np.abs(random.normal(1, 1, shape)) for shape in blobs] for name, blobs in shapes.items()}
    write_weights("net.caffemodel", weights)
    return tmp_path


def test_fold(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fold", "net.prototxt", "net.caffemodel", "-o", "folded"]) == 0
    out, err = capsys.readouterr()
    assert out == "kept: fc\nchanged: conv: absorbed bn\ndropped: bn\n"
    assert err == "wrote folded.caffemodel and folded.prototxt\n"
    assert Path("folded.prototxt").read_text().startswith("# a comment\n")
    against = ["--against", "folded.prototxt:folded.caffemodel", "--batch", "3"]
    assert verify(["net.prototxt", "net.caffemodel", *against]) == 0
    assert "nets: all 2 blobs agree" in capsys.readouterr().out


def test_head_as_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--drop", "fc", "--num-output", "5", "--reinit", "xavier", "--json"]
    assert main(["head", "net.prototxt", "net.caffemodel", *options, "-o", "new.safetensors"]) == 0
    text = capsys.readouterr().out
    found = json.loads(text)
    assert text == json.dumps(found, indent=2) + "\n"
    assert found["dropped"] == ["fc"]
    assert found["written"] == ["new.safetensors", "new.prototxt"]
    assert read_weights("new.safetensors")["fc"][0].shape == (5, 12)


def test_other_classes_by_name(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    end = 'layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }\n'
    Path("net.prototxt").write_text('# class-names: ["ant", "bee"]\n' + NET + end)
    change = ["--drop", "ant", "--add", "cat,dog", "--rename", "bee=wasp"]
    assert main(["classes", "net.prototxt", "net.caffemodel", *change, "-o", "new"]) == 0
    assert capsys.readouterr().out == (
        "kept: conv, bn\nchanged: fc: 1 of 2 classes kept, 1 dropped, 2 added\n"
        "left alone: labels of the data: they have the old numbers: fusion-convert list OLD -o NEW --label-map 1=0\n"
    )
    assert Path("new.prototxt").read_text().startswith('# class-names: ["wasp", "cat", "dog"]\n# a comment\n')
    assert np.array_equal(read_weights("new.caffemodel")["fc"][0][0], read_weights("net.caffemodel")["fc"][0][1])
    assert main(["classes", "net.prototxt", "net.caffemodel", "--keep", "bee,0", "--add", "2", "-o", "more"]) == 0
    assert Path("more.prototxt").read_text().startswith('# class-names: ["bee", "ant", "", ""]\n')
    assert main(["classes", "net.prototxt", "net.caffemodel", "--drop", "bees", "-o", "less"]) == 1
    assert "--drop bees: 'bees' is no class\n  hint: did you mean 'bee'?" in capsys.readouterr().err


def test_other_input_channels(folder: Path) -> None:
    assert main(["channels", "net.prototxt", "net.caffemodel", "--channels", "1", "-o", "grey"]) == 0
    assert "dim: 1 dim: 1 dim: 4 dim: 4" in Path("grey.prototxt").read_text()
    total = read_weights("net.caffemodel")["conv"][0].sum(1, keepdims=True)
    np.testing.assert_allclose(read_weights("grey.caffemodel")["conv"][0], total, rtol=1e-6)


def test_dense_and_back(folder: Path) -> None:
    assert main(["convolve", "net.prototxt", "net.caffemodel", "-o", "full"]) == 0
    assert read_weights("full.caffemodel")["fc"][0].shape == (2, 3, 2, 2)
    assert main(["dense", "full.prototxt", "full.caffemodel", "--layers", "fc", "-o", "back"]) == 0
    assert np.array_equal(read_weights("back.caffemodel")["fc"][0], read_weights("net.caffemodel")["fc"][0])


def test_strip_and_restore_give_the_same_bytes(folder: Path) -> None:
    assert main(["strip", "net.prototxt", "net.caffemodel", "-o", "head"]) == 0
    assert list(read_weights("head.caffemodel")) == ["bn", "fc"]  # its statistics move in training
    assert main(["restore", "net.prototxt", "head.caffemodel", "net.caffemodel", "-o", "whole"]) == 0
    for name, blobs in read_weights("net.caffemodel").items():
        for one, other in zip(blobs, read_weights("whole.caffemodel")[name], strict=True):
            assert np.array_equal(one, other)


def test_average(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["average", "net.caffemodel", "net.caffemodel", "--share", "1", "--share", "3", "-o", "mean"]) == 0
    assert "changed: conv: mean of 2" in capsys.readouterr().out
    np.testing.assert_allclose(read_weights("mean.caffemodel")["fc"][0], read_weights("net.caffemodel")["fc"][0])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["fold", "absent.prototxt", "net.caffemodel"], "absent.prototxt"),
        (["head", "net.prototxt", "net.caffemodel", "--drop", "ip"], "no layer's name matches 'ip'"),
        (["dense", "net.prototxt", "net.caffemodel", "--layers", "fc"], "no Convolution layer matches 'fc'"),
        (["average", "net.caffemodel", "--share", "0"], "shares [0.0] for 1 nets"),
        (["restore", "net.prototxt", "net.caffemodel", "absent.caffemodel"], "there is no such file"),
    ],
)
def test_bad_input_is_one_message(folder: Path, refused: Check, arguments: list[str], says: str) -> None:
    refused(main, [*arguments, "-o", "out"], says)
    assert not list(folder.glob("out*"))


PLAIN = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 2 } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 3 } }
"""


def test_nothing_to_do_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("plain.prototxt").write_text(PLAIN)
    write_weights("plain.caffemodel", {"ip": [np.ones((3, 2)), np.ones(3)]})
    assert main(["fold", "plain.prototxt", "plain.caffemodel", "-o", "same"]) == 0
    assert capsys.readouterr().out.splitlines() == ["kept: ip", "changed: none"]


BRANCHES = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 2 dim: 4 dim: 4 } } }
layer { name: "a/conv" type: "Convolution" bottom: "data" top: "a/conv"
  convolution_param { num_output: 3 kernel_size: 3 } }
layer { name: "b/conv" type: "Convolution" bottom: "data" top: "b/conv"
  convolution_param { num_output: 3 kernel_size: 3 } }
layer { name: "join" type: "WeightedSum" bottom: "a/conv" bottom: "b/conv" top: "join" }
"""


def test_grouped_and_baked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("two.prototxt").write_text(BRANCHES)
    random = np.random.default_rng(0)
    conv = {f"{name}/conv": [random.normal(size=(3, 2, 3, 3)), random.normal(size=3)] for name in "ab"}
    write_weights("two.caffemodel", {**conv, "join": [np.array([0.5, 1.5])]})
    assert main(["bake", "two.prototxt", "two.caffemodel", "-o", "plain"]) == 0
    assert "changed: join: Eltwise with coeff 0.249988, 0.749963" in capsys.readouterr().out
    assert main(["group", "plain.prototxt", "plain.caffemodel", "--branches", "a", "b", "-o", "grouped"]) == 0
    assert "changed: a+b/conv: 2 Convolution layers" in capsys.readouterr().out
    assert verify(["two.prototxt", "two.caffemodel", "--against", "grouped.prototxt:grouped.caffemodel"]) == 0
    write_weights("two.caffemodel", {**conv, "join": [np.array([-0.5, -1.5])]})
    with warnings.catch_warnings():
        warnings.simplefilter("always")  # as a person runs it: tests make them errors
        assert main(["bake", "two.prototxt", "two.caffemodel", "-o", "plain"]) == 0
    told = capsys.readouterr().err.splitlines()[0]
    assert told.startswith("warning: layer 'join': all shares are 0 (-0.5, -1.5), so its top is 0; train it again at")


def test_soup_and_a_point_within_a_budget(
    folder: Path, dense_net: Callable[..., str], misused: Check, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("net.prototxt").write_text(dense_net(2, transform=""))
    lines = []
    for index in range(8):  # bright pictures are of class 1
        Image.fromarray(np.full((2, 2), 30 * index, np.uint8)).save(f"{index}.png")
        lines.append(f"{index}.png {index // 4}\n")
    Path("list.txt").write_text("".join(lines))
    for name, threshold in (("old", 150), ("new", 400), ("other", 110)):
        write_weights(f"{name}.caffemodel", {"ip": [np.array([[0.0] * 4, [0.25] * 4]), np.array([threshold, 0.0])]})
    assert main(["soup", "net.prototxt", "old.caffemodel", "new.caffemodel", "other.caffemodel", "-o", "soup"]) == 0
    error = capsys.readouterr().err
    assert "accuracy alone: old.caffemodel 0.7500, new.caffemodel 0.5000, other.caffemodel 1.0000" in error
    assert "averaged other.caffemodel\n" in error
    interpolate = ["interpolate", "net.prototxt", "old.caffemodel", "new.caffemodel", "-o", "between"]
    assert main([*interpolate, "--max-nfr", "0.13"]) == 0
    assert "share 0.0: accuracy 0.7500, negative flip rate 0.0000 <- chosen" in capsys.readouterr().err
    assert main([*interpolate, "--share", "0.5"]) == 0
    assert read_weights("between.caffemodel")["ip"][1].tolist() == [275, 0]
    misused(main, interpolate, "give a position with --share")
    misused(main, [*interpolate, "--share", "0", "--max-nfr", "0"], "or a limit of negative flips with --max-nfr")
    better = ["interpolate", "net.prototxt", "old.caffemodel", "other.caffemodel", "-o", "better", "--max-nfr", "0"]
    assert main([*better, "--logits", "ip"]) == 0
    lines = capsys.readouterr().err.splitlines()
    thresholds = [150 - 4 * tenth for tenth in range(11)]
    right = [sum((30 * index > threshold) == (index > 3) for index in range(8)) / 8 for threshold in thresholds]
    assert lines[:-1] == [
        f"share {tenth / 10:.1f}: accuracy {share:.4f}, negative flip rate 0.0000{' <- chosen' if tenth == 8 else ''}"
        for tenth, share in enumerate(right)
    ]
    assert read_weights("better.caffemodel")["ip"][1].tolist() == pytest.approx([118, 0])
    misused(main, ["soup", "net.prototxt", "old.caffemodel"], "required: -o")


def test_a_net_without_scores_is_asked_for_them(folder: Path, refused: Check) -> None:
    Path("net.prototxt").write_text(NET[: NET.index('layer { name: "conv"')])
    refused(main, ["soup", "net.prototxt", "net.caffemodel", "-o", "out"], "cannot determine the blob")


@pytest.mark.parametrize(
    ("output", "files"),
    [
        ("a", ("a.caffemodel", "a.prototxt")),
        ("a.caffemodel", ("a.caffemodel", "a.prototxt")),
        ("a.Caffemodel.h5", ("a.Caffemodel.h5", "a.prototxt")),
        ("a.h5", ("a.h5", "a.prototxt")),
        ("a.safetensors", ("a.safetensors", "a.prototxt")),
        ("a.b", ("a.b.caffemodel", "a.b.prototxt")),
    ],
)
def test_the_files_that_are_written(output: str, files: tuple[str, str]) -> None:
    assert surgery._paths(output) == files


@pytest.mark.parametrize(
    "words",
    [
        ["fold", "net.prototxt", "net.caffemodel"],
        ["restore", "net.prototxt", "more.caffemodel", "net.caffemodel"],
        ["soup", "net.prototxt", "more.caffemodel", "net.caffemodel"],
        ["average", "more.caffemodel", "net.caffemodel"],
        ["interpolate", "net.prototxt", "net.caffemodel", "more.caffemodel", "--share", "0"],
        ["interpolate", "net.prototxt", "more.caffemodel", "net.caffemodel", "--share", "0"],
    ],
)
def test_no_weights_that_are_read_are_written_over(folder: Path, refused: Check, words: list[str]) -> None:
    write_weights("more.caffemodel", {"fc": [np.ones((2, 12)), np.ones(2)]})
    refused(main, [*words, "-o", "net.caffemodel"], "this would overwrite weights that are read here")


def test_what_is_said_of_the_files(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["average", "net.caffemodel", "net.caffemodel", "-o", "mean"]
    assert main([*words, "-q"]) == 0
    assert capsys.readouterr() == ("", "")
    assert main(words) == 0
    assert capsys.readouterr().err == "wrote mean.caffemodel\n"
