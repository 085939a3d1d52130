"""Predictions as written on a command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fusion import pct
from fusion.errors import ReportError
from fusion.report.load_predictions import load_predictions, split_file_text


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, score in (("a", 1.0), ("b", 3.0)):
        pct.Predictions(["k"], [0], [[score, 0.0]], meta={"name": f"net {name}"}).save(f"{name}.npz")


def test_a_file_has_a_name_and_classes() -> None:
    plain = load_predictions("a.npz")
    assert (plain.name, plain.classes.tolist(), plain.meta["file"]) == ("net a", [0, 1], "a.npz")
    assert plain.meta["file_sha256"] == pct.file_hash("a.npz")
    named = load_predictions("odd=a.npz@5,3")
    assert (named.name, named.classes.tolist(), named.labels.tolist()) == ("odd", [5, 3], [5])
    assert load_predictions("a.npz@4,7").name == "net a"
    for wrong in ("1,x", "", "1,,2"):
        with pytest.raises(ReportError, match=f"'{wrong}' is not a list of classes") as caught:
            load_predictions(f"a.npz@{wrong}")
        assert caught.value.place == "a.npz"


def test_an_ensemble_is_the_weighted_mean_of_its_files() -> None:
    both = load_predictions("both=a.npz+0.5*b.npz")
    assert both.name == "both"
    np.testing.assert_allclose(np.diff(both.logits), [[-(1.0 + 0.5 * 3.0) / 1.5]], rtol=1e-6)
    assert both.meta["file"] == ["a.npz", "b.npz"]
    assert both.meta["file_sha256"] == [pct.file_hash(name) for name in ("a.npz", "b.npz")]
    assert load_predictions("a.npz+b.npz").name == "net a + net b"
    with pytest.raises(ReportError, match="'half' is not an ensemble weight"):
        load_predictions("a.npz+half*b.npz")


@pytest.mark.parametrize("name", ["a+b.npz", "a=b.npz", "a@1,2.npz", "0.5*a.npz", "x=a+b.npz"])
def test_a_file_of_the_whole_name_is_that_file(name: str) -> None:
    Path("b.npz").rename(name)
    assert load_predictions(name).name == "net b"
    assert load_predictions(name).meta["file"] == name


def test_signs_in_the_name_of_a_file_are_no_ensemble() -> None:
    Path("b.npz").rename("a+b.npz")
    assert load_predictions("sum=a+b.npz").name == "sum"
    assert load_predictions("sum=a+b.npz@3,4").classes.tolist() == [3, 4]
    Path("a+b.npz").rename("0.5*b.npz")
    assert load_predictions("a.npz+0.5*b.npz").logits.tolist() == [[2.0, 0.0]]


def test_parts_of_a_name() -> None:
    assert split_file_text("a.npz") == (None, "a.npz", None)
    assert split_file_text("x=a.npz") == ("x", "a.npz", None)
    assert split_file_text("x=a.npz@1,2") == ("x", "a.npz", "1,2")
    assert split_file_text("x=none.npz") == ("x", "none.npz", None)
    assert split_file_text("none.npz") == (None, "none.npz", None)
    assert split_file_text("none.npz@1") == (None, "none.npz", "1")
    with pytest.raises(FileNotFoundError, match=r"none\.npz"):
        load_predictions("x=none.npz")
