"""Sources of images: what counts as in memory, order and numbers of batches, and the arrays beside them."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from fusion.data import open_source, source as source_module
from fusion.data.read_batches import batches
from fusion.data.sampler import Order, random_skip, shuffled
from prototxt.schema.messages import LayerParameter


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LayerParameter:
    """A layer of three gray images of 24 bytes, in batches of two."""
    monkeypatch.chdir(tmp_path)
    for number in range(3):
        Image.fromarray(np.full((4, 6), number, np.uint8)).save(f"{number}.png")
    Path("list.txt").write_text("".join(f"{number}.png {number}\n" for number in range(3)))
    layer = LayerParameter(name="data", type="ImageData", top=["data", "label"])
    layer.image_data_param.source = "list.txt"
    layer.image_data_param.is_color = False
    layer.image_data_param.batch_size = 2
    return layer


@pytest.mark.parametrize(
    ("budget", "quick", "expected"), [(72, 49, True), (71, 49, False), (72, 48, False), (71, 48, False)]
)
def test_small_batches_of_kept_records_are_in_memory(
    images: LayerParameter, monkeypatch: pytest.MonkeyPatch, budget: int, quick: int, expected: bool
) -> None:
    monkeypatch.setattr(source_module, "_QUICK", quick)
    assert open_source(images, "TRAIN", budget=budget).in_memory is expected


def test_batches_are_numbered_from_the_first_that_is_asked_for(images: LayerParameter) -> None:
    images.transform_param.mirror = True
    images.image_data_param.shuffle = True
    source = open_source(images, "TRAIN", seed=4)
    for start in (0, 3):
        for number, found in enumerate(islice(batches(source, start), 3), start):
            expected = source.batch(next(source.order(number)), draw=number)
            np.testing.assert_array_equal(found["data"], expected["data"])
            np.testing.assert_array_equal(found["label"], expected["label"])


def test_the_order_of_records() -> None:
    listed = Order(5, 2, skip=1)
    assert [listed.batch(number).tolist() for number in range(4)] == [[1, 2], [3, 4], [0, 1], [2, 3]]
    assert [batch.tolist() for batch in islice(listed.batches(2), 2)] == [[0, 1], [2, 3]]
    assert Order(2, 5).batch(1).tolist() == [1, 0, 1, 0, 1], "a batch may hold a record several times"
    permutation = shuffled(5, 3)
    drawn = Order(5, 2, skip=1, permutation=permutation)
    visited = np.concatenate([drawn.batch(number) for number in range(7)]).tolist()
    assert visited == [*permutation(0)[1:], *permutation(1), *permutation(2)]
    assert permutation(0).tolist() != permutation(1).tolist()
    assert shuffled(5, 4)(0).tolist() != permutation(0).tolist()


def test_skipped_records_are_below_their_limit() -> None:
    assert random_skip(0, 1) == 0
    assert {random_skip(3, seed) for seed in range(40)} == {0, 1, 2}


def test_whole_numbers_are_labels() -> None:
    layer = LayerParameter(name="in", type="Input", top=["data", "label"])
    data = np.zeros((3, 2), np.float32)
    for second, labels in (
        ([0, 2, 1], [0, 2, 1]),
        ([0, 0.5, 1], None),
        ([[0, 1]] * 3, None),
        ([[1], [0], [1]], [1, 0, 1]),
    ):
        source = open_source(layer, "TRAIN", arrays={"data": data, "label": np.array(second, np.float32)})
        assert (source.labels if source.labels is None else source.labels.tolist()) == labels
        assert source.label_tops == ("label",)
        assert source.in_memory


def test_rows_that_stay_in_files_are_not_in_memory(tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.float32).reshape(6, 2)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data"] = values
    (tmp_path / "list.txt").write_text(f"{tmp_path / 'a.h5'}\n")
    layer = LayerParameter(name="data", type="HDF5Data", top=["data"])
    layer.hdf5_data_param.source = str(tmp_path / "list.txt")
    layer.hdf5_data_param.batch_size = 4
    for budget, in_memory in ((48, True), (0, False)):
        source = open_source(layer, "TRAIN", budget=budget)
        assert source.in_memory is in_memory
        rows = np.array([5, 0, 5, 2])
        np.testing.assert_array_equal(source.batch(rows)["data"], values[rows])
