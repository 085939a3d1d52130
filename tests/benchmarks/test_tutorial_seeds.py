"""The tables of the tutorial over seeds, and the whole of it in small."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def seeds(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = set(sys.modules)
    yield import_module("tutorial_seeds")
    for name in {"tutorial_seeds", "timing"} - before:
        del sys.modules[name]


def test_pct_is_compared_with_the_plain_net_of_the_same_seed(seeds: ModuleType) -> None:
    right = np.zeros(100)
    plain = seeds.Figures([99.0, 99.2, 99.1], [50, 40, 45], right)
    treated = seeds.Figures([99.1, 99.3, 99.3], [48, 39, 40], right + (np.arange(100) < 2))
    figures = {variant: treated if variant.pct else plain for variant in seeds.VARIANTS}
    rows = [re.split(r" *\| *", line)[1:-1] for line in seeds.means(figures).splitlines()[2:]]
    assert [row[1] for row in rows] == ["without", "with"] * 2
    assert rows[0] == ["the new layer", "without", "99.10 (98.85 to 99.35)", "45.0 (32.6 to 57.4)"]
    first = re.split(r" *\| *", seeds.differences(figures).splitlines()[2])[1:-1]
    # +0.1, +0.1 and +0.2 points: t = 4 with 2 degrees of freedom; -2, -1 and -5 flips: t = -2.22
    assert first[1:3] == ["+0.133 (\u22120.010 to +0.277)", "0.06"]
    assert first[3] == "0.16"  # over images: two of 100
    assert first[4:] == ["\u22122.7 (\u22127.8 to +2.5)", "0.16"]


@pytest.mark.slow  # twelve trainings, each a process
def test_the_seeds_in_small(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", str(BENCHMARKS / "tutorial_seeds.py"), "--work", str(tmp_path)]
    options = ["--limit", "300", "--iterations", "20", "--seeds", "2", "--retrain"]
    result = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert len(re.findall(r"^\| the new layer", result.stdout, re.MULTILINE)) == 6
