"""Small decisions of composing: names, numbers of outputs, metrics, and how long a test is."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fusion import ComposeError
from fusion.composition.classifiers import _metrics, _width, label_blobs
from fusion.composition.compose import _names, _own_hint, _test_iter, _with_paths_in
from fusion.composition.losses import parse_loss
from prototxt.text.parser import parse


def source(prefix: str, plain: str, reader: str | None) -> Any:
    return SimpleNamespace(prefix=prefix, plain=tuple(plain.split()), reader=reader)


def fed(labels: str = "label", **blobs: str) -> Any:
    return SimpleNamespace(blobs=lambda prefix: blobs[prefix].split(), labels=labels.split())


@pytest.mark.parametrize(
    ("sources", "names"),
    [
        ([source("a", "fc", "ip"), source("b", "fc", "ip")], ("fc_fused", "ip")),
        ([source("a", "fc", "ip"), source("b", "fc7", "ip")], ("features", "ip")),
        ([source("a", "fc low", "ip"), source("b", "fc low", "ip")], ("features", "ip")),
        ([source("a", "fc", "ip"), source("b", "fc", "ip2")], ("fc_fused", "scores")),
        ([source("a", "fc", None), source("b", "fc", None)], ("fc_fused", "scores")),
        ([source("a", "fc", "label"), source("b", "fc", "label")], ("fc_fused", "scores")),
        ([source("a", "fc", "data"), source("b", "fc", "data")], ("fc_fused", "scores")),
        ([source("a", "fc", "fc_fused"), source("b", "fc", "fc_fused")], ("fc_fused", "scores")),
        ([source("a", "fc", "hidden"), source("b", "fc", "hidden")], ("fc_fused", "scores")),
        ([source("a", "fc", "loss"), source("b", "fc", "loss")], ("fc_fused", "scores")),
    ],
)
def test_names_are_those_of_the_sources_where_they_agree(sources: list[Any], names: tuple[str, str]) -> None:
    assert _names(sources, fed(a="data", b="data more")) == names


@pytest.mark.parametrize(
    ("hint", "found"),
    [
        (None, None),
        ("rename one", "rename one"),
        ("give --thaw REGEX, or the net's weights with --weights", "the source's weights (--weights P=FILE)"),
    ],
)
def test_hints_without_the_options_of_renaming(hint: str | None, found: str | None) -> None:
    assert _own_hint(hint) == found


DATA = (
    'layer { name: "d" type: "ImageData" top: "data" top: "label" '
    "include { phase: PHASE } image_data_param { BODY } }\n"
)


@pytest.mark.parametrize(
    ("batch", "count"),
    [("batch_size: 4", 3), ("batch_size: 9", 1), ("batch_size: 10", 1), ("batch_size: 1", 9), ("", 9)],
)
def test_a_test_is_one_pass_over_the_list(
    batch: str, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("val.txt").write_text("a.png 0\n" * 9)
    Path("train.txt").write_text("a.png 0\n" * 99)
    both = [DATA.replace("PHASE", phase).replace("BODY", f'source: "{name}.txt" {batch}')
            for phase, name in (("TRAIN", "train"), ("TEST", "val"))]  # fmt: skip
    known, unknown = (
        SimpleNamespace(records=lambda name: None),
        SimpleNamespace(records=lambda name: {"val.txt": 90}[name]),
    )
    notes: list[str] = []
    size = int(batch.partition(" ")[2] or 1)
    assert _test_iter(parse("".join(both)), known, notes) == count  # type: ignore[arg-type]
    assert _test_iter(parse(both[1]), unknown, notes) == -(-90 // size)  # type: ignore[arg-type]
    assert notes == []
    Path("val.txt").unlink()
    assert _test_iter(parse("".join(both)), known, notes) == 500  # type: ignore[arg-type]
    assert notes == ["solver: test_iter is 500; make it the number of validation samples divided by their batch size"]


def test_paths_of_a_solver_in_a_folder() -> None:
    text = 'net: "train_val.prototxt"\nsnapshot_prefix: "fused"\nbase_lr: 1\n'
    assert str(_with_paths_in(parse(text), Path("out"))) == text.replace('"train', '"out/train').replace(
        '"fused', '"out/fused'
    )
    assert str(_with_paths_in(parse("base_lr: 1\n"), Path("out"))) == "base_lr: 1\n"


def goal(loss: str, num_output: int | None = None, name: str = "", **widths: int | None) -> Any:
    objectives = {prefix: SimpleNamespace(width=width, label="y", labels="target", source=None, scores=None)
                  for prefix, width in widths.items()}  # fmt: skip
    return SimpleNamespace(name=name, loss=parse_loss(loss), num_output=num_output, objectives=objectives)


@pytest.mark.parametrize(
    ("one", "shape", "positions", "found"),
    [
        (goal("SoftmaxWithLoss", 2), (None,), False, 2),
        (goal("SoftmaxWithLoss"), (None,), False, "the number of classes is not given"),
        (goal("SoftmaxWithLoss", 1, "age"), (None,), False, "task 'age': SoftmaxWithLoss over 1 class learns nothing"),
        (goal("EuclideanLoss", 3), (None, 3), False, 3),
        (goal("EuclideanLoss"), (None, 3), False, 3),
        (goal("EuclideanLoss"), (None, 3, 2), False, 6),
        (goal("EuclideanLoss"), (None,), False, 1),
        (goal("EuclideanLoss", 2), (None, 3), False, "one output per value of its label, 3, not 2"),
        (goal("EuclideanLoss", a=4, b=4), None, False, 4),
        (goal("EuclideanLoss", a=4, b=5), None, False, "not known"),
        (goal("EuclideanLoss", a=None, b=None), None, False, "not known"),
        (goal("EuclideanLoss", 5, a=4, b=4), None, False, "4, not 5: the sources score as many"),
        (goal("EuclideanLoss", a=4), (None, 2, 8, 8), True, 2),
        (goal("EuclideanLoss", a=4), (None, 8, 8), True, 4),
    ],
)
def test_the_number_of_scores(one: Any, shape: Any, positions: bool, found: int | str) -> None:
    notes: list[str] = []
    shapes = {} if shape is None else {"y": shape}
    if isinstance(found, str) and found != "not known":
        with pytest.raises(ComposeError, match=found):
            _width(one, "y", shapes, positions, notes)
        return
    assert _width(one, "y", shapes, positions, notes) == (1 if found == "not known" else found)
    assert bool(notes) is (found == "not known")


def test_the_metric_of_a_loss_leaves_out_what_it_ignores() -> None:
    for text, ignored in (("SoftmaxWithLoss", None), ("SoftmaxWithLoss,ignore_label=0xff", 255)):
        (metric,) = _metrics(goal(text), 5)
        assert (metric.top_k, metric.axis, metric.ignore_label) == (1, 1, ignored)
    assert _metrics(goal("SoftmaxWithLoss,axis=2"), 5)[0].axis == 2


def test_the_labels_that_losses_read() -> None:
    main: Any = SimpleNamespace(
        prefix="a", raw=SimpleNamespace(input_blobs=("data", "y", "w")), data_blobs=("data", "y")
    )
    assert label_blobs(main, [goal("EuclideanLoss,label=y"), goal("HingeLoss,label=y")]) == ["y"]
    assert label_blobs(main, [goal("EuclideanLoss", a=1)]) == ["y"]
    assert label_blobs(main, [goal("EuclideanLoss", b=1)]) == []
