"""Chunked datasets, unpacked without HDF5's library: equal to what it reads, and every damage is refused."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prototxt.errors import WeightsError
from prototxt.formats.weights import read_weights

h5py = pytest.importorskip("h5py")
VALUES = np.arange(77, dtype=np.float64).reshape(7, 11) / 8


def write(path: Path, values: Any, **options: Any) -> None:
    with h5py.File(path, "w") as file:
        file.create_group("data/a").create_dataset("0", data=values, **options)


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<f2"])
def test_values_equal_what_was_written(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "a.h5"
    for packed, shuffle, checksum, chunks in itertools.product(
        (None, "gzip"), (False, True), (False, True), ((1, 1), (3, 4), (7, 11))
    ):
        values = VALUES.astype(dtype)
        write(path, values, chunks=chunks, compression=packed, shuffle=shuffle, fletcher32=checksum)
        np.testing.assert_array_equal(read_weights(path)["a"][0], VALUES.astype("f4"))


def test_chunks_that_were_never_written_hold_the_fill_value(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write(path, None, shape=(5,), dtype="<f4", chunks=(2,), fillvalue=3)
    with h5py.File(path, "a") as file:
        file["data/a/0"][2:4] = 1
    assert read_weights(path)["a"][0].tolist() == [3, 3, 1, 1, 3]


def test_other_compressions_are_refused_with_a_way_out(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write(path, VALUES, compression="lzf")
    with pytest.raises(WeightsError, match=r"(?s)packed by filter 32000.*h5repack"):
        read_weights(path)["a"]


def test_damaged_values_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    for options, says in (({"fletcher32": True}, "checksum is wrong"), ({"compression": "gzip"}, "chunk is damaged")):
        write(path, VALUES.astype("<f4"), chunks=(7, 11), **options)
        with h5py.File(path, "r") as file:
            at = file["data/a/0"].id.get_chunk_info(0).byte_offset
        content = bytearray(path.read_bytes())
        content[at + 30] ^= 1
        content[at] ^= 0x0F
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=says):
            read_weights(path)["a"]


def test_bombs_are_refused_before_anything_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    zeros = np.zeros(8_000_000, "<f4")
    write(path, zeros, chunks=(8_000_000,), compression="gzip")
    with pytest.raises(WeightsError, match="would unpack to 32000000 bytes from a file of"):
        read_weights(path)
    write(path, zeros[:4], chunks=(100_000_000,), maxshape=(None,), compression="gzip")
    with pytest.raises(WeightsError, match="would unpack to 400000000 bytes"):
        read_weights(path)
    write(path, zeros[:1_000_000], chunks=(1_000_000,), compression="gzip")
    with h5py.File(path, "a") as file:
        for index in range(1, 100):
            file[f"data/a/{index}"] = file["data/a/0"]
    with pytest.raises(WeightsError, match="and those before it would unpack to"):
        read_weights(path)
