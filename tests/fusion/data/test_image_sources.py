"""Sources of images: what counts as in memory, order and numbers of batches, and the arrays beside them."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from fusion.data import check_label_range, open_source, source as source_module
from fusion.data.class_order import sorted_classes_warning
from fusion.data.data_layer import _labels, datum_label
from fusion.data.in_step_sources import InStep
from fusion.data.lmdb_leveldb import open_database, write_database
from fusion.data.read_batches import batches
from fusion.data.sampler import Order, random_skip, shuffled
from fusion.data.sharding import ShardSpec, shard
from fusion.data.source_config import ReadOptions
from fusion.data.source_wrapper import SourceWrapper
from fusion.data.transforms import Transform
from fusion.errors import DataError
from prototxt.schema.load import load_net
from prototxt.schema.messages import Datum, LayerParameter
from prototxt.text.parser import parse


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


MEANS = {1: np.ones((1, 1, 1), np.float32), 2: np.ones((2, 1, 1), np.float32), 9: np.ones((3, 4, 6), np.float32)}


@pytest.mark.parametrize(
    ("crop", "mean", "shape", "message"),
    [
        (0, None, (3, 4, 6), None),
        (4, None, (3, 4, 6), None),
        (5, None, (3, 4, 6), "the image is 4x6, smaller than crop_size 5"),
        (5, None, (3, 6, 4), "the image is 6x4, smaller than crop_size 5"),
        (0, 1, (3, 4, 6), None),
        (0, 2, (2, 4, 6), None),
        (0, 2, (3, 4, 6), "2 mean values for 3 channels"),
        (0, 9, (3, 4, 6), None),
        (3, 9, (3, 4, 5), r"the mean file has shape \(3, 4, 6\), the image \(3, 4, 5\)"),
        (0, 9, (1, 4, 6), "the mean file has shape"),
    ],
)
def test_records_that_a_transform_fits(
    crop: int, mean: int | None, shape: tuple[int, ...], message: str | None
) -> None:
    transform = Transform(crop=crop, mean=None if mean is None else MEANS[mean])
    if message is None:
        transform.check(shape, "a.png")
        assert transform.apply(np.zeros((2, *shape), np.uint8)).shape == (2, *transform.shape(shape))
        assert transform.shape(shape) == ((shape[0], crop, crop) if crop else shape)
    else:
        with pytest.raises(DataError, match=message):
            transform.check(shape, "a.png")


@pytest.mark.parametrize(
    ("settings", "steady"),
    [
        ({}, True),
        ({"crop": 4}, True),
        ({"random_crop": True}, True),
        ({"crop": 4, "random_crop": True}, False),
        ({"mirror": True}, False),
        ({"mirror": True, "crop": 4}, False),
    ],
)
def test_only_drawn_windows_and_flips_change_from_time_to_time(settings: dict[str, int], steady: bool) -> None:
    transform = Transform(**settings)  # type: ignore[arg-type]
    assert transform.deterministic((3, 4, 6)) is steady
    assert transform.deterministic((3, 4, 4)) is not bool(settings.get("mirror")), "the window is the whole image"


def test_windows_flips_mean_and_scale_of_a_record() -> None:
    """A window in the middle lies further up and left where the rest is odd; drawn ones lie anywhere, edges too."""
    pixels = np.arange(2 * 5 * 8).reshape(1, 2, 5, 8).astype(np.uint8)
    mean = np.arange(2 * 5 * 8).reshape(2, 5, 8).astype(np.float32) / 4
    middle = Transform(np.float32(0.5), mean, crop=3).apply(pixels)
    np.testing.assert_array_equal(middle, (pixels - mean)[:, :, 1:4, 2:5] * np.float32(0.5))
    drawn = Transform(mean=mean, crop=3, random_crop=True, mirror=True)
    seen = set()
    for seed in range(300):
        window = drawn.apply(pixels, np.random.default_rng(seed))[0]
        for flip, kept in ((False, window), (True, window[:, :, ::-1])):
            at = int(kept[0, 0, 0] / 0.75)
            top, left = at // 8, at % 8
            if top < 3 and left < 6 and np.array_equal(kept, (pixels - mean)[0, :, top : top + 3, left : left + 3]):
                seen.add((top, left, flip))
    assert len(seen) == 3 * 6 * 2


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


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"data": 4, "label": 4}, None),
        ({"data": 4, "label": 2}, r"the arrays have \[4, 2\] rows"),
        ({"data": 0, "label": 0}, r"the arrays have \[0, 0\] rows"),
        ({"data": 3, "label": 3}, "3 rows are no multiple of batch_size 2"),
        ({"data": 4}, "must be passed as arrays: 'label'"),
    ],
)
def test_arrays_fill_whole_batches(rows: dict[str, int], message: str | None) -> None:
    layer = LayerParameter(name="in", type="MemoryData", top=["data", "label"])
    sizes = layer.memory_data_param
    sizes.batch_size, sizes.channels, sizes.height, sizes.width = 2, 1, 3, 5
    shapes = {"data": (1, 3, 5), "label": ()}
    arrays = {top: np.arange(count * np.prod(shapes[top])).reshape(count, *shapes[top]) for top, count in rows.items()}
    if message is None:
        source = open_source(layer, "TRAIN", arrays=arrays)
        assert source.shapes == {"data": (2, 1, 3, 5), "label": (2, 1, 1, 1)}
        assert source.batch(np.array([3, 1]))["label"].flatten().tolist() == [3, 1]
        arrays["data"] = arrays["data"].reshape(4, 1, 5, 3)
        message = r"rows of shape \(1, 5, 3\) do not fit \(1, 3, 5\)"
    with pytest.raises(DataError, match=message):
        open_source(layer, "TRAIN", arrays=arrays)


@pytest.mark.parametrize("label", [0, 1, 127, 128, 300, 2**31 - 1, -1, -(2**31)])
def test_the_label_of_a_record_is_read_alone(label: int) -> None:
    whole = Datum(channels=3, height=4, width=500, label=label, data=b"x" * 300, float_data=[0.5]).SerializeToString()
    foreign = b"\x4d1234" + b"\x51" + b"12345678"  # numbers of 4 and 8 bytes that no Datum has
    assert datum_label(whole) == datum_label(memoryview(foreign + whole + foreign)) == label
    for broken in (
        whole[:-1],
        whole + b"\x4d123",
        whole + b"\x51" + b"1234567",
        whole + b"\x4b",
        b"\x28" + b"\xff" * 11,
    ):
        with pytest.raises((ValueError, IndexError)):
            datum_label(broken)


def test_batches_and_orders_begin_at_zero(images: LayerParameter) -> None:
    images.transform_param.crop_size, images.transform_param.mirror = 3, True
    images.image_data_param.shuffle = True
    for number in range(3):
        Image.fromarray(np.arange(24, dtype=np.uint8).reshape(4, 6)).save(f"{number}.png")
    source, rows = open_source(images, "TRAIN", seed=4), np.array([2, 0])
    for one in (source, shard(source, ShardSpec()), InStep((source,)), SourceWrapper(source)):
        np.testing.assert_array_equal(one.batch(rows)["data"], source.batch(rows, draw=0)["data"])
        assert next(one.order()).tolist() == next(source.order(0)).tolist()
    assert not np.array_equal(source.batch(rows)["data"], source.batch(rows, draw=1)["data"])
    assert ShardSpec() == ShardSpec(0, 1, whole=False)


@pytest.mark.parametrize(("batch_size", "skipped"), [(1, set()), (2, {1})])
def test_sizes_may_differ_where_each_record_is_a_batch(
    images: LayerParameter, batch_size: int, skipped: set[int]
) -> None:
    Image.fromarray(np.full((5, 6), 9, np.uint8)).save("1.png")
    images.image_data_param.batch_size = batch_size
    source = open_source(images, "TEST", on_bad_record="skip")
    source.load()
    assert set(source.bad) == skipped
    datums = [
        (b"0", Datum(channels=1, height=2, width=2, data=b"aaaa")),
        (b"1", Datum(channels=1, height=1, width=1, data=b"a")),
    ]
    write_database("db", [(key, datum.SerializeToString()) for key, datum in datums], lmdb=True)
    layer = LayerParameter(name="data", type="Data", top=["data"])
    layer.data_param.source, layer.data_param.backend = "db", layer.data_param.LMDB
    layer.data_param.batch_size = batch_size
    source = open_source(layer, "TEST", on_bad_record="skip")
    source.load()
    assert set(source.bad) == skipped


def test_windows_larger_than_images_name_the_first(images: LayerParameter) -> None:
    images.transform_param.crop_size = 5
    with pytest.raises(DataError, match=r"list\.txt:1: the image is 4x6, smaller than crop_size 5"):
        open_source(images, "TEST")


def dummy(shapes: list[list[int]], fillers: list[str], tops: int) -> LayerParameter:
    layer = LayerParameter(name="data", type="DummyData", top=[str(number) for number in range(tops)])
    for dims in shapes:
        layer.dummy_data_param.shape.add(dim=dims)
    for number, kind in enumerate(fillers):
        layer.dummy_data_param.data_filler.add(type=kind, value=number + 1)
    return layer


@pytest.mark.parametrize(
    ("shapes", "fillers", "steady"),
    [
        ([[4, 2]], [], True),
        ([[4, 2], [4], [4, 1]], ["constant"] * 3, True),
        ([[4, 2], [4], [3, 1]], ["constant"], False),
        ([[4, 2]], ["constant", "constant", "uniform"], False),
    ],
)
def test_constant_blobs_of_one_length_are_the_same_each_time(
    shapes: list[list[int]], fillers: list[str], steady: bool
) -> None:
    source = open_source(dummy(shapes, fillers, 3), "TRAIN")
    assert source.deterministic is steady
    assert source.batch_size == len(source) == 4
    if steady:
        blobs = source.batch(np.array([1, 7]))
        assert [tuple(blob.shape) for blob in blobs.values()] == [(2, *dims[1:]) for dims in (shapes * 3)[:3]]
        assert [blob.unique().tolist() for blob in blobs.values()] == ([[1], [2], [3]] if fillers else [[0]] * 3)


@pytest.mark.parametrize(
    ("shapes", "fillers", "message"),
    [
        ([[4], [4]], [], "2 shapes for 3 tops"),
        ([], [], "0 shapes for 3 tops"),
        ([[4], [], [4]], [], "3 shapes for 3 tops"),
        ([[4]], ["constant"] * 2, "2 fillers for 3 tops"),
    ],
)
def test_dummy_blobs_need_a_shape_and_a_filler_each(shapes: list[list[int]], fillers: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_source(dummy(shapes, fillers, 3), "TRAIN")


@pytest.mark.parametrize(("skip", "told"), [(False, 21), (True, 0)])
def test_records_that_are_no_datum_have_no_label(images: LayerParameter, skip: bool, told: int) -> None:
    good = Datum(channels=1, height=1, width=1, data=b"a", label=7).SerializeToString()
    write_database("db", [(b"%03d" % number, b"\xff" if number else good) for number in range(30)], lmdb=True)
    database = open_database("db", lmdb=True)
    if skip:
        assert _labels(database, skip=True).tolist() == [7] + [0] * 29
    else:
        with pytest.raises(DataError) as error:
            _labels(database, skip=False)
        assert len(error.value.errors) == told


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


def test_draws_are_those_of_the_seed_and_the_batch(images: LayerParameter) -> None:
    images.transform_param.mirror = True
    Image.fromarray(np.arange(24, dtype=np.uint8).reshape(4, 6)).save("0.png")
    source, rows = open_source(images, "TRAIN", seed=4), np.zeros(20, np.int64)
    flipped = np.random.default_rng((4, 1, 7)).random((20, 3))[:, 2] < 0.5
    assert (source.batch(rows, draw=7)["data"].numpy()[:, 0, 0, 0] == np.where(flipped, 5, 0)).all()
    images.image_data_param.rand_skip = 1000
    expected = (random_skip(1000, 4) + np.arange(2)) % 3
    assert next(open_source(images, "TRAIN", seed=4).order()).tolist() == expected.tolist()
    assert random_skip(1000, 4) == np.random.default_rng((4, 0x5C1B)).integers(1000)


def test_random_blobs_are_those_of_seed_top_and_draw() -> None:
    source = open_source(dummy([[4, 2]], ["constant", "uniform", "uniform"], 3), "TRAIN", seed=2)
    first, rows = source.batch(np.arange(4)), np.arange(4)
    assert not np.array_equal(first["1"], first["2"])
    np.testing.assert_array_equal(source.batch(rows, draw=0)["1"], first["1"])
    assert not np.array_equal(source.batch(rows, draw=1)["1"], first["1"])
    assert source.in_memory
    assert source.fingerprint() == open_source(source.layer, "TRAIN").fingerprint()  # type: ignore[attr-defined]


def test_arrays_have_places_a_length_and_a_hash_of_their_values() -> None:
    layer = LayerParameter(name="in", type="Input", top=["data"])
    rows = np.arange(6, dtype=np.float32).reshape(3, 2)
    source, again, other = (open_source(layer, "TRAIN", arrays={"data": one}) for one in (rows, rows, rows + 1))
    assert list(source.keys) == [f"layer 'in':{index}" for index in range(3)]
    assert (len(source), source.batch_size, source.deterministic, source.labels) == (3, 3, True, None)
    assert sorted_classes_warning(source) is None
    check_label_range(source, 1)
    assert source.fingerprint() == again.fingerprint() != other.fingerprint()
    assert next(batches(source, workers=2))["data"].tolist() == rows.tolist(), "needs no processes"


@pytest.mark.parametrize(("wrong", "listed"), [(20, 20), (21, 21), (30, 21)])
def test_labels_that_are_no_classes_are_listed_up_to_a_number(images: LayerParameter, wrong: int, listed: int) -> None:
    Path("list.txt").write_text("0.png 0\n" + "0.png -1\n" * wrong)
    with pytest.raises(DataError, match=r"list\.txt:2: label -1 is out of range 0\.\.1") as error:
        check_label_range(open_source(images, "TRAIN"), 2)
    assert len(error.value.errors) == listed
    assert (f"{wrong - 20} more labels" in str(error.value)) is (wrong > 20)


@pytest.mark.parametrize(
    ("kind", "block", "message"),
    [
        ("ImageData", "image_data_param { source: 'list.txt' batch_size: 0 }", "batch_size must be at least 1"),
        ("Data", "data_param { source: 'db' batch_size: 0 }", "batch_size must be at least 1"),
        ("HDF5Data", "hdf5_data_param { source: 'list.txt' batch_size: 0 }", "batch_size must be at least 1"),
        ("MemoryData", "memory_data_param { channels: 1 height: 1 width: 2 }", "batch_size must be at least 1"),
        ("ImageData", "image_data_param { source: 'list.txt' new_height: 3 }", "must be given together"),
        (
            "ImageData",
            "image_data_param { source: 'list.txt' } transform_param { mean_file: 'm' }",
            "m: this is no mean",
        ),
        ("ImageData", "image_data_param { source: 'list.txt' } transform_param { mean_file: '0.png' }", "no mean file"),
        (
            "ImageData",
            "image_data_param { source: 'list.txt' } transform_param { mean_file: 'm' mean_value: 1 }",
            "mean_file and mean_value are both given",
        ),
        (
            "Data",
            "data_param { source: 'db' batch_size: 1 } transform_param { force_color: true force_gray: true }",
            "force_color and force_gray are both set",
        ),
        ("HDF5Data", "hdf5_data_param { source: 'list.txt' batch_size: 1 } transform_param { }", "does not transform"),
        ("HDF5Data", "hdf5_data_param { source: 'absent' batch_size: 1 }", "cannot read the list of files"),
        ("HDF5Data", "hdf5_data_param { source: 'list.txt' batch_size: 1 }", "0.png 0: cannot read the file"),
        ("Convolution", "", "cannot be read as a data source"),
    ],
)
def test_settings_that_do_not_fit(images: LayerParameter, kind: str, block: str, message: str) -> None:
    layer = load_net(parse(f"layer {{ name: 'd' type: '{kind}' top: 'data' {block} }}")).layer[0]
    with pytest.raises(DataError, match=message):
        open_source(layer, "TRAIN", arrays={"data": np.zeros((2, 1, 1, 2), np.float32)})


@pytest.mark.parametrize(
    ("datum", "message"),
    [
        (Datum(channels=3, height=4, width=5, data=b"a" * 59), r"59 values for the shape \(3, 4, 5\)"),
        (Datum(channels=0, height=4, width=5), r"0 values for the shape \(0, 4, 5\)"),
        (Datum(encoded=True, data=b"none"), "cannot decode the image"),
    ],
)
def test_records_of_other_lengths_than_they_state(images: LayerParameter, datum: Datum, message: str) -> None:
    write_database("db", [(b"0", datum.SerializeToString())], lmdb=True)
    layer = LayerParameter(name="data", type="Data", top=["data"])
    layer.data_param.source, layer.data_param.backend, layer.data_param.batch_size = "db", layer.data_param.LMDB, 1
    with pytest.raises(DataError, match=message):
        open_source(layer, "TEST")


def test_the_label_of_a_record_without_one_is_zero() -> None:
    assert datum_label(Datum(channels=3).SerializeToString()) == datum_label(b"") == 0
    with pytest.raises(ValueError, match="no Datum"):
        datum_label(b"\x28" + b"\xff" * 10 + b"\1")


@pytest.mark.parametrize(("cores", "processes"), [(None, 1), (1, 1), (6, 3), (40, 8)])
def test_half_of_the_cores_read(cores: int | None, processes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    assert ReadOptions().processes == processes
    assert ReadOptions(workers=0).processes == 0
