"""Our log beside Caffe's own of the same runs, and what readers of Caffe's logs find in it."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from fusion.solver import Solver
from fusion.solver.logging.caffe_log import Both, CaffeLog, for_training
from fusion.solver.logging.console import Lines

PREFIX = re.compile(r"[IWE](\d{2})(\d{2}) (\d{2}):(\d{2}):(\d{2})\.(\d{6}) +\d+ (\S+\.cpp:\d+|fusion\.py:1)\] ")
CAFFES = re.compile(r"[IE]\d{8} [\d:.]+ +\d+ (\S+)\] (.*)")
SPOKEN = re.compile(r"Solving|Learning Rate|Iteration|    (Test|Train) net|Snapshotting|    \[|Optimization Done")


@pytest.fixture
def logged(golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("h5py")
    shutil.copytree(golden / "misc" / "solverlog" / "run", tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(solver: str, state: str | None = None) -> str:
    stream = io.StringIO()
    weights = [] if state else ["init.caffemodel"]
    work = Solver(solver, weights, device="cpu", display=CaffeLog(stream))
    if state:
        work.restore(state)
    work.train()
    return stream.getvalue()


def spoken(text: str) -> list[tuple[str, str]]:
    """(source, message) of what the solver says, without speed; Caffe's copies of split blobs are left out."""
    found = [match.groups() for line in text.splitlines() if (match := CAFFES.match(line))]
    found = [(place, message) for place, message in found if SPOKEN.match(message) and "_split" not in message]
    return [(place, re.sub(r" \(\S+ iter/s, \S+s/", " (iter/s, s/", message)) for place, message in found]


def with_year(text: str) -> str:
    return re.sub(r"^([IWE])(\d{4}) ", r"\g<1>2026\2 ", text, flags=re.MULTILINE)


@pytest.mark.parametrize(("log", "solver", "state"), [
    ("train", "solver.prototxt", None),
    ("resume", "solver.prototxt", "caffe.solverstate"),
])  # fmt: skip
def test_line_by_line_as_caffes(logged: Path, log: str, solver: str, state: str | None) -> None:
    if state:  # Caffe's own, which our snapshots of the same names would replace
        Path("s_iter_6.solverstate").rename(state)
    ours, caffes = spoken(with_year(run(solver, state))), spoken(Path(f"{log}.log").read_text())
    assert caffes.pop() == ("caffe.cpp:250", "Optimization Done.")
    assert [place for place, _ in ours] == [place for place, _ in caffes]
    for (_, mine), (_, theirs) in zip(ours, caffes, strict=True):
        same(mine, theirs)


def same(mine: str, theirs: str) -> None:
    """Equal words, and numbers as far as float32 arithmetic in another order allows."""
    number = r"(?<![\w.])-?\d+(?:\.\d+)?(?:e[-+]\d+)?"
    assert re.sub(number, "#", mine) == re.sub(number, "#", theirs)
    assert list(map(float, re.findall(number, mine))) == pytest.approx(
        list(map(float, re.findall(number, theirs))), rel=2e-4, abs=1e-6
    )


def test_what_log_parsers_look_for(logged: Path) -> None:
    lines = run("solver.prototxt").splitlines()
    assert all(PREFIX.match(line) for line in lines)
    text = "\n".join(lines)
    assert re.search(r"Iteration 5 \([\d.e+]+ iter/s, [\d.e-]+s/1 iters\), loss = [\d.]+$", text, re.MULTILINE)
    assert len(re.findall(r"Test net output #(\d+): (\S+) = ([.\deE+-]+)", text)) == 6
    assert len(re.findall(r"Train net output #(\d+): (\S+) = ([.\deE+-]+)", text)) == 12
    assert len(re.findall(r"lr = ([-+]?[0-9]*\.?[0-9]+([eE]?[-+]?[0-9]+)?)", text)) == 12
    assert re.search(r"\] Solving small$", text, re.MULTILINE)
    assert "Optimization Done." in lines[-1]
    assert re.search(r"\] Peak memory: \d+ MiB resident$", lines[-2])


def test_times_as_caffes_scripts_take_them_apart() -> None:
    stream = io.StringIO()
    before = datetime.now()
    CaffeLog(stream).say("Solving x\nwarning: y")
    first, second = stream.getvalue().splitlines()
    words = first.split()
    clock, _, micro = words[1].rpartition(".")
    hour, minute, second_ = map(int, clock.split(":"))
    found = datetime(before.year, int(words[0][1:3]), int(words[0][3:]), hour, minute, second_, int(micro))
    assert abs((found - before).total_seconds()) < 5
    assert (first[0], second[0]) == ("I", "W")
    assert second.endswith("fusion.py:1] warning: y")


def test_bar_on_a_terminal_and_log_elsewhere(project: Callable[..., Path]) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert isinstance(for_training(io.StringIO()), CaffeLog)
    screen, log = Terminal(), io.StringIO()
    Solver(project(), device="cpu", display=Both(for_training(screen), Lines(log))).train()
    assert "Iteration 20, loss = " in log.getvalue()
    assert "training" in screen.getvalue()
    assert re.search(r"it/s|ETA|0:00:0", screen.getvalue())


def test_debug_info_as_caffes(logged: Path) -> None:
    ours, caffes = spoken(with_year(run("solver_debug.prototxt"))), spoken(Path("debug.log").read_text())
    assert caffes.pop() == ("caffe.cpp:250", "Optimization Done.")
    assert [place for place, _ in ours] == [place for place, _ in caffes]
    assert sum("[Backward]" in message for _, message in ours) == 16
    for (_, mine), (_, theirs) in zip(ours, caffes, strict=True):
        same(mine, theirs)
