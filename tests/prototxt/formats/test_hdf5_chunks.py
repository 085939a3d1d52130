"""Chunked datasets, unpacked without HDF5's library: equal to what it reads, and every damage is refused."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prototxt.errors import WeightsError
from prototxt.formats.hdf5_chunks import _bytes, read_chunked
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
        found = read_weights(path)["a"][0]
        np.testing.assert_array_equal(found, VALUES.astype("f4"))
        assert not found.flags.writeable


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


@pytest.mark.parametrize("count", [1, 2, 3, 7, 70_000])
def test_checksums_of_old_libraries_have_their_bytes_swapped(tmp_path: Path, count: int) -> None:
    path = tmp_path / "a.h5"
    values = np.random.default_rng(count).standard_normal(count).astype("<f4")
    write(path, values, chunks=(count,), fletcher32=True)
    with h5py.File(path, "r") as file:
        info = file["data/a/0"].id.get_chunk_info(0)
        at = info.byte_offset + info.size - 4
    content = bytearray(path.read_bytes())
    content[at : at + 4] = bytes(content[at + place] for place in (1, 0, 3, 2))
    path.write_bytes(content)
    np.testing.assert_array_equal(read_weights(path)["a"][0], values)
    content[at : at + 4] = bytes(content[at + place] for place in (2, 3, 0, 1))
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="checksum is wrong"):
        read_weights(path)["a"]


@pytest.mark.parametrize("size", [8_388_608, 8_388_609])
def test_sixteen_mebibytes_may_be_unpacked_from_any_file(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.h5"
    write(path, None, shape=(size,), dtype="<f2", chunks=(1 << 20,))
    if size * 2 <= 16 << 20:
        assert read_weights(path).entry("a").blobs[0].shape == (size,)
    else:
        with pytest.raises(WeightsError, match="blob 0 of layer 'a' would unpack to 16777218 bytes"):
            read_weights(path)


class Misplaced:
    """A dataset of one chunk whose place the file gives wrongly."""

    def __init__(self, dataset: Any, offset: tuple[int, ...]) -> None:
        self._dataset, self._offset, self.id = dataset, offset, self
        self.chunks, self.shape, self.dtype, self.fillvalue = dataset.chunks, dataset.shape, dataset.dtype, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dataset.id, name)

    def get_num_chunks(self) -> int:
        return 1

    def get_chunk_info(self, index: int) -> Any:
        return self._dataset.id.get_chunk_info(index)._replace(chunk_offset=self._offset)


@pytest.mark.parametrize("offset", [(1, 0), (0, 2), (8, 0), (0, 12), (3, 1), (9, 0)])
def test_a_chunk_at_no_place_of_the_grid_is_refused(tmp_path: Path, offset: tuple[int, ...]) -> None:
    path = tmp_path / "a.h5"
    write(path, VALUES, chunks=(3, 4))
    with h5py.File(path, "r") as file, open(path, "rb") as raw:
        dataset = file["data/a/0"]
        found = read_chunked(Misplaced(dataset, (3, 8)), raw.fileno(), "a.h5")
        np.testing.assert_array_equal(found[3:6, 8:], VALUES[:3, :3])
        assert not found[:3].any()
        with pytest.raises(WeightsError, match=r"a chunk lies at \(.*\) of \(7, 11\)"):
            read_chunked(Misplaced(dataset, offset), raw.fileno(), "a.h5")


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


@pytest.mark.parametrize("chunk", [0, 99, 100, 1000])
def test_the_bounds_of_a_packed_chunk(tmp_path: Path, chunk: int) -> None:
    """Packing adds a hundredth and 1024 bytes at most."""
    most = chunk + chunk // 100 + 1024
    (tmp_path / "a").write_bytes(bytes(range(250)) * 12)
    with open(tmp_path / "a", "rb") as file:
        fd = file.fileno()
        assert _bytes(fd, 1, most, chunk, "a") == (bytes(range(250)) * 12)[1 : 1 + most]
        for offset, count, says in (
            (1, most + 1, f"a chunk of {chunk} bytes takes {most + 1} in the file"),
            (None, 1, f"a chunk of {chunk} bytes takes 1 in the file"),
            (2999, 2, "byte 2999: a chunk lies after the end of the file"),
        ):
            with pytest.raises(WeightsError, match=says):
                _bytes(fd, offset, count, chunk, "a")
        assert _bytes(fd, 2999, 1, chunk, "a") == bytes([249])
