"""The job written from nets and data: complete where everything is certain, else with a comment for each decision."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from fusion.composition import read_config
from fusion.job.starter import _beside, prefixes_of, starter_text

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
    assert prefixes_of(nets) == prefixes


def test_the_whole_file(job_folder: JobFile) -> None:
    job_folder()
    text, _ = starter_text([NETS[0], ("high.prototxt", None)], "train.txt", "my fused")
    asked = "; name them in the order of its scores, of: numbers from 0 to 4"
    assert (
        text
        == f"""\
# A job: `fusion run` with this file composes, trains, tests, reports and exports. Every key: docs/run.md
num_output = 5  # the classes of train.txt
output = "my fused"
pct = "auto"  # losses that keep the answers that the nets have right; or [[pct]] with kind = "focal"

[[source]]
prefix = "low"
net = "low.prototxt"
weights = "low.caffemodel"
at = "ip1"  # what its classifier reads
# classes = ...  # source 'low' scores 3 classes in 'low/ip2', the fused net 5{asked}

[[source]]
prefix = "high"
net = "high.prototxt"
at = "ip1"  # what its classifier reads
# classes = ...  # source 'high' scores 2 classes in 'high/ip2', the fused net 5{asked}

[data]
train_list = "train.txt"
val_list = "val.txt"
test_list = "test.txt"

[solver]
max_iter = 1000

# [gate]
# max_nfr = "1%"  # of answers that only the originals have right; exit code 3 if exceeded
"""
    )


@pytest.mark.parametrize(("records", "iterations"), [(2500, 1000), (2502, 1000), (2503, 1001), (10_000, 4000)])
def test_twenty_passes_and_at_least_a_thousand_iterations(job_folder: JobFile, records: int, iterations: int) -> None:
    job_folder()
    for name in ("val.txt", "test.txt"):
        Path(name).unlink()
    Path("all.txt").write_text("".join(f"train/{n % 50:02}_{n % 5}.png {n % 5}\n" for n in range(records)))
    lines = starter_text(NETS, "all.txt", "fused")[0].splitlines()
    assert f"max_iter = {iterations}" in lines
    assert "val_share = 0.1  # of each class of these images is kept back for validation" in lines
    assert "# test_list = ...  # else the validation images" in lines


@pytest.mark.parametrize(
    ("data", "beside", "found"),
    [
        ("train.txt", "val.txt", "val.txt"),
        ("a/train_all.txt", "a/valid_all.txt", "a/valid_all.txt"),
        ("a/training/", "a/validation", "a/validation"),
        ("train/all.txt", "val/all.txt", None),
        ("all.txt", "all.txt", None),
        ("train.txt", "test.txt", None),
    ],
)
def test_the_list_for_validation_lies_beside(
    data: str, beside: str, found: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(beside).parent.mkdir(exist_ok=True)
    Path(beside).touch()
    assert _beside(data, ("val", "valid", "validation")) == found


def test_prefixes_of_odd_names() -> None:
    nets = ["a_deploy.prototxt", "a-model.onnx", "train_val.prototxt", "...prototxt", "x/a.prototxt"]
    assert prefixes_of(nets) == ["a", "a2", "train_val", "net", "a5"]


def test_other_blobs_to_cut_at_are_listed_without_the_scores(job_folder: JobFile) -> None:
    job_folder()
    text = Path("low.prototxt").read_text()
    more = "".join(
        f'layer {{ name: "r{n}" type: "TanH" bottom: "{f"r{n - 1}" if n else "ip1"}" top: "r{n}" }}\n'
        for n in range(10)
    )
    Path("low.prototxt").write_text(text.replace('layer { name: "ip2"', more + 'layer { name: "ip2"')
                                    .replace('bottom: "ip1" top: "ip2"', 'bottom: "r9" top: "ip2"'))  # fmt: skip
    line = next(line for line in starter_text(NETS[:1], "train.txt", "fused")[0].splitlines() if line[:2] == "at")
    assert line == 'at = "r9"  # what its classifier reads; or r8, r7, r6, r5, r4, r3, r2, r1'
