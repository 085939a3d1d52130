"""Two trainings never write the same snapshots, and going on says where the data or a file is not what it was."""

from __future__ import annotations

import fcntl
import io
import os
import re
import shutil
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fusion.errors import TrainingError
from fusion.file_lock import locked
from fusion.solver import Solver
from fusion.solver.logging.console import Lines
from fusion.solver.snapshots.find import MissingWeights
from fusion.solver.snapshots.resume_state import read_resume_state

Make = Callable[..., Path]


def test_a_second_training_is_told_who_holds_the_prefix(tmp_path: Path) -> None:
    prefix = str(tmp_path / "net")
    with locked(prefix, print):
        holder = f"{socket.gethostname()}, pid {os.getpid()}, since "
        assert (tmp_path / "net.lock").read_text().startswith(holder)
        told = rf"net\.lock: another training writes snapshots of this prefix: {re.escape(holder)}20"
        mask = os.umask(0o22)
        os.umask(mask)
        assert stat.S_IMODE((tmp_path / "net.lock").stat().st_mode) == 0o644 & ~mask
        with pytest.raises(TrainingError, match=told), locked(prefix, print):
            pytest.fail("locked twice")
        with locked(f"{prefix}2", print):
            pass
    assert list(tmp_path.iterdir()) == []
    with locked(prefix, print):
        pass


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / "net.lock").write_text("elsewhere, pid 1, since 2001-01-01 00:00:00 and a good deal longer\n")
    with locked(str(tmp_path / "net"), print):
        assert f"pid {os.getpid()}," in (tmp_path / "net.lock").read_text()
        assert "longer" not in (tmp_path / "net.lock").read_text()


@pytest.mark.parametrize("replaced", [False, True])
def test_a_lock_file_that_is_removed_meanwhile_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replaced: bool
) -> None:
    """A process that ends may remove the file after this one has opened it, and a third one may make another."""
    path, plain, calls = tmp_path / "net.lock", fcntl.flock, list[int]()

    def late(handle: int, kind: int) -> None:
        plain(handle, kind)
        calls.append(handle)
        if len(calls) == 1:
            path.unlink()
            if replaced:
                path.touch()

    monkeypatch.setattr(fcntl, "flock", late)
    with locked(str(tmp_path / "net"), print):
        assert path.read_text().startswith(f"{socket.gethostname()}, pid {os.getpid()}")
    assert len(calls) == 2
    assert not path.exists()


def test_a_file_system_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unable(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    said: list[str] = []
    monkeypatch.setattr(fcntl, "flock", unable)
    with locked(str(tmp_path / "net"), said.append):
        pass
    assert len(said) == 1
    assert "cannot be locked" in said[0]


def test_training_holds_the_lock_before_it_changes_anything(project: Make) -> None:
    run = Solver(project(), device="cpu")
    left = Path(".snapshot-small-0123456789ab")
    left.mkdir()
    with locked("small", print), pytest.raises(TrainingError, match="another training writes snapshots"):
        run.train()
    assert left.exists()
    run.train()
    assert not left.exists()
    assert not Path("small.lock").exists()


@pytest.fixture
def trained(project: Make) -> Path:
    path = project(snapshot=5, max_iter=15)
    Solver(path, device="cpu").train()
    return path


def resumed(path: Path) -> tuple[Solver, str]:
    log = io.StringIO()
    run = Solver(path, device="cpu", display=Lines(log))
    assert run.resume()
    return run, log.getvalue()


def test_data_that_shrank_is_told(trained: Path) -> None:
    assert "Restored iteration 15 from small_iter_15.solverstate, exactly" in resumed(trained)[1]
    lines = Path("train.txt").read_text().splitlines(keepends=True)
    Path("train.txt").write_text("".join(lines[:-2]))
    assert "but on other data: there were 22 and " in resumed(trained)[1]
    Path("train.txt").write_text("".join([*lines[1:], lines[0]]))
    assert "but perhaps not on the same data" in resumed(trained)[1]
    Path("train.txt").write_text("".join(lines))
    assert ", exactly" in resumed(trained)[1]


@pytest.mark.parametrize("missing", ["small_iter_15.caffemodel", "small_iter_15.fusionstate"])
def test_the_snapshot_before_is_taken_where_a_file_is_missing(trained: Path, missing: str) -> None:
    Path(missing).unlink()
    run, said = resumed(trained)
    assert run.iter == 10
    assert "skipping small_iter_15.solverstate" in said
    assert "Restored iteration 10 from small_iter_10.solverstate, exactly" in said


def test_caffes_own_snapshots_have_no_state_of_ours(trained: Path) -> None:
    for path in Path().glob("*.fusionstate"):
        path.unlink()
    run, said = resumed(trained)
    assert run.iter == 15
    assert "as Caffe does" in said


def test_one_whole_snapshot_among_older_ones_is_enough(trained: Path) -> None:
    for iteration in (5, 15):
        Path(f"small_iter_{iteration}.fusionstate").unlink()
    run, said = resumed(trained)
    assert run.iter == 10
    assert "small_iter_15.fusionstate is missing or damaged, and an older snapshot is whole" in said


def test_weights_are_those_beside_the_state(trained: Path) -> None:
    """A snapshot may be moved as a whole; a state without its weights names them."""
    Path("moved").mkdir()
    for path in Path().glob("small_iter_15.*"):
        shutil.move(path, "moved")
    run = Solver(trained, device="cpu", display=Lines(io.StringIO()))
    run.restore("moved/small_iter_15.solverstate")
    assert run.iter == 15
    Path("moved/small_iter_15.caffemodel").unlink()
    with pytest.raises(MissingWeights, match=r"the weights of this state are missing: small_iter_15\.caffemodel"):
        run.restore("moved/small_iter_15.solverstate")


def test_a_state_with_pickled_objects_is_not_opened(trained: Path) -> None:
    with np.load("small_iter_15.fusionstate") as archive:
        arrays = dict(archive)
    assert read_resume_state("small_iter_15.fusionstate") is not None
    with open("small_iter_15.fusionstate", "wb") as file:
        np.savez(file, **arrays, **{"arrays/callbacks/x": np.array([{"any": "object"}], object)})
    assert read_resume_state("small_iter_15.fusionstate") is None
