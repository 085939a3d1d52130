"""The job written from nets and data: complete where everything is certain, else with a comment for each decision."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from fusion.composition import read_config
from fusion.job.starter import starter_text

JobFile = Callable[..., Path]
NETS = [("low.prototxt", "low.caffemodel"), ("high.prototxt", "high.caffemodel")]


def test_classes_that_are_not_certain_are_left_to_the_user(job_folder: JobFile) -> None:
    job_folder()
    text, questions = starter_text(NETS, "train.txt", "fused")
    assert questions == ("low: classes", "high: classes")
    assert "# classes = ...  # source 'low' scores 3 classes in 'low/ip2', the fused net 5; name them" in text
    Path("new.toml").write_text(text)
    config = read_config("new.toml")
    assert (config.output, config.options.num_output, config.job) == (
        "fused",
        5,
        {"pct": "auto", "test_list": "test.txt"},
    )
    assert [(one.prefix, one.prototxt, one.weights, one.at) for one in config.sources] == [
        ("low", "low.prototxt", "low.caffemodel", "ip1"),
        ("high", "high.prototxt", "high.caffemodel", "ip1"),
    ]
    assert (config.options.train_list, config.options.val_list) == ("train.txt", "val.txt")
    assert config.options.schedule is not None
    assert config.options.schedule.max_iter == 1000


def test_names_of_classes_and_equal_numbers_leave_no_question(job_folder: JobFile) -> None:
    job_folder()
    for number, name in enumerate("abcde"):  # class folders, named in the order of the labels
        for path in sorted(Path("train").glob(f"*_{number}.png")):
            folder = Path("photos", "train", name)
            folder.mkdir(parents=True, exist_ok=True)
            path.rename(folder / path.name)
    high = Path("high.prototxt")
    high.write_text('# class-names: ["e", "d"]\n' + high.read_text())
    low = Path("low.prototxt")
    low.write_text(low.read_text().replace("num_output: 3", "num_output: 5"))
    text, questions = starter_text([("low.prototxt", None), NETS[1]], "photos/train", "fused")
    assert questions == ()
    Path("new.toml").write_text(text)
    config = read_config("new.toml")
    assert [one.classes for one in config.sources] == [("a", "b", "c", "d", "e"), ("e", "d")]
    assert config.options.num_output == 5
    assert "the classes of photos/train: a, b, c, d, e" in text


def test_a_net_without_a_classifier_gets_the_choices(job_folder: JobFile) -> None:
    job_folder()
    text = Path("low.prototxt").read_text()
    Path("low.prototxt").write_text(text[: text.index('layer { name: "ip2"')])
    text, questions = starter_text(NETS[:1], "train.txt", "fused")
    assert questions == ("low: at",)
    assert re.search(r"# at = \.\.\.  # .*classifier", text)


@pytest.mark.parametrize(
    ("nets", "prefixes"),
    [
        (["a/lenet_train_val.prototxt", "b/lenet.prototxt"], ["lenet", "lenet2"]),
        (["cats/train_val.prototxt", "dogs/deploy.prototxt", "x.onnx"], ["cats", "dogs", "x"]),
        (["my net-1.prototxt"], ["my_net_1"]),
    ],
)
def test_prefixes_come_from_the_names_of_the_files(nets: list[str], prefixes: list[str]) -> None:
    from fusion.job.starter import prefixes_of

    assert prefixes_of(nets) == prefixes
