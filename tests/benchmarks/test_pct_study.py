"""The studies' machinery at a size that says nothing: every method, every update, tables and picture."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = set(sys.modules)
    yield import_module("pct")
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("pct", "pct_digits", "study", "timing"):
            del sys.modules[name]


@pytest.mark.slow  # trains every net of the study
def test_the_study_in_small(bench: ModuleType, tmp_path: Path) -> None:
    page = tmp_path / "study.md"
    page.write_text("before\n<!-- tables -->\nold\n<!-- end of tables -->\nafter\n")
    size = bench.Size(rows=100, iterations=1, members=2, seeds=2, fewer=1, candidates=1, limit=40)
    tables = bench.study(size, tmp_path / "nets", 1, page)
    for word in (
        "| naive ",
        "| ELODI ",
        "| CNA ",
        "| BCT ",
        "| ensemble ",
        "odd and even",
        "n/a: the bodies are frozen",
    ):
        assert word in tables
    assert page.read_text() == f"before\n<!-- tables -->\n{tables}<!-- end of tables -->\nafter\n"
    with Image.open(page.with_suffix(".png")) as picture:
        assert picture.size == (760, 520)


@pytest.mark.slow  # trains every net of the study
def test_the_study_of_the_small_digits_in_small(bench: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    size = bench.Size(rows=100, iterations=2, members=2, seeds=2, fewer=1, candidates=1, limit=100)
    tables = import_module("pct_digits").study(size, tmp_path, 1)
    for method in ("none", "none, twice as long", "naive", "KD", "FD-KL", "FD-LM", "LDI", "ensemble"):
        assert f"\n| {method} " in tables


def test_a_net_that_is_trained_twice_as_long_differs_in_nothing_else(bench: ModuleType) -> None:
    plan, digits = import_module("study.plan"), import_module("pct_digits")
    (plain,), (longer,) = (digits.pairs(bench.Size(), method, 0.0, [3]) for method in (plan.NONE, digits.LONGER))
    assert longer.old == plain.old
    assert replace(longer.new[0], name=plain.new[0].name, iterations=400) == plain.new[0]
    assert longer.new[0].iterations == 800
    assert longer.new[0].name != plain.new[0].name


def test_no_image_is_trained_on_and_judged_on(bench: ModuleType) -> None:
    digits = import_module("study.digits")
    trained = {key for subset in range(6) for key in digits.training("mnist", subset, digits.SUBSET).keys}
    assert len(trained) == 6 * digits.SUBSET
    assert not trained & set(digits.evaluation("mnist", "selection").keys)
    assert not trained & set(digits.evaluation("mnist", "report").keys)


def test_each_small_digit_has_one_purpose(bench: ModuleType) -> None:
    pytest.importorskip("sklearn")
    digits = import_module("study.digits")
    parts = [digits.training("digits", 0, 10**6), *(digits.evaluation("digits", s) for s in ("selection", "report"))]
    assert [len(part.labels) for part in parts] == [500, 300, 997]
    assert len({key for part in parts for key in part.keys}) == 1797
    assert all((part.images.min(), part.images.max()) == (-0.5, 0.5) for part in parts)
