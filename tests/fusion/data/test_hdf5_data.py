"""HDF5Data larger than the memory that it may use: the same batches, read file by file or row by row."""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from fusion.data import open_source
from fusion.data.array_source import ArraySource
from fusion.data.hdf5_data import Rows
from fusion.errors import DataError
from prototxt.schema.messages import LayerParameter

h5py = pytest.importorskip("h5py")
COUNTS = (5, 0, 7, 4)
ROW = 4 * (2 * 3 + 1)  # bytes of a row's data and label


def write(name: str, start: int, count: int, row: tuple[int, ...] = (2, 3)) -> None:
    with h5py.File(name, "w") as file:
        numbers = np.arange(start, start + count)
        file["data"] = np.broadcast_to(numbers.reshape(-1, *[1] * len(row)), (count, *row)).astype(np.float64) / 8
        file["label"] = (numbers % 5).astype(np.int32)


@pytest.fixture
def layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LayerParameter:
    monkeypatch.chdir(tmp_path)
    start = 0
    for number, count in enumerate(COUNTS):
        write(f"{number}.h5", start, count)
        start += count
    Path("list.txt").write_text("".join(f"{number}.h5\n" for number in range(len(COUNTS))))
    found = LayerParameter(name="data", type="HDF5Data", top=["data", "label"])
    found.hdf5_data_param.source, found.hdf5_data_param.batch_size = "list.txt", 6
    return found


def open_with(layer: LayerParameter, budget: int) -> ArraySource:
    source = open_source(layer, "TRAIN", seed=3, budget=budget)
    assert isinstance(source, ArraySource)
    return source


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("budget", [0, 2 * 7 * ROW], ids=["rows", "files"])
def test_the_batches_do_not_depend_on_the_memory(layer: LayerParameter, budget: int, shuffle: bool) -> None:
    layer.hdf5_data_param.shuffle = shuffle
    whole, parts = open_with(layer, 1 << 20), open_with(layer, budget)
    assert whole.in_memory
    assert not parts.in_memory
    assert len(parts) == sum(COUNTS)
    assert parts.shapes == whole.shapes == {"data": (6, 2, 3), "label": (6,)}
    assert parts.fingerprint() == whole.fingerprint()
    np.testing.assert_array_equal(parts.labels, np.arange(16) % 5)
    for one, other in islice(zip(whole.order(), parts.order(), strict=True), 9):
        np.testing.assert_array_equal(one, other)
        expected, found = whole.batch(one), parts.batch(other)
        np.testing.assert_array_equal(found["data"][:, 0, 0], other / 8)
        for top in ("data", "label"):
            np.testing.assert_array_equal(found[top], expected[top])


def test_two_files_are_kept_at_most(layer: LayerParameter) -> None:
    source = open_with(layer, 2 * 7 * ROW)
    for indices in islice(source.order(), 12):
        source.batch(indices)
        for rows in source.arrays:
            assert isinstance(rows, Rows)
            assert sum(array.nbytes for array in rows.cached.values()) <= 2 * 7 * ROW
            assert len(rows.cached) <= 2
    assert all(len(rows.cached) == 2 for rows in source.arrays)
    single = open_with(layer, 0)
    single.batch(np.arange(3))
    assert not any(rows.cached for rows in single.arrays)
    assert source.place(6) == "2.h5:1"


@pytest.mark.parametrize(
    ("budget", "whole", "files"),
    [(16 * ROW, True, True), (16 * ROW - 1, False, True), (14 * ROW, False, True), (14 * ROW - 1, False, False)],
)
def test_what_is_kept_fits_the_budget(layer: LayerParameter, budget: int, whole: bool, files: bool) -> None:
    """All sixteen rows, or two files of at most seven."""
    source = open_with(layer, budget)
    assert source.in_memory is whole
    assert all(isinstance(array, np.ndarray) if whole else array.keeps_files is files for array in source.arrays)
    assert [source.place(row) for row in (0, 4, 5, 11, 12)] == ["0.h5:0", "0.h5:4", "2.h5:0", "2.h5:6", "3.h5:0"]


def test_rows_of_which_a_part_stays_in_files_are_not_in_memory(layer: LayerParameter) -> None:
    source = open_with(layer, 0)
    kept = np.zeros((16, 1), np.float32)
    assert not replace(source, arrays=[kept, source.arrays[1]]).in_memory
    assert replace(source, arrays=[kept, kept]).in_memory


def test_packed_data_may_be_larger_than_its_file(layer: LayerParameter) -> None:
    """Rows that nobody wrote take no room in a file, and any small amount of memory."""
    with h5py.File("0.h5", "w") as file:
        file.create_dataset("data", (10_000, 20, 30), "f4", chunks=(10, 20, 30), compression="gzip")
        file.create_dataset("label", (10_000,), "f4", chunks=(10,), compression="gzip")
    Path("list.txt").write_text("0.h5\n")
    assert 1100 * Path("0.h5").stat().st_size < 24_000_000
    assert open_with(layer, 0).shapes["data"] == (6, 20, 30)


def test_files_without_rows_are_refused(layer: LayerParameter) -> None:
    write("1.h5", 0, 0)
    Path("list.txt").write_text("1.h5\n")
    with pytest.raises(DataError, match="the files hold no rows"):
        open_with(layer, 0)


def test_files_that_do_not_fit_each_other_are_all_named(layer: LayerParameter) -> None:
    write("0.h5", 0, 5, (2, 4))
    write("3.h5", 0, 5, (2, 2))
    with pytest.raises(DataError, match=r"2\.h5(.|\n)*rows of shape \(2, 3\), the first file \(2, 4\)(.|\n)*3\.h5"):
        open_with(layer, 0)


def test_a_file_cut_off_is_an_error(layer: LayerParameter) -> None:
    Path("2.h5").write_bytes(Path("2.h5").read_bytes()[:900])
    with pytest.raises(DataError, match=r"2\.h5: cannot read the file"):
        open_with(layer, 0)


@pytest.mark.parametrize("step", [41, pytest.param(1, marks=pytest.mark.slow)])  # every byte takes 40 s
@pytest.mark.parametrize("packed", [False, True])
def test_damage_anywhere_is_our_error_or_harmless(layer: LayerParameter, packed: bool, step: int) -> None:
    """Bytes all over the file, changed: the file is refused, or its batch has the shape that the file says."""
    with h5py.File("0.h5", "w") as file:
        for name, row in (("data", (2, 3)), ("label", ())):
            options = {"chunks": True, "compression": "gzip", "shuffle": True} if packed else {}
            file.create_dataset(name, data=np.ones((5, *row), "f4"), **options)
    data = Path("0.h5").read_bytes()
    Path("list.txt").write_text("0.h5\n")
    refused = named = 0
    for at in range(0, len(data), step):
        Path("0.h5").write_bytes(data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :])
        try:
            found = open_with(layer, 0).batch(np.arange(2))
        except DataError as error:
            refused += 1
            named += "0.h5" in str(error)
        else:
            assert len(found["data"]) == 2
    assert refused == named > 300 // step


def test_a_shape_that_no_file_of_this_size_can_have(layer: LayerParameter) -> None:
    with h5py.File("0.h5", "w") as file:
        file.create_dataset("data", (1 << 40, 2, 3), "f4", chunks=(1, 2, 3))
        file.create_dataset("label", (1 << 40,), "f4", chunks=(1,))
    with pytest.raises(DataError, match=r"0\.h5: data set 'data' of shape .* has 26388279066624 bytes in a file of"):
        open_with(layer, 0)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (None, r"0\.h5: no data set 'label'\n  hint: the file holds data"),
        (np.float32(3), r"0\.h5: no data set 'label'"),
        (np.array([b"a"] * 5), "data set 'label' holds .*, not numbers"),
        (np.zeros(4, "f4"), "the data sets differ in length: {'data': 5, 'label': 4}"),
    ],
)
def test_data_sets_that_are_none_of_a_top(layer: LayerParameter, label: object, message: str) -> None:
    with h5py.File("0.h5", "w") as file:
        file["data"] = np.zeros((5, 2), "f4")
        if label is not None:
            file["label"] = label
    Path("list.txt").write_text("0.h5\n")
    with pytest.raises(DataError, match=message):
        open_with(layer, 0)


def test_rows_are_shuffled_inside_files_that_are_shuffled(layer: LayerParameter) -> None:
    layer.hdf5_data_param.shuffle, layer.hdf5_data_param.batch_size = True, sum(COUNTS)
    orders = [next(open_with(layer, 0).order(number)) for number in range(2)]
    files = np.repeat(np.arange(len(COUNTS)), COUNTS)
    for order in orders:
        assert sorted(order.tolist()) == list(range(sum(COUNTS)))
        assert np.count_nonzero(np.diff(files[order])) == 2, "one file after the other"
    assert orders[0].tolist() != orders[1].tolist()


def test_the_hash_follows_the_files_alone(layer: LayerParameter) -> None:
    before = open_with(layer, 1 << 20).fingerprint()
    os.utime("0.h5", (5, 5))
    assert open_with(layer, 1 << 20).fingerprint() != before


def test_rows_that_nobody_wrote_are_in_no_piece(layer: LayerParameter) -> None:
    with h5py.File("0.h5", "w") as file:
        file.create_dataset("data", (1000, 20, 30), "f4")
        file.create_dataset("label", (1000,), "f4")
    Path("list.txt").write_text("0.h5\n")
    assert open_with(layer, 0).shapes["data"] == (6, 20, 30)
    Path("list.txt").write_text("\n")
    with pytest.raises(DataError, match="the list of files is empty"):
        open_with(layer, 0)
