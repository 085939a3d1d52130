"""NumPy files of unknown origin: the values of sound ones, and ValueError for all others before memory is allocated."""

from __future__ import annotations

import io
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from prototxt.formats.numpy_files import read_npy, read_npz


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
