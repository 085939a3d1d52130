"""Weights written as HDF5: large blobs are copied in pieces, and h5py's file object is a file."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from prototxt.errors import WeightsError
from prototxt.formats.hdf5_writer import SeekableFile, open_hdf5
from prototxt.formats.weights import layers_of, read_weights, save_layers, write_weights

h5py = pytest.importorskip("h5py")


def test_a_blob_larger_than_a_piece_is_copied_whole(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((3, 200_000)).astype(np.float32)  # 2.4 MB, in pieces of 1 MiB
    write_weights(tmp_path / "a.caffemodel", {"fc": [values, values[0, :5]], "empty": [np.zeros((0, 3), np.float32)]})
    write_weights(tmp_path / "b.h5", read_weights(tmp_path / "a.caffemodel"))
    found = read_weights(tmp_path / "b.h5")
    np.testing.assert_array_equal(found["fc"][0], values)
    np.testing.assert_array_equal(found["fc"][1], values[0, :5])
    assert found["empty"][0].shape == (0, 3)


def test_a_source_that_becomes_shorter_while_it_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_weights(tmp_path / "a.caffemodel", {"fc": [np.ones(10)]})
    weights = read_weights(tmp_path / "a.caffemodel")
    whole = os.pread
    short = monkeypatch.context()
    with short as patch:
        patch.setattr(
            os, "pread", lambda fd, count, at: b"" if count == 40 and at < 60 else whole(fd, count, at)
        )  # fmt: skip
        with pytest.raises(WeightsError, match=r"a\.caffemodel: byte \d+: the file became shorter while it was copied"):
            write_weights(tmp_path / "b.h5", weights)
    assert not (tmp_path / "b.h5").exists()


@pytest.mark.parametrize("ending", ["caffemodel", "h5", "safetensors"])
def test_progress_and_the_check_of_every_format(tmp_path: Path, ending: str) -> None:
    blobs = {"a": [np.arange(4, dtype=np.float32), np.ones(2)], "b": [np.full(3, 7.0)]}
    seen: list[int] = []
    found: list[bytes] = []

    def check(scan: object, read: object) -> None:
        for entry in scan.entries:  # type: ignore[attr-defined]
            found.extend(read(blob.offset, blob.nbytes) for blob in entry.blobs)  # type: ignore[operator]

    path = tmp_path / f"a.{ending}"
    save_layers(path, layers_of(blobs, None, ""), name="n", check=check, progress=seen.append)
    assert sum(seen) == 36
    assert found == [blob.astype("<f4").tobytes() for each in blobs.values() for blob in each]
    if ending == "caffemodel":
        before = path.read_bytes()
        with pytest.raises(ZeroDivisionError):
            save_layers(path, layers_of({"c": [np.ones(1)]}, None, ""), check=lambda scan, read: 1 / 0)
        assert path.read_bytes() == before


def test_the_file_object_of_h5py(tmp_path: Path) -> None:
    with open(tmp_path / "a", "w+b") as raw:
        file = SeekableFile(raw, "a")
        assert file.write(b"0123456789") == 10
        assert (file.tell(), file.read()) == (10, b"")
        assert (file.seek(2), file.read(3), file.tell()) == (2, b"234", 5)
        assert (file.seek(1, os.SEEK_CUR), file.read()) == (6, b"6789")
        assert (file.seek(-3, os.SEEK_END), file.tell()) == (7, 7)
        buffer = bytearray(2)
        assert (file.readinto(buffer), bytes(buffer), file.tell()) == (2, b"78", 9)
        assert file.truncate(4) == 4
        assert (file.seek(0), file.read()) == (0, b"0123")
        file.seek(2)
        assert file.truncate() == 2
        assert os.fstat(raw.fileno()).st_size == 2
        assert file.error is None
    with open(tmp_path / "a", "rb") as raw:
        file = SeekableFile(raw, "a")
        for _ in range(2):
            assert file.truncate(1) == 1
        assert isinstance(file.error, OSError)
        assert file.error.filename == "a"


def test_a_layer_without_a_name(tmp_path: Path) -> None:
    write_weights(tmp_path / "a.h5", {"": [np.ones(2)]})
    assert list(read_weights(tmp_path / "a.h5")) == ["(unnamed)"]


@pytest.mark.parametrize("method", ["seek", "write", "truncate"])
def test_ctrl_c_while_hdf5_calls_the_file_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """Raised there, the interrupt would become a SystemError of HDF5."""
    whole: Callable[..., int] = getattr(SeekableFile, method)
    calls = []

    def interrupted(*arguments: object) -> int:
        calls.append(method)
        signal.raise_signal(signal.SIGINT)
        return whole(*arguments)

    monkeypatch.setattr(SeekableFile, method, interrupted)
    with open(tmp_path / "a.h5", "w+b") as raw:
        with pytest.raises(KeyboardInterrupt), open_hdf5(h5py, raw, "a.h5") as file:
            file["x"] = np.arange(3)
        assert calls
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert h5py.File(tmp_path / "a.h5")["x"][()].tolist() == [0, 1, 2]
