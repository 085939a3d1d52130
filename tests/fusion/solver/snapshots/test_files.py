"""The names of a snapshot's files, which of them belong together, and which are removed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from fusion.errors import TrainingError
from fusion.solver.snapshots import files
from fusion.solver.snapshots.files import check_writable, checksum, names, remove_unfinished, resume_state_path, states


def test_names_of_caffe() -> None:
    assert names("a/net", 5) == ("a/net_iter_5.caffemodel", "a/net_iter_5.solverstate", "a/net_iter_5.fusionstate")
    assert names("net", 5, hdf5=True) == (
        "net_iter_5.caffemodel.h5", "net_iter_5.solverstate.h5", "net_iter_5.fusionstate"
    )  # fmt: skip
    for hdf5 in (False, True):
        _, state, exact = names("net", 5, hdf5=hdf5)
        assert resume_state_path(state) == exact


def test_states_are_those_of_the_prefix_and_the_newest_is_first(tmp_path: Path) -> None:
    expected = [
        "a.b_iter_10.solverstate",
        "a.b_iter_9.solverstate",
        "a.b_iter_9.solverstate.h5",
        "a.b_iter_1.solverstate",
    ]
    others = [
        *("aXb_iter_11.solverstate", "a.b_iter_12.caffemodel", "a.b_iter_x.solverstate"),
        *("a.b_iter_13.solverstate.h5x", "za.b_iter_14.solverstate"),
    ]
    for name in (*sorted(expected), *others):
        (tmp_path / name).touch()
    assert states(str(tmp_path / "a.b")) == [str(tmp_path / name) for name in expected]
    assert states(str(tmp_path / "nowhere" / "a")) == []


def test_states_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net_iter_3.solverstate").touch()
    Path(".snapshot-net-0123456789ab").mkdir()
    assert states("net") == ["net_iter_3.solverstate"]
    remove_unfinished("net")
    assert os.listdir() == ["net_iter_3.solverstate"]
    check_writable("net")


def test_half_written_files_of_this_prefix_alone_are_removed(tmp_path: Path) -> None:
    own, kept = (
        ".snapshot-net-0123456789ab",
        [
            *(".snapshot-net-0123456789abc", ".snapshot-net2-0123456789ab", ".snapshot-net-0123456789ax"),
            "x.snapshot-net-0123456789ab",
        ],
    )
    for name in (own, *kept):
        (tmp_path / name).mkdir()
        (tmp_path / name / "net_iter_5.caffemodel").touch()
    remove_unfinished(str(tmp_path / "net"))
    assert sorted(os.listdir(tmp_path)) == sorted(kept)
    remove_unfinished(str(tmp_path / "nowhere" / "net"))


def test_folders_that_take_no_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_writable(str(tmp_path / "net"))
    with pytest.raises(TrainingError, match="the folder for snapshots does not exist"):
        check_writable(str(tmp_path / "no" / "net"))
    monkeypatch.setattr(files.os, "access", lambda path, mode: mode != os.W_OK)
    with pytest.raises(TrainingError, match="snapshots cannot be written to"):
        check_writable(str(tmp_path / "net"))


def test_all_files_are_written_with_their_companions(tmp_path: Path) -> None:
    first, last = str(tmp_path / "net_iter_5.caffemodel"), str(tmp_path / "net_iter_5.solverstate")

    def write(path: str) -> None:
        Path(path).write_text("new")
        Path(path.removesuffix(".caffemodel") + ".companion").write_text("beside")

    for _ in range(2):
        files.write_all([(first, write), (last, lambda path: Path(path).touch())], last_good=None)
        assert sorted(os.listdir(tmp_path)) == [
            "net_iter_5.caffemodel", "net_iter_5.companion", "net_iter_5.solverstate"
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("last_good", "left"),
    [(None, "there is no earlier snapshot"), ("net_iter_4.solverstate", "the last complete snapshot is net_iter_4")],
)
def test_a_failure_names_what_is_left(tmp_path: Path, last_good: str | None, left: str) -> None:
    def fail(path: str) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(TrainingError, match="cannot write the snapshot: No space left") as caught:
        files.write_all([(str(tmp_path / "net_iter_5.solverstate"), fail)], last_good=last_good)
    assert left in str(caught.value.hint)
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_gone_already_is_no_failure(tmp_path: Path) -> None:
    with files._unfinished(str(tmp_path / "net_iter_5.solverstate")) as folder:
        assert Path(folder).name.startswith(".snapshot-net-")
        os.rmdir(folder)


def test_a_checksum_is_of_all_values_in_order() -> None:
    one, other = torch.tensor([1.0, 2.0]), torch.tensor([[3.0], [4.0]])
    assert checksum([one, other]) == checksum([torch.tensor([1.0, 2.0, 3.0, 4.0])])
    different = ([one], [other, one], [one, torch.tensor([3.0, 5.0])], [torch.tensor([0.0, 2.0]), other], [])
    assert len({checksum(tensors) for tensors in different} | {checksum([one, other])}) == 6
    assert checksum([other.t()]) == checksum([other.reshape(-1)])
