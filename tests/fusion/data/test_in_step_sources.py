"""Data layers in step are one source: each record with its partner, flipped, cropped and skipped alike."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fusion.data import DataSource, bad_records, batches, image_data, open_layers, open_source
from fusion.data.class_order import sorted_classes_warning
from fusion.data.in_step_sources import InStep, UnpairedData, layer_seed, members_of, single_source
from fusion.data.sharding import ShardSpec, shard
from fusion.errors import DataError
from prototxt.formats.datum import Datum, write_datum
from prototxt.schema.messages import LayerParameter, NetParameter

COUNT = 12
Open = Callable[..., list[DataSource]]


@pytest.fixture(autouse=True)
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures whose pixels say which record they are and where they lie, in one size and in twice that size."""
    monkeypatch.chdir(tmp_path)
    for name, scale in (("a", 1), ("b", 1), ("big", 2)):
        rows, columns = np.mgrid[: 9 * scale, : 11 * scale].astype(np.uint8)
        for index in range(COUNT):
            channels = [rows + (100 if name == "b" else 0), columns, np.full_like(rows, index)]
            Image.fromarray(np.stack(channels, -1)).save(f"{name}{index}.png")
        lines = [f"{name}{index}.png {index % 3}\n" for index in range(COUNT)]
        Path(f"{name}.txt").write_text("".join(lines))


def layer(name: str, top: str | None = None, *, step: str = "", **settings: Any) -> LayerParameter:
    made = LayerParameter(name=name, type="ImageData", top=[top or name, f"{name}_label"])
    if step:
        made.in_step_with = step
    made.image_data_param.source, made.image_data_param.batch_size = f"{name}.txt", 4
    for key, value in settings.items():
        setattr(made.transform_param if key in ("crop_size", "mirror", "scale") else made.image_data_param, key, value)
    return made


def take(source: DataSource, count: int, workers: int = 0, start: int = 0) -> list[dict[str, np.ndarray]]:
    found = batches(source, start, workers=workers)
    try:
        return [{top: tensor.numpy() for top, tensor in blobs.items()} for blobs in islice(found, count)]
    finally:
        found.close()  # type: ignore[attr-defined]


LEADER = {"shuffle": True, "mirror": True, "crop_size": 5}


def test_each_record_has_its_partner_in_the_same_window_flipped_alike() -> None:
    layers = [layer("a", **LEADER), layer("b", step="a", crop_size=5)]
    (source,) = open_layers(layers, "TRAIN", seed=3)
    assert source.tops == ("a", "a_label", "b", "b_label")
    assert source.label_tops == ("a_label", "b_label")
    found = take(source, 9)
    for blobs in found:
        assert (blobs["a"][:, 0] == blobs["b"][:, 0]).all(), "channel blue: which record"
        assert (blobs["a"][:, 1] == blobs["b"][:, 1]).all(), "channel green: the column, flipped alike"
        assert (blobs["a"][:, 2] == blobs["b"][:, 2] - 100).all(), "channel red: the row, and which of the two lists"
        assert (blobs["a_label"] == blobs["b_label"]).all()
    columns = np.concatenate([blobs["a"][:, 1, 0] for blobs in found])
    assert {-1.0, 1.0} == set((columns[:, 1] - columns[:, 0]).tolist()), "some are flipped"
    assert len({tuple(sorted(row)) for row in columns.tolist()}) > 3, "windows are drawn"
    visited = [int(value) for blobs in found[:3] for value in blobs["a"][:, 0, 0, 0]]
    assert sorted(visited) == list(range(COUNT)) != visited


def test_windows_of_other_sizes_lie_in_proportion() -> None:
    (source,) = open_layers([layer("a", **LEADER), layer("big", step="a", crop_size=10)], "TRAIN", seed=3)
    for blobs in take(source, 9):
        small, large = blobs["a"].min((2, 3)), blobs["big"].min((2, 3))
        assert (np.abs(large[:, 1:] - 2 * small[:, 1:]) <= 1).all(), "rows and columns of 0..4 and 0..8"
        assert (large[:, 0] == small[:, 0]).all()


@pytest.mark.parametrize(("budget", "workers"), [(0, 0), (0, 2), (6 * 9 * 11 * 3 * COUNT // 2, 2)])
def test_any_number_of_workers_and_any_budget_give_the_same(budget: int, workers: int) -> None:
    layers = [layer("a", **LEADER), layer("big", step="a")]
    kept = take(open_layers(layers, "TRAIN", seed=3)[0], 7)
    found = take(open_layers(layers, "TRAIN", seed=3, budget=budget)[0], 7, workers)
    for one, other in zip(kept, found, strict=True):
        assert one.keys() == other.keys()
        for top, values in one.items():
            np.testing.assert_array_equal(values, other[top])


@pytest.mark.parametrize("workers", [0, 1])
def test_processes_share_the_batches_out_pair_by_pair(workers: int) -> None:
    layers = [layer("a", **LEADER), layer("b", step="a", crop_size=5)]
    budget = 0 if workers else 1 << 20
    whole = take(open_layers(layers, "TRAIN", seed=3)[0], 3)
    parts = [
        take(shard(open_layers(layers, "TRAIN", seed=3, budget=budget)[0], ShardSpec(rank, 2)), 3, workers)
        for rank in (0, 1)
    ]
    for number, blobs in enumerate(whole):
        shares = [part[number] for part in parts]
        assert all((share["a"][:, :2] == share["b"][:, :2]).all() for share in shares)
        assert np.concatenate([share["a"][:, 0, 0, 0] for share in shares]).tolist() == blobs["a"][:, 0, 0, 0].tolist()


@pytest.mark.parametrize("budget", [1 << 20, 0])
def test_one_list_in_two_preparations_is_decoded_once(budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    original = image_data.decode_image

    def count(data: bytes, **options: Any) -> Any:
        decoded.append(len(data))
        return original(data, **options)

    monkeypatch.setattr(image_data, "decode_image", count)
    second = layer("a", "again", step="a", scale=0.5, crop_size=5)
    (source,) = open_layers([layer("a", shuffle=True), second], "TRAIN", seed=3, budget=budget)
    found = take(source, 3)
    assert len(decoded) == 1 + COUNT, "the first one, and each once"
    for blobs in found:
        assert (blobs["again"].min((2, 3))[:, 0] == blobs["a"][:, 0, 0, 0] / 2).all()


def test_gray_and_colour_are_decoded_apart() -> None:
    second = layer("a", "gray", step="a", is_color=False)
    (source,) = open_layers([layer("a"), second], "TRAIN")
    assert source.shapes["gray"] == (4, 1, 9, 11)
    assert source.shapes["a"] == (4, 3, 9, 11)


def test_a_record_that_is_bad_in_one_is_skipped_in_both() -> None:
    Path("a1.png").write_bytes(b"nothing")
    Path("b2.png").write_bytes(b"nothing")
    layers = [layer("a"), layer("b", step="a")]
    for workers, budget in ((0, 1 << 20), (2, 0)):
        (source,) = open_layers(layers, "TEST", on_bad_record="skip", budget=budget)
        first = take(source, 1, workers)[0]
        assert first["a"][:, 0, 0, 0].tolist() == first["b"][:, 0, 0, 0].tolist() == [0, 3, 3, 3]
        assert first["a_label"].tolist() == [0, 0, 0, 0]
        assert set(source.bad) == {1, 2}
        assert list(bad_records([source])) == ["a.txt:2", "b.txt:3"]
    for index in range(COUNT):
        Path(f"{'ab'[index % 2]}{index}.png").write_bytes(b"nothing")
    (source,) = open_layers(layers, "TEST", on_bad_record="skip")
    with pytest.raises(DataError, match="no record is good in all data layers"):
        take(source, 1)


def other_list(lines: list[str]) -> None:
    Path("b.txt").write_text("".join(lines))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a, b: other_list(["b0.png 0\n"] * 11), "it has 11 records, and 'a' 12"),
        (lambda a, b: setattr(b.image_data_param, "batch_size", 3), "its batches hold 3 records, and those of 'a' 4"),
        (
            lambda a, b: other_list([f"b{i}.png {i % 3 if i != 7 else 2}\n" for i in range(COUNT)]),
            r"labels differ in 1 of 12 records, first at b\.txt:8 \(2, and 1 at a\.txt:8\)",
        ),
        (lambda a, b: setattr(b.transform_param, "mirror", True), "mirror is set here, but not in layer 'a'"),
        (lambda a, b: setattr(b.image_data_param, "shuffle", True), "shuffle is set here, but not in layer 'a'"),
        (lambda a, b: setattr(b.image_data_param, "rand_skip", 2), "rand_skip is set here"),
        (lambda a, b: setattr(b, "in_step_with", "c"), "no other data layer has the blob 'c'"),
        (lambda a, b: setattr(b, "in_step_with", "b"), "no other data layer has the blob 'b'"),
        (lambda a, b: setattr(a, "in_step_with", "b"), "the layer of 'b' is in step with 'a' itself"),
    ],
)
def test_what_is_no_step(change: Callable[[LayerParameter, LayerParameter], None], message: str) -> None:
    a, b = layer("a"), layer("b", step="a")
    change(a, b)
    with pytest.raises(DataError, match=message):
        open_layers([a, b], "TRAIN")


def test_arrays_cannot_be_flipped_with_pictures() -> None:
    leader = layer("a", mirror=True)
    arrays = {"x": np.arange(COUNT)[:, None]}
    follower = LayerParameter(name="x", type="MemoryData", top=["x"], in_step_with="a")
    with pytest.raises(DataError, match="mirrored at random, and MemoryData cannot be"):
        open_layers([leader, follower], "TRAIN", arrays=arrays)
    leader.transform_param.mirror, leader.image_data_param.shuffle = False, True
    follower = LayerParameter(name="x", type="Input", top=["x"], in_step_with="a")
    follower.input_param.shape.add(dim=[4, 1])
    (source,) = open_layers([leader, follower], "TRAIN", arrays=arrays)
    blobs = take(source, 1)[0]
    assert blobs["x"][:, 0].tolist() == blobs["a"][:, 0, 0, 0].tolist()


def test_plain_layers_that_draw_nothing_are_in_step_where_they_fit() -> None:
    (source,) = open_layers([layer("a"), layer("b")], "TRAIN")
    assert isinstance(source, InStep)
    assert len(members_of(source)) == 2
    assert source.deterministic
    assert list(source.keys) == [f"a{index}.png" for index in range(COUNT)]
    assert [isinstance(one, InStep) for one in open_layers([layer("a")], "TRAIN")] == [False], "one is no step"
    other_list([f"b{i}.png 0\n" for i in range(COUNT)])
    apart = open_layers([layer("a"), layer("b")], "TRAIN")
    assert len(apart) == 2, "their labels differ"
    with pytest.raises(DataError, match=r"predictions need data layers whose records(.|\n)*in_step_with: \"a\""):
        single_source(apart, "predictions need")
    Path("b.txt").write_text("".join(f"a{i}.png {i}\n" for i in range(COUNT)))
    (source,) = open_layers([layer("a"), layer("b")], "TRAIN")
    assert source.labels is not None
    assert source.labels.tolist() == [i % 3 for i in range(COUNT)], "several labels of one list: the first layer's"


def test_plain_layers_that_draw_are_independent_as_in_caffe_and_that_is_told() -> None:
    for one_alone in ([{"mirror": True}, {}], [{}, {"shuffle": True}]):
        with pytest.warns(UnpairedData):
            assert len(open_layers([layer(n, **more) for n, more in zip("ab", one_alone, strict=True)], "TRAIN")) == 2
    for settings in ({"shuffle": True}, {"mirror": True}):
        with pytest.warns(UnpairedData, match=r"'a' and 'b' hold 12 records each(.|\n)*in_step_with: \"a\""):
            a, b = open_layers([layer("a", **settings), layer("b", **settings)], "TRAIN", seed=3)
        one, other = take(a, 6), take(b, 6)
        key = 0 if "shuffle" in settings else 1
        pairs = [(x["a"][:, key, 0, 0], y["b"][:, key, 0, 0]) for x, y in zip(one, other, strict=True)]
        assert any((x != y).any() for x, y in pairs)
    other_list(["b0.png 0\n"] * 5)
    assert len(open_layers([layer("a", shuffle=True), layer("b", shuffle=True)], "TRAIN")) == 2, "no word: no pairs"


def test_a_member_that_draws_or_stays_on_disk_makes_the_whole_do_so() -> None:
    drawn, steady = (open_layers([layer("a", **more)], "TRAIN")[0] for more in ({"crop_size": 5}, {}))
    (far,) = open_layers([layer("a")], "TRAIN", budget=0)
    assert [InStep(pair).deterministic for pair in ((drawn, steady), (steady, steady))] == [False, True]
    assert [InStep(pair).in_memory for pair in ((far, steady), (steady, steady))] == [False, True]
    with pytest.warns(UnpairedData):
        assert len(open_layers([layer("a", crop_size=5), layer("b", crop_size=5)], "TRAIN")) == 2
    with pytest.raises(DataError, match="mixup needs a data layer, and this net has none"):
        single_source([], "mixup needs")


def test_layers_draw_by_their_number_and_the_seed() -> None:
    (alone,) = open_layers([layer("a", shuffle=True)], "TRAIN", seed=4)
    assert next(alone.order()).tolist() == next(open_source(layer("a", shuffle=True), "TRAIN", seed=4).order()).tolist()
    (default,) = open_layers([layer("a", shuffle=True)], "TRAIN")
    for source in (default, open_source(layer("a", shuffle=True), "TRAIN")):
        assert next(source.order()).tolist() == np.random.default_rng((0, 0)).permutation(COUNT)[:4].tolist()
    assert layer_seed(7, 0) == 7
    assert layer_seed(7, 2) == np.random.default_rng((7, 0xDA7A, 2)).integers(1 << 31)


def test_constant_blobs_go_with_anything() -> None:
    net = NetParameter()
    dummy = net.layer.add(name="ones", type="DummyData", top=["ones"])
    dummy.dummy_data_param.shape.add(dim=[4, 2])
    dummy.dummy_data_param.data_filler.add(type="constant", value=7)
    (source,) = open_layers([dummy, layer("a", shuffle=True)], "TRAIN")
    assert source.tops == ("a", "a_label", "ones")
    assert (source.batch(np.array([11, 5]))["ones"].numpy() == np.full((2, 2), 7)).all()
    dummy.dummy_data_param.data_filler[0].type = "uniform"
    assert len(open_layers([dummy, layer("a", shuffle=True)], "TRAIN")) == 2


def test_a_database_is_in_step_with_a_shuffled_list() -> None:
    pytest.importorskip("lmdb")
    from fusion.data.lmdb_leveldb import write_database

    records = [(b"%08d" % i, write_datum(Datum(1, 9, 11, i % 3, data=bytes([i]) * 99))) for i in range(COUNT)]
    write_database("db", records, lmdb=True)
    follower = LayerParameter(name="db", type="Data", top=["db"], in_step_with="a")
    follower.data_param.source, follower.data_param.batch_size = "db", 4
    follower.data_param.backend = follower.data_param.LMDB
    for budget, workers in ((1 << 20, 0), (0, 1)):
        (source,) = open_layers([layer("a", shuffle=True), follower], "TRAIN", seed=1, budget=budget)
        for blobs in take(source, 3, workers):
            assert (blobs["db"][:, 0, 0, 0] == blobs["a"][:, 0, 0, 0]).all()


@pytest.mark.parametrize(
    ("labels", "shuffle", "told"),
    [
        ([i // 30 for i in range(120)], False, "16 in a row hold 1.4 of 4 classes, and 4.0 if they were shuffled"),
        ([i // 30 for i in range(120)], True, None),
        ([i % 4 for i in range(120)], False, None),
        ([i // 60 for i in range(120)], False, "hold 1.1 of 2 classes, and 2.0"),
        ([int(i == 60) for i in range(120)], False, None),
        ([i // 4 for i in range(120)], False, "hold 4.0 of 30 classes, and 12.6"),
        ([i // 15 for i in range(30)], False, None),
        ([i // 16 for i in range(31)], False, None),
        ([i // 16 for i in range(32)], False, "16 in a row hold 1.0 of 2 classes, and 2.0"),
        ([i % 2 if i < 48 else i // 16 % 2 for i in range(128)], False, "16 in a row hold 1.4 of 2 classes"),
        ([i % 2 if i < 64 else i // 16 % 2 for i in range(128)], False, None),
    ],
)
def test_a_list_sorted_by_class_is_told(labels: list[int], shuffle: bool, told: str | None) -> None:
    Path("a.txt").write_text("".join(f"a0.png {label}\n" for label in labels))
    (source,) = open_layers([layer("a", shuffle=shuffle)], "TRAIN", seed=1)
    line = sorted_classes_warning(source)
    if told is None:
        assert line is None
    else:
        assert line is not None
        assert told in line
