"""One list given for all sources: right where it holds what each was trained on, refused or said where it does not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import prototxt
from fusion import ComposeError
from fusion.composition import Source, compose
from fusion.composition.compose import Composition
from fusion.composition.list_checks import image_list_labels


@pytest.fixture(autouse=True)
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two nets, of the lists a.txt and b.txt."""
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        data = "".join(
            f'layer {{ name: "data" type: "ImageData" top: "data" top: "label" include {{ phase: {phase} }}\n'
            f'  image_data_param {{ source: "{source}" batch_size: 2 new_height: 6 new_width: 6 }} }}\n'
            for phase, source in (("TRAIN", f"{name}.txt"), ("TEST", "val.txt"))
        )
        rest = (
            'layer { name: "f" type: "InnerProduct" bottom: "data" top: "f" inner_product_param { num_output: 4 } }\n'
            'layer { name: "ip" type: "InnerProduct" bottom: "f" top: "ip" inner_product_param { num_output: 2 } }\n'
            'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }\n'
        )
        Path(f"{name}.prototxt").write_text(data + rest)


def write(**lists: str) -> None:
    for name, pictures in lists.items():
        Path(f"{name}.txt").write_text("".join(f"{p}.png {n % 2}\n" for n, p in enumerate(pictures.split())))


def fused(a: str | None = None, b: str | None = None, **options: str) -> Composition:
    nets = [Source(name, f"{name}.prototxt", at="f", train_list=own) for name, own in (("a", a), ("b", b))]
    return compose(nets, num_output=2, **options)


def train_lists(net: prototxt.Document) -> list[str]:
    return [source for source in re.findall('source: "([^"]*)"', str(net)) if source != "val.txt"]


def doubts(composition: Composition) -> list[str]:
    return [note for note in composition.notes if "instead of " in note]


def test_a_list_with_records_of_all_is_taken_without_a_word() -> None:
    write(a="x0 x1", b="y0 y1", all="x0 y1 x1 y0")
    done = fused(train_list="all.txt")
    assert train_lists(done.train_val) == ["all.txt"]
    assert doubts(done) == []


@pytest.mark.parametrize("given", ["a.txt", "more.txt"])
def test_a_list_with_records_of_one_source_alone_is_refused(given: str) -> None:
    write(a="x0 x1", b="y0 y1", more="x0 x1 x2 x3")
    with pytest.raises(ComposeError, match=r"in phase TRAIN all .*'a' was .* none of b\.txt, which 'b'") as caught:
        fused(train_list=given)
    assert f"--train-list a={given} --train-list b=b.txt (or b={given}" in str(caught.value)


def test_the_remedies_work() -> None:
    write(a="x0 x1", b="y0 y1")
    assert set(train_lists(fused("a.txt", "b.txt").train_val)) == {"a.txt", "b.txt"}
    assert set(train_lists(fused("a.txt", "a.txt").train_val)) == {"a.txt"}


@pytest.mark.parametrize("own", [{}, {"a": "x0 x1", "b": "y0 y1"}])
def test_it_is_said_where_nothing_shows_that_the_list_is_right(own: dict[str, str]) -> None:
    write(new="z0 z1", **own)
    (note,) = doubts(fused(train_list="new.txt"))
    assert note.startswith("data: in phase TRAIN 'a' (a.txt) and 'b' (b.txt) read new.txt instead")


def test_the_list_of_one_source_for_all_is_said() -> None:
    write(a="x0 x1", b="y0 y1")
    (note,) = doubts(fused(data_from="a"))
    assert note.startswith("data: in phase TRAIN 'b' (b.txt) reads a.txt instead")


def test_sources_of_one_list_may_get_any_other() -> None:
    Path("b.prototxt").write_text(Path("a.prototxt").read_text())
    write(a="x0 x1", new="z0 z1")
    assert doubts(fused(train_list="new.txt")) == []


def test_the_list_of_the_main_source_named_for_another_needs_no_word() -> None:
    write(a="x0 x1", b="y0 y1", val="v0 v1")
    layers = Path("b.prototxt").read_text().splitlines(keepends=True)[4:-1]
    shape = "input_param { shape { dim: 1 dim: 3 dim: 6 dim: 6 } }"
    Path("c.prototxt").write_text(f'layer {{ name: "in" type: "Input" top: "data" {shape} }}\n' + "".join(layers))
    for train, said in (
        ("a.txt", []),
        ("b.txt", ["data: in phase TRAIN 'c' b.txt is read in step with 'a' a.txt; their labels are the same"]),
    ):
        named = Source("c", "c.prototxt", at="f", train_list=train, val_list="val.txt")
        composed = compose([Source("a", "a.prototxt", at="f"), named], num_output=2)
        assert [note for note in composed.notes if "in step" in note] == said


@pytest.mark.parametrize("label", ["+-1", "9" * 5000, "--", "\u0663"])
def test_a_label_that_is_none_is_left_to_the_training(label: str, tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text(f"a.jpg +01\nb.jpg {label}\n", "utf-8")
    found = image_list_labels(str(path))
    assert found is not None
    assert found.values == ("1", label)
