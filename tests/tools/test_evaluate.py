"""fusion-test as a program: averages, and predictions of every record once."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from caffe_fusion_tools import evaluate
from caffe_fusion_tools.evaluate import main

from fusion.nets.build import build
from fusion.nets.weights import save_weights
from fusion.pct import Predictions

NET = """
layer { name: "data" type: "ImageData" top: "data" top: "label"
  image_data_param { source: "list.txt" batch_size: 4 is_color: false } transform_param { scale: 0.01 } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy" }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
Check = Callable[..., object]
ARGUMENTS = ["--model", "net.prototxt", "--weights", "net.caffemodel", "-q", "--device", "cpu"]


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_images: Callable[..., None]) -> None:
    monkeypatch.chdir(tmp_path)
    write_images(8, (5, 6), classes=2)
    Path("net.prototxt").write_text(NET)
    save_weights(build("net.prototxt", shapes={"data": (4, 1, 5, 6), "label": (4,)}, seed=1), "net.caffemodel")


def test_prints_as_caffe_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(ARGUMENTS) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Loss: ")
    assert lines[1].startswith("accuracy = ")
    assert lines[2].startswith("loss = ")
    assert lines[2].endswith(" loss)")


def test_outputs_with_several_values_are_listed_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    Path("net.prototxt").write_text(NET.replace('top: "accuracy"', 'top: "accuracy" top: "each"'))
    assert main(ARGUMENTS) == 0
    accuracy, each = capsys.readouterr().out.splitlines()[1:3]
    assert each == f"each: 2 values, mean {accuracy.rpartition(' ')[2]}"
    assert main([*ARGUMENTS, "--all-outputs"]) == 0
    values = [line for line in capsys.readouterr().out.splitlines() if line.startswith("each")]
    assert [line.partition(" = ")[0] for line in values] == ["each", "each"]


def test_layers_without_weights_are_named_when_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    extra = 'layer { name: "more" type: "InnerProduct" bottom: "ip" top: "more" inner_product_param { num_output: 1 } }'
    Path("net.prototxt").write_text(NET + extra)
    assert main(ARGUMENTS) == 0
    assert capsys.readouterr().err == "warning: no weights for more: these layers are untrained\n"


def test_predictions_agree_with_the_averages(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ARGUMENTS, "--json", "--predictions", "out.npz", "--logits", "ip", "--classes", "1,3"]) == 0
    average = json.loads(capsys.readouterr().out)
    found = Predictions.load("out.npz")
    assert found.keys.tolist() == [f"{index}.png" for index in range(8)]
    assert found.labels.tolist() == [1, 3] * 4
    assert found.classes.tolist() == [1, 3]
    assert found.logits.shape == (8, 2)
    assert float(found.right.mean()) == pytest.approx(average["accuracy"])
    assert found.name == "net"
    assert {"net", "weights", "preprocessing"} <= set(found.meta)
    assert found.meta["frozen"] == []


def test_the_scores_are_those_that_the_loss_reads() -> None:
    assert main([*ARGUMENTS, "--predictions", "found.npz"]) == 0
    assert main([*ARGUMENTS, "--predictions", "named.npz", "--logits", "ip"]) == 0
    found, named = Predictions.load("found.npz"), Predictions.load("named.npz")
    assert found.logits.tolist() == named.logits.tolist()
    assert found.meta["logits"] == "ip"


def names_of(*more: str, logits: str = "ip") -> Predictions:
    assert main([*ARGUMENTS, "--predictions", "out.npz", "--logits", logits, *more]) == 0
    return Predictions.load("out.npz")


def test_predictions_carry_the_names_of_classes() -> None:
    assert "class_names" not in names_of().meta
    Path("net.prototxt").write_text('# class-names: ["one", "three"]\n' + NET)
    assert names_of().meta["class_names"] == ["one", "three"]
    assert names_of("--classes", "1,3").meta["class_names"] == {"1": "one", "3": "three"}
    Path("names.txt").write_text("null\neins\nzwei\ndrei\n")
    found = names_of("--classes", "1,3", "--labels", "names.txt")
    assert (found.classes.tolist(), found.meta["class_names"]) == ([1, 3], ["null", "eins", "zwei", "drei"])


def test_the_net_says_which_classes_a_sources_scores_are() -> None:
    head = '# class-names: ["a", "b", "c"]\n# class-numbers: {"ip": [2, 1]}\n'
    Path("net.prototxt").write_text(head + NET)
    found = names_of()
    assert (found.classes.tolist(), found.labels.tolist()) == ([2, 1], [0, 1] * 4)
    assert found.meta["class_names"] == ["a", "b", "c"]
    Path("net.prototxt").write_text(head.replace('"ip"', '"other"') + NET)
    found = names_of()
    assert (found.classes.tolist(), "class_names" in found.meta) == ([0, 1], False)


def test_predictions_say_what_was_frozen() -> None:
    frozen = "param { lr_mult: 0 } param { lr_mult: 0 }"
    Path("net.prototxt").write_text(NET.replace("inner_product_param", f"{frozen} inner_product_param", 1))
    assert main([*ARGUMENTS, "--predictions", "out.npz", "--logits", "ip"]) == 0
    assert Predictions.load("out.npz").meta["frozen"] == ["ip"]


def test_records_that_fill_no_whole_batch_and_occur_twice(capsys: pytest.CaptureFixture[str]) -> None:
    Path("list.txt").write_text("0.png 0\n1.png 1\n0.png 0\n")
    assert main([*ARGUMENTS, "--predictions", "out.npz", "--logits", "ip"]) == 0
    found = Predictions.load("out.npz")
    assert len(found) == 3
    np.testing.assert_allclose(found.logits[0], found.logits[2])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*ARGUMENTS, "--predictions", "o.npz", "--logits", "ipp"], "did you mean 'ip'?"),
        ([*ARGUMENTS, "--predictions", "o.npz", "--logits", "accuracy"], "not one row of logits per record"),
        ([*ARGUMENTS, "--predictions", "o.npz", "--logits", "ip", "--classes", "1,2,3"], "cannot become"),
        (["--model", "net.prototxt", "--weights", "absent.caffemodel"], "absent.caffemodel"),
    ],
)
def test_bad_input_is_one_message(arguments: list[str], message: str, refused: Check) -> None:
    refused(main, arguments, message)
    assert not Path("o.npz").exists()


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        (["--logits", "ip"], "--logits goes with --predictions"),
        (["--logits", "ip,ip", "--predictions", "o.npz"], "several with --heads"),
        (["--classes", "1"], "--classes and --labels need --predictions"),
        (["--labels", "l.txt"], "--classes and --labels need --predictions"),
        (["--iterations", "0"], "is not a whole number from 1"),
        (["--input-shape", "data=1,3"], "--input-shape is for an ONNX file"),
    ],
)
def test_bad_usage(extra: list[str], says: str, misused: Check) -> None:
    misused(main, [*ARGUMENTS, *extra], says)


def test_weights_and_data_belong_to_a_prototxt_or_an_onnx_file(misused: Check) -> None:
    misused(main, ["--model", "net.prototxt"], "give --weights WEIGHTS")
    misused(main, ["--model", "net.ONNX", "--weights", "w"], "this net has its weights")
    misused(main, ["--model", "net.onnx"], "an ONNX file names no data")


OUTPUTS = [("acc", [0.25], 0.0), ("each", [1.0, 2.0], 0.0), ("l", [3.0], 2.0), ("ls", [1.0, 2.0], 0.5)]


@pytest.mark.parametrize(
    ("options", "lines"),
    [
        ({}, ["each: 2 values, mean 1.5", "l = 3 (* 2 = 6 loss)", "ls: 2 values, mean 1.5"]),
        (
            {"all_outputs": True},
            ["each = 1", "each = 2", "l = 3 (* 2 = 6 loss)", "ls = 1 (* 0.5 = 0.5 loss)", "ls = 2 (* 0.5 = 1 loss)"],
        ),
    ],
)
def test_how_averages_are_printed(
    options: dict[str, bool], lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    average: Any = SimpleNamespace(loss=7.5, outputs=OUTPUTS)
    evaluate._print(average, argparse.Namespace(**{"json": False, "all_outputs": False, **options}), [("more", 0.125)])
    assert capsys.readouterr().out.splitlines() == ["Loss: 7.5", "acc = 0.25", *lines, "more = 0.125"]
    evaluate._print(average, argparse.Namespace(json=True), [("more", 0.125)])
    found = json.loads(capsys.readouterr().out)
    assert found == {"acc": 0.25, "each": [1.0, 2.0], "l": 3.0, "ls": [1.0, 2.0], "more": 0.125}


TWO = """
layer { name: "other" type: "InnerProduct" bottom: "data" top: "other"
  inner_product_param { num_output: 2 weight_filler { type: "gaussian" std: 0.1 } } }
layer { name: "loss2" type: "SoftmaxWithLoss" bottom: "other" bottom: "label" top: "loss2" }
"""


@pytest.mark.parametrize("how", ["mean", "max"])
def test_heads_together(how: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("net.prototxt").write_text(NET + TWO)
    save_weights(build("net.prototxt", shapes={"data": (4, 1, 5, 6), "label": (4,)}, seed=1), "net.caffemodel")
    assert main([*ARGUMENTS, "--heads", how, "--predictions", "both.npz"]) == 0
    lines = dict(line.split(" = ") for line in capsys.readouterr().out.splitlines() if line.startswith("accuracy of"))
    one, other = (predicted(blob) for blob in ("ip", "other"))
    both = Predictions.load("both.npz")
    shares = [np.exp(p.logits - p.logits.max(1, keepdims=True)) for p in (one, other)]
    shares = [share / share.sum(1, keepdims=True) for share in shares]
    expected = np.mean(shares, 0) if how == "mean" else np.max(shares, 0) / np.max(shares, 0).sum(1, keepdims=True)
    found = np.exp(both.logits)
    np.testing.assert_allclose(found / found.sum(1, keepdims=True), expected, rtol=1e-5)
    assert float(lines["accuracy of ip"]) == pytest.approx(float(one.right.mean()))
    assert float(lines["accuracy of other"]) == pytest.approx(float(other.right.mean()))
    assert float(lines[f"accuracy of their {how}"]) == pytest.approx(float(both.right.mean()))


def predicted(blob: str) -> Predictions:
    assert main([*ARGUMENTS, "--predictions", f"{blob}.npz", "--logits", blob]) == 0
    return Predictions.load(f"{blob}.npz")


def test_heads_that_do_not_belong_together(refused: Check, misused: Check) -> None:
    refused(main, [*ARGUMENTS, "--heads", "mean"], "compares only 'ip' with its label")
    refused(main, [*ARGUMENTS, "--heads", "mean", "--logits", "ip,accuracy"], "not one row of logits")
    misused(main, [*ARGUMENTS, "--predictions", "o.npz", "--logits", "ip,ip"])


def test_the_batches_of_caffe(
    golden: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("h5py")
    monkeypatch.chdir(golden / "misc" / "solverlog" / "run")
    arguments = [
        "--model",
        "net.prototxt",
        "--weights",
        "init.caffemodel",
        "--iterations",
        "3",
        "-q",
        "--device",
        "cpu",
    ]
    assert main(arguments) == 0
    log = Path("test.log").read_text().splitlines()
    assert capsys.readouterr().out.splitlines() == [line.split("] ", 1)[1] for line in log[-3:]]


def class_folders(path: str, classes: Sequence[str]) -> None:
    for number, name in enumerate(classes):
        Path(path, name).mkdir(parents=True)
        for index in range(2):
            Path(path, name, f"{index}.png").write_bytes(Path(f"{number}.png").read_bytes())


def test_a_list_or_folder_instead_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    Path("part.txt").write_text("".join(f"{index}.png {index % 2}\n" for index in (5, 2, 3)))
    save = ["--predictions", "out.npz", "--logits", "ip"]
    own = names_of()
    assert main([*ARGUMENTS, "--list", "part.txt", *save]) == 0
    part = Predictions.load("out.npz")
    assert part.keys.tolist() == ["5.png", "2.png", "3.png"]
    np.testing.assert_allclose(part.logits, own.logits[[5, 2, 3]], atol=1e-6)
    class_folders("photos", ("cat", "dog"))
    assert main([*ARGUMENTS, "--list", "photos", *save]) == 0
    folder = Predictions.load("out.npz")
    assert folder.keys.tolist() == ["photos/cat/0.png", "photos/cat/1.png", "photos/dog/0.png", "photos/dog/1.png"]
    assert folder.labels.tolist() == [0, 0, 1, 1]
    assert folder.meta["class_names"] == ["cat", "dog"]
    np.testing.assert_allclose(folder.logits, own.logits[[0, 0, 1, 1]], atol=1e-6)
    assert main([*ARGUMENTS, "--list", "photos", *save, "--classes", "3,1"]) == 0
    assert Predictions.load("out.npz").meta["class_names"] == {"3": "cat", "1": "dog"}
    capsys.readouterr()
    Path("net.prototxt").write_text('# class-names: ["cat", "eel"]\n' + NET)
    assert main([*ARGUMENTS, "--list", "photos"]) == 1
    assert "only photos has 'dog'; only the net's class names has 'eel'" in capsys.readouterr().err


def test_a_folder_of_other_classes_than_the_net_trains_on(capsys: pytest.CaptureFixture[str]) -> None:
    class_folders("train", ("cat", "dog"))
    class_folders("test", ("dog", "eel"))
    layer = NET[: NET.index("}\nlayer") + 2]
    train = layer.replace("list.txt", "train").replace("name", "include { phase: TRAIN } name")
    test = layer.replace("name", "include { phase: TEST } name")
    Path("net.prototxt").write_text(train + test + NET[len(layer) :])
    assert main([*ARGUMENTS, "--list", "test"]) == 1
    assert "test: its classes are not those of train: only test has 'eel'" in capsys.readouterr().err
