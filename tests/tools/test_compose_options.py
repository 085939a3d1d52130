"""Every option of fusion-compose survives its file, and hints name only options that it has."""

from __future__ import annotations

import argparse
import re
from dataclasses import replace
from pathlib import Path

import pytest
from caffe_fusion_tools.compose import _config, main, parser
from caffe_fusion_tools.list_options import apply_list_options

from fusion.composition import ComposeConfig, Source, read_config, to_toml
from fusion.composition.losses import plain_options
from fusion.errors import ComposeError

ROOT = Path(__file__).parents[2]
BASE = ["--source", "a=a.prototxt", "--source", "b/c=b.onnx@x,y", "--num-output", "5", "-o", "out"]
# What may be said with each option, beside BASE; its effect must be in the file.
SAMPLES = {
    "--source": ['d=na"me\\.prototxt@ip1'],
    "--weights": ["a=a.caffemodel"],
    "--output": ["other"],
    "--num-output": ["7"],
    "--name": ["fused net"],
    "--head": ["gated"],
    "--hidden": ["9"],
    "--project": ["8"],
    "--batch-norm": [],
    "--maps": ["levels"],
    "--loss": ["SoftmaxWithLoss,ignore_label=255"],
    "--task": ["age=EuclideanLoss:age_label,num_output=2,loss_weight=0.5"],
    "--stage": ["TEST=val"],
    "--data-from": ["a"],
    "--train-list": ["t.txt", "b/c=u.txt"],
    "--val-list": ["a/data=v.txt", "a/depth map=w.txt"],
    "--val-share": ["0.1"],
    "--train-batch": ["3"],
    "--test-batch": ["4"],
    "--resize": ["256x200"],
    "--input-shape": ["3,8,9"],
    "--labels": ["names.txt"],
    "--references": [],
    "--classes": ["a=1,3-4", "b/c=cat,dog"],
    "--logits": ["a=ip2"],
    "--pixels": ["b/c=torchvision"],
    "--share": ["a=2.5"],
    "--reads": ["b/c=a"],
    "--as-caffe": [],
    "--pct": ["focal,weight=0.25,temperature=2"],
    "--lr": ["1e-5"],
    "--momentum": ["0.8"],
    "--weight-decay": ["0"],
    "--gamma": ["0.3"],
    "--lr-policy": ["fixed"],
    "--stepsize": ["7"],
    "--max-iter": ["9"],
    "--test-interval": ["0"],
    "--test-iter": ["2"],
    "--display": ["0"],
    "--snapshot": ["5"],
    "--seed": ["0"],
}
NO_PART_OF_A_FUSION = {"--help", "--version", "--quiet", "--dry-run", "--svg", "--write-toml"}
OPTIONS = {text for action in parser()._actions for text in action.option_strings if text.startswith("--")}


def said(option: str) -> list[str]:
    values = SAMPLES[option]
    return [text for value in values for text in (option, value)] if values else [option]


def meaning(recipe: ComposeConfig) -> tuple[object, ...]:
    """All that a recipe says; a parameter of a loss may be written as one value or as a list of one."""
    tasks = [(task.name, task.num_output, task.loss.type, task.loss.label, plain_options(task.loss))
             for task in recipe.options.parsed_tasks()]  # fmt: skip
    return recipe.sources, replace(recipe.options, tasks=()), recipe.output, tasks


def test_every_option_has_a_sample() -> None:
    assert set(SAMPLES) == OPTIONS - NO_PART_OF_A_FUSION


@pytest.mark.parametrize("option", SAMPLES)
def test_an_option_survives_its_file(tmp_path: Path, option: str) -> None:
    plain, recipe = (_config(parser().parse_args(arguments)) for arguments in (BASE, [*BASE, *said(option)]))
    assert recipe != plain
    (tmp_path / "fusion.toml").write_text(to_toml(recipe))
    assert meaning(read_config(tmp_path / "fusion.toml")) == meaning(recipe)


def test_all_options_together_survive_their_file(tmp_path: Path) -> None:
    recipe = _config(parser().parse_args(BASE + [text for option in SAMPLES for text in said(option)]))
    (tmp_path / "fusion.toml").write_text(to_toml(recipe))
    assert meaning(read_config(tmp_path / "fusion.toml")) == meaning(recipe)
    again = _config(parser().parse_args([str(tmp_path / "fusion.toml")]))
    assert meaning(again) == meaning(recipe)
    flagged = _config(parser().parse_args([str(tmp_path / "fusion.toml"), "--val-list", "all.txt"]))
    assert [source.val_list for source in flagged.sources] == [None] * 3  # flags count more than the file
    assert [source.train_list for source in flagged.sources] == [None, "u.txt", None]


def test_hints_name_options_that_there_are() -> None:
    files = [*(ROOT / "fusion" / "composition").glob("*.py")]
    files += [ROOT / "tools" / "compose.py", ROOT / "tools" / "list_options.py"]
    for file in files:
        text = re.sub(r"fusion-(?!compose)\w+ [^)]*\)", "", file.read_text())  # another command, in brackets
        assert set(re.findall(r"--[a-z][a-z-]*[a-z]", text)) <= OPTIONS, file


NET = """
layer { name: "data" type: "ImageData" top: "data" top: "label" image_data_param { source: "l.txt" batch_size: 2 } }
layer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc" inner_product_param { num_output: 3 } }
layer { name: "odd" type: "Strange" bottom: "fc" top: "odd" }
layer { name: "ip" type: "InnerProduct" bottom: "odd" top: "ip" inner_product_param { num_output: 3 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""


@pytest.mark.parametrize(
    ("net", "says"),
    [
        (NET, "the source's weights (--weights P=FILE)"),
        (NET.replace("Strange", "ReLU").replace('"data"', '"a/fc"'), "both be called 'a/fc'"),
    ],
)
def test_the_hints_of_renaming_are_those_of_composing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], net: str, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.prototxt").write_text(net)
    assert main(["--source", "a=a.prototxt@odd", "--num-output", "3", "--dry-run"]) == 1
    error = capsys.readouterr().err
    assert says in error
    assert set(re.findall(r"--[a-z][a-z-]*[a-z]", error)) <= OPTIONS


@pytest.mark.parametrize(
    ("given", "lists"),
    [
        ([], [None, "own", "own"]),
        (["all.txt"], [None, None, None, "all.txt"]),
        (["a/b=t"], [None, "t", "own"]),
        (["a/b/c=t"], [None, {"c": "t"}, "own"]),
        (["a/c=t", "a/d=u"], [{"c": "t", "d": "u"}, "own", "own"]),
        (["all.txt", "c=t"], [None, None, "t", "all.txt"]),
        (["there=1"], [None, None, None, "there=1"]),
    ],
)
def test_a_list_is_for_all_for_a_source_or_for_its_layer(
    given: list[str], lists: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there=1").touch()
    sources = [Source("a", "a.prototxt"), *(Source(name, "n", train_list="own") for name in ("a/b", "c"))]
    arguments = argparse.Namespace(train_list=given, val_list=[])
    found, whole = apply_list_options(sources, arguments)
    assert [source.train_list for source in found] == lists[:3]
    assert whole == {"train_list": [*lists, None][3], "val_list": None}
    assert [source.val_list for source in found] == [None] * 3


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["t", "u"], "--train-list u: there is already a list: t"),
        (["a=t", "a=u"], "--train-list a=u: there is already a list: t"),
        (["a/x=t", "a/x=u"], "--train-list a/x=u: there is already a list: t"),
        (["a=t", "a/x=u"], "--train-list a/x=u: there is already a list: t"),
        (["a/x=t", "a=u"], "--train-list a=u: there is already a list: t"),
        (["d=t"], "--train-list names no source: 'd'"),
        (["ab=t"], "--train-list names no source: 'ab'"),
        (["a="], "--train-list names no source: 'a'"),
    ],
)
def test_two_lists_of_one_kind_or_of_nobody(given: list[str], says: str) -> None:
    sources = [Source("a", "a.prototxt"), Source("c", "c.prototxt")]
    with pytest.raises(ComposeError) as caught:
        apply_list_options(sources, argparse.Namespace(train_list=given, val_list=[]))
    assert says in str(caught.value)


def test_the_last_sign_parts_a_net_from_its_cuts() -> None:
    words = ["--source", "a=photos@home/net.prototxt@x, y,", "--source", "b=net.prototxt", "--source", "c=net@"]
    found = _config(parser().parse_args([*words, "--num-output", "3", "--dry-run"])).sources
    assert [(source.prototxt, source.at) for source in found] == [
        ("photos@home/net.prototxt", ("x", "y")), ("net.prototxt", None), ("net", None),
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["third", "=net", "third="])
def test_a_source_has_a_prefix_and_a_net(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--source", text, "--num-output", "3", "--dry-run"]) == 1
    assert f"--source {text}: expected PREFIX=..." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "classes"),
    [("1,3-4", (1, 3, 4)), ("cat, dog", ("cat", "dog")), ("1,cat", ("1", "cat")), ("1-2-3", ("1-2-3",))],
)
def test_classes_by_number_or_name(text: str, classes: tuple[object, ...]) -> None:
    (source,) = _config(
        parser().parse_args([*BASE[:2], "--classes", f"a={text}", "--num-output", "3", "-o", "x"])
    ).sources
    assert source.classes == classes
