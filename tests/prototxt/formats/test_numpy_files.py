"""NumPy files of unknown origin: the values of sound ones, and ValueError for all others before memory is allocated."""

from __future__ import annotations

import errno
import io
import re
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from prototxt.formats.numpy_files import _as_value_error, read_npy, read_npz


def test_the_values_of_sound_files(tmp_path: Path) -> None:
    arrays = {
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "text": np.array(["a", "bcd"]),
        "empty": np.zeros((0, 4), np.float32),
        "one": np.array(3, ">i2"),
    }
    np.savez_compressed(tmp_path / "a.npz", **arrays, others=np.array([{}], object))
    read = read_npz(tmp_path / "a.npz", arrays.__contains__)
    assert {name: value.tolist() for name, value in read.items()} == {n: v.tolist() for n, v in arrays.items()}
    assert {name: value.dtype for name, value in read.items()} == {n: v.dtype for n, v in arrays.items()}
    np.save(tmp_path / "a.npy", arrays["fortran"])
    assert read_npy(tmp_path / "a.npy").tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (
            "{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,), }",
            "needs 4398046511104 bytes and has 16",
        ),
        ("{'descr': '<U0', 'fortran_order': False, 'shape': (1099511627776,), }", "needs 0 bytes and has 16"),
        ("{'descr': '|O', 'fortran_order': False, 'shape': (2,), }", "Python objects"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (-4,), }", "needs -16 bytes"),
        ("(" * 100, "damaged|parse"),
        ("{'descr': '\0", "damaged|parse"),
    ],
)
def test_headers_that_lie(tmp_path: Path, header: str, message: str) -> None:
    text = header.encode().ljust(118)
    data = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(16)
    (tmp_path / "a.npy").write_bytes(data)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", data)
    for read in (lambda: read_npy(tmp_path / "a.npy"), lambda: read_npz(tmp_path / "a.npz")):
        tracemalloc.start()
        with pytest.raises(ValueError, match=message):
            read()
        assert tracemalloc.get_traced_memory()[1] < 1 << 22
        tracemalloc.stop()


def test_values_without_a_width_need_no_memory(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<U0", "fortran_order": False, "shape": (1 << 40,)})
    (tmp_path / "a.npy").write_bytes(buffer.getvalue())
    with pytest.raises(ValueError, match="needs 0 bytes"):
        read_npy(tmp_path / "a.npy")


@pytest.mark.parametrize(("shape", "sound"), [((), False), ((1,), False), ((2,), False), ((0,), True), ((0, 5), True)])
def test_values_without_a_width_are_sound_only_in_no_number(
    tmp_path: Path, shape: tuple[int, ...], sound: bool
) -> None:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<U0", "fortran_order": False, "shape": shape})
    (tmp_path / "a.npy").write_bytes(buffer.getvalue())
    if sound:
        assert read_npy(tmp_path / "a.npy").shape == shape
    else:
        with pytest.raises(ValueError, match="needs 0 bytes and has 0"):
            read_npy(tmp_path / "a.npy")


@pytest.mark.parametrize("change", [-4, 4])
def test_too_few_or_too_many_values(tmp_path: Path, change: int) -> None:
    np.save(tmp_path / "a.npy", np.arange(6, dtype="<f4"))
    data = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(data[:change] if change < 0 else data + bytes(change))
    with pytest.raises(ValueError, match=rf"the array of shape \[6\] needs 24 bytes and has {24 + change}"):
        read_npy(tmp_path / "a.npy")


def test_an_archive_that_expands_two_hundred_times_is_no_large_array(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small archives may expand at any ratio; beyond the bound both the size and the ratio count."""
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros(100_000, np.uint8))
    np.savez(tmp_path / "b.npz", x=np.zeros(100_000, np.uint8))
    assert read_npz(tmp_path / "a.npz")["x"].shape == (100_000,)
    monkeypatch.setattr("prototxt.formats.numpy_files._LARGE", 50_000)
    assert read_npz(tmp_path / "b.npz")["x"].shape == (100_000,)
    with pytest.raises(ValueError, match=r"\d+ bytes would expand to 100128"):
        read_npz(tmp_path / "a.npz")
    assert read_npz(tmp_path / "a.npz", lambda name: False) == {}


def test_a_damaged_archive(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=np.arange(1000))
    data = bytearray((tmp_path / "a.npz").read_bytes())
    data[100] ^= 0xFF
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(ValueError):  # noqa: PT011 - zlib's or zipfile's own words
        read_npz(tmp_path / "a.npz")
    with pytest.raises(FileNotFoundError):
        read_npz(tmp_path / "none.npz")


@pytest.mark.parametrize(
    ("error", "damaged"),
    [
        (OSError("Invalid data stream"), True),
        (OSError(errno.EINVAL, "Invalid argument"), True),
        (OSError(errno.EIO, "Input/output error"), False),
        (PermissionError(errno.EACCES, "Permission denied"), False),
        (zipfile.BadZipFile(), True),
        (NotImplementedError("compression"), True),
    ],
)
def test_which_errors_mean_damage(error: Exception, damaged: bool) -> None:
    with (
        pytest.raises(ValueError if damaged else OSError, match=re.escape(str(error)) or "BadZipFile"),
        _as_value_error(),
    ):
        raise error


def test_a_header_of_each_version(tmp_path: Path) -> None:
    for version in ((1, 0), (2, 0)):
        with open(tmp_path / "a.npy", "wb") as file:
            np.lib.format.write_array(file, np.arange(3), version=version)
        assert read_npy(tmp_path / "a.npy").tolist() == [0, 1, 2]


@pytest.mark.parametrize("factor", [200, 201])
def test_the_bounds_of_an_archive_that_expands(factor: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros(1000, np.uint8))
    whole = zipfile.ZipFile(tmp_path / "a.npz").infolist()[0].file_size
    listed = zipfile.ZipFile.infolist
    monkeypatch.setattr("prototxt.formats.numpy_files._LARGE", whole * 200)

    def larger(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
        entries = listed(archive)
        for entry in entries:
            entry.file_size = whole * factor
        return entries

    monkeypatch.setattr(zipfile.ZipFile, "infolist", larger)
    with pytest.raises(ValueError, match="needs 1000 bytes" if factor == 200 else "would expand to"):
        read_npz(tmp_path / "a.npz")
