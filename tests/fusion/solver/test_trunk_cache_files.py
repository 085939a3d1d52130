"""The frozen trunk's outputs in a file: the same numbers, used again while nothing has changed, never half a file."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fusion.errors import TrainingError
from fusion.nets.build import params
from fusion.solver import Solver
from fusion.solver.logging.console import Lines, Silent
from fusion.solver.trunk_cache_files import MappedBatches

Make = Callable[..., Path]
SMALL = 300  # bytes: less than the trunk's outputs


def trained(path: Path, **options: object) -> tuple[Solver, str]:
    log = io.StringIO()
    run = Solver(path, device="cpu", display=Lines(log), **options)  # type: ignore[arg-type]
    run.step(7)
    return run, log.getvalue()


def same(one: Solver, other: Solver) -> bool:
    pairs = zip(params(one.net).values(), params(other.net).values(), strict=True)
    return all(torch.equal(a, b) for mine, theirs in pairs for a, b in zip(mine, theirs, strict=True))


@pytest.mark.parametrize("shuffle", [True, False])
def test_mapped_rows_give_the_numbers_of_those_in_memory(project: Make, shuffle: bool) -> None:
    path = project(shuffle=shuffle)
    memory, _ = trained(path)
    mapped, log = trained(path, cache_budget=SMALL)
    assert isinstance(mapped.nets[0].batches, MappedBatches)
    assert same(memory, mapped)
    assert "8 MiB" not in log
    assert "written to ./small.trunk-TRAIN-" in log
    assert memory.test()[0]["loss"] == pytest.approx(mapped.test()[0]["loss"], rel=1e-6)


def test_a_later_run_reads_what_is_there(project: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    path = project()
    first, log = trained(path, cache_dir="kept")
    (written,) = Path("kept").glob("trunk-TRAIN-*.rows")
    assert f"written to kept/{written.name}" in log
    monkeypatch.setattr("fusion.solver.trunk_cache._fill", lambda *arguments, **more: pytest.fail("computed again"))
    second, log = trained(path, cache_dir="kept")
    assert f"TRAIN net: frozen trunk computed once: trunk for 22 records, 0 MiB, read from kept/{written.name}" in log
    assert same(first, second)


def test_other_weights_or_data_are_told_apart(project: Make) -> None:
    path = project(random_seed=3)
    trained(path, cache_dir="kept")
    path.write_text(path.read_text().replace("random_seed: 3", "random_seed: 4"))
    _, log = trained(path, cache_dir="kept")
    assert ".rows is for other weights)" in log
    Path("net.prototxt").write_text(Path("net.prototxt").read_text().replace("scale: 0.01", "scale: 0.02"))
    _, log = trained(path, cache_dir="kept")
    assert ".rows is for other data)" in log
    assert len(list(Path("kept").glob("trunk-TRAIN-*.rows"))) == 3


def test_beside_the_snapshots_an_old_file_goes(project: Make) -> None:
    path = project()
    trained(path, cache_budget=SMALL)
    os.utime("train3.png", ns=(1, 1))
    _, log = trained(path, cache_budget=SMALL)
    assert ".rows is for other data)" in log
    assert len(list(Path.cwd().glob("small.trunk-TRAIN-*.rows"))) == 1


def test_a_damaged_file_is_made_anew(project: Make) -> None:
    path = project()
    first, _ = trained(path, cache_dir="kept")
    names = list(Path("kept").iterdir())
    whole = names[0].read_bytes()
    for damaged in (b"{}\n", b"[]\n", whole[:-1], whole[:4096], whole + b"0"):
        for file in names:
            file.write_bytes(damaged)
        second, log = trained(path, cache_dir="kept")
        assert "written to kept/" in log
        assert same(first, second)


def test_what_was_not_finished_leaves_nothing(project: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    path = project()

    def interrupted(*arguments: object, **more: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("fusion.solver.trunk_cache._fill", interrupted)
        with pytest.raises(KeyboardInterrupt):
            trained(path, cache_dir="kept")
    assert not list(Path("kept").iterdir())
    trained(path, cache_dir="kept")
    (train,) = Path("kept").glob("trunk-TRAIN-*.rows")
    left = Path(f"kept/.{train.name}.0123456789ab.tmp")  # as after kill -9
    train.rename(left)
    trained(path, cache_dir="kept")
    assert not left.exists()
    assert train.exists()


def test_a_full_disk_is_said_before_anything_is_computed(project: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    path = project()

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    monkeypatch.setattr("fusion.solver.trunk_cache._fill", lambda *arguments, **more: pytest.fail("computed"))
    with pytest.raises(TrainingError, match="cannot write 0 MiB of the frozen trunk's outputs: No space left") as error:
        Solver(path, device="cpu", display=Silent(), cache_dir="kept").step()
    assert "--cache-dir" in str(error.value)
    assert not list(Path("kept").iterdir())


def test_no_room_beside_the_snapshots(project: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    path = project()
    monkeypatch.setattr("fusion.solver.trunk_cache.room", lambda files: 0)
    _, log = trained(path, cache_budget=SMALL)
    assert "the frozen trunk runs in each iteration: its outputs take 0 MiB" in log
    assert "there is no room for them in . (--cache-dir)" in log


def test_random_data_is_not_kept(project: Make) -> None:
    path = project()
    Path("net.prototxt").write_text(Path("net.prototxt").read_text().replace("scale: 0.01", "scale: 0.01 mirror: true"))
    _, log = trained(path, cache_dir="kept")
    assert "the frozen trunk runs in each iteration: random crops, mirrors or fillers make other data each time" in log
    assert not list(Path("kept").iterdir())
