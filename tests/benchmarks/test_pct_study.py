"""The study's machinery at a size that says nothing: every method, every update, tables and picture."""

from __future__ import annotations

import sys
from collections.abc import Iterator
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
    found = import_module("pct")
    yield found
    for name in set(sys.modules) - before:
        if name == "pct" or name.partition(".")[0] in ("study", "timing"):
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


def test_no_image_is_trained_on_and_judged_on(bench: ModuleType) -> None:
    digits = import_module("study.digits")
    trained = {key for subset in range(6) for key in digits.training(subset, digits.SUBSET).keys}
    assert len(trained) == 6 * digits.SUBSET
    assert not trained & set(digits.evaluation("selection").keys)
    assert not trained & set(digits.evaluation("report").keys)
