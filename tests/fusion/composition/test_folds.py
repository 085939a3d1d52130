from __future__ import annotations

from pathlib import Path

import pytest

from fusion import ComposeError
from fusion.composition.folds import Fold, folds


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def touch(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def test_one_net_is_itself(here: Path) -> None:
    assert folds("odd", "odd.prototxt", None) == [Fold("odd", "odd.prototxt", None)]
    touch("a[1].prototxt")
    assert folds("odd", "a[1].prototxt", "w") == [Fold("odd", "a[1].prototxt", "w")]


def test_one_description_for_many_weights_in_the_order_of_their_numbers(here: Path) -> None:
    touch("net.prototxt", *(f"folds/w{number}.caffemodel" for number in (10, 2, 1)))
    expected = [Fold(f"f{n}", "net.prototxt", f"folds/w{w}.caffemodel") for n, w in ((1, 1), (2, 2), (3, 10))]
    assert folds("f", "net.prototxt", "folds/*.caffemodel") == expected
    assert folds("f", "net.prototxt", "folds") == expected


def test_a_description_and_weights_each(here: Path) -> None:
    for number in (1, 2):
        touch(f"k/{number}/train_val.prototxt", f"k/{number}/solver.prototxt", f"k/{number}/deploy.prototxt")
        touch(f"k/{number}/last.caffemodel")
    expected = [Fold(f"f{n}", f"k/{n}/train_val.prototxt", f"k/{n}/last.caffemodel") for n in (1, 2)]
    assert folds("f", "k", None) == expected
    assert folds("f", None, "k") == expected
    assert folds("f", "k/*/train_val.prototxt", "k/*/*.caffemodel") == expected
    assert [one.weights for one in folds("f", "k/*/deploy.prototxt", None)] == [None, None]


def test_a_folder_of_weights_beside_their_net(here: Path) -> None:
    touch("k/net.prototxt", "k/1.caffemodel", "k/2.caffemodel")
    assert folds("f", "k", None) == [Fold(f"f{n}", "k/net.prototxt", f"k/{n}.caffemodel") for n in (1, 2)]


def test_onnx_files_are_nets_with_weights(here: Path) -> None:
    touch(*(f"k/{number}.onnx" for number in (10, 9)), "n/1/net.onnx", "n/2/net.onnx")
    expected = [Fold("f1", "k/9.onnx", None), Fold("f2", "k/10.onnx", None)]
    assert folds("f", "k", None) == folds("f", "k/*.onnx", None) == folds("f", None, "k") == expected
    assert [one.net for one in folds("f", "n", None)] == ["n/1/net.onnx", "n/2/net.onnx"]
    touch("k/merged.caffemodel")
    assert folds("f", "k", None) == expected


@pytest.mark.parametrize(
    ("net", "weights", "says"),
    [
        ("none/*.prototxt", None, "no file matches none"),
        ("net.prototxt", "none/*.caffemodel", "no file matches none"),
        ("empty", None, "there is no net in the folder empty"),
        ("net.prototxt", "empty", "there are no weights in empty"),
        ("many", None, "many has several nets: a.prototxt, b.prototxt"),
        ("many/*.prototxt", "net.prototxt", "2 nets and 1 files of weights do not pair"),
    ],
)
def test_what_stands_for_nothing(here: Path, net: str, weights: str | None, says: str) -> None:
    touch("net.prototxt", "many/a.prototxt", "many/b.prototxt", "many/solver.prototxt")
    Path("empty").mkdir()
    if net == "many/*.prototxt":
        Path("many/solver.prototxt").unlink()
    with pytest.raises(ComposeError, match=says):
        folds("f", net, weights)
