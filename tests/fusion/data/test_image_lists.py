"""Lists and pictures that cannot be read: named with line and remedy, all at once."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusion.data import check_label_range, open_source
from fusion.data.cv_resize import resize_bilinear
from fusion.data.decode_image import decode_image
from fusion.data.image_list import read_list
from fusion.data.sampler import Order, shuffled
from fusion.errors import DataError
from prototxt.schema.messages import LayerParameter


def layer(**fields: object) -> LayerParameter:
    made = LayerParameter(name="data", type="ImageData", top=["data", "label"])
    made.image_data_param.source = "list.txt"
    for name, value in fields.items():
        setattr(made.transform_param if name in ("crop_size", "mirror") else made.image_data_param, name, value)
    return made


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for index in range(5):
        Image.fromarray(rng.integers(0, 255, (8, 9, 3)).astype(np.uint8)).save(f"a b{index}.png")
    Path("list.txt").write_text("".join(f"a b{index}.png {index % 3}\n" for index in range(5)))


def test_names_may_hold_blanks(pictures: None) -> None:
    source = open_source(layer(batch_size=2), "TEST")
    assert list(source.keys) == [f"a b{index}.png" for index in range(5)]
    assert source.labels is not None
    assert source.labels.tolist() == [0, 1, 2, 0, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "list.txt: the image list is empty"),
        ("\n \n", "list.txt: the image list is empty"),
        ("a.png 1\nb.png\n", "list.txt:2: the line has no label"),
        ("a.png one\n", "list.txt:1: the label 'one' is not an integer"),
        ("a.png 1.5\n", "the label '1.5' is not an integer"),
    ],
)
def test_broken_lists(text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("list.txt").write_text(text)
    with pytest.raises(DataError) as error:
        read_list("list.txt")
    assert message in str(error.value)
    assert "hint:" in str(error.value)


def test_missing_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="cannot read the image list"):
        open_source(layer(), "TEST")


def test_many_broken_lines_are_counted(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("x\n" * 100)
    with pytest.raises(DataError) as error:
        read_list(tmp_path / "list.txt")
    assert len(error.value.errors) == 21
    assert "80 more lines" in str(error.value)


def test_windows_line_ends_and_a_bom(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfa.png 1\r\nb.png 2\r\n")
    assert read_list(tmp_path / "list.txt").names == ("a.png", "b.png")


def test_labels_out_of_range(pictures: None) -> None:
    source = open_source(layer(), "TEST")
    with pytest.raises(DataError, match=r"list.txt:3: label 2 is out of range 0..1"):
        check_label_range(source, 2)
    check_label_range(source, 3)
    check_label_range(source, 2, ignore=2)


def test_sizes_that_differ_in_one_batch(pictures: None) -> None:
    Image.new("RGB", (4, 4)).save("a b1.png")
    source = open_source(layer(batch_size=3), "TEST")
    with pytest.raises(DataError, match=r"list.txt:2: this image is 3x4x4"):
        source.batch(np.arange(3))


def test_crop_larger_than_the_picture(pictures: None) -> None:
    with pytest.raises(DataError, match="smaller than crop_size 20"):
        open_source(layer(crop_size=20), "TEST")


def test_random_windows_are_reproducible(pictures: None) -> None:
    made = layer(batch_size=5, crop_size=4, mirror=True)
    one, other = (open_source(made, "TRAIN", seed=7) for _ in range(2))
    assert not one.deterministic
    first = one.batch(np.arange(5), draw=3)["data"]
    np.testing.assert_array_equal(first, other.batch(np.arange(5), draw=3)["data"])
    assert not np.array_equal(first, one.batch(np.arange(5), draw=4)["data"])


def test_a_window_is_a_part_of_the_picture(pictures: None) -> None:
    whole = open_source(layer(batch_size=5), "TRAIN").batch(np.arange(5))["data"].numpy()
    cut = open_source(layer(batch_size=5, crop_size=7), "TRAIN", seed=1).batch(np.arange(5))["data"].numpy()
    for picture, window in zip(whole, cut, strict=True):
        places = [picture[:, y : y + 7, x : x + 7] for y in range(2) for x in range(3)]
        assert any(np.array_equal(window, place) for place in places)


def test_shuffling_visits_all_records_each_epoch(pictures: None) -> None:
    source = open_source(layer(batch_size=2, shuffle=True), "TRAIN", seed=4)
    visited = np.concatenate(list(islice(source.order(), 5)))
    assert sorted(visited[:5]) == sorted(visited[5:]) == list(range(5))
    again = open_source(layer(batch_size=2, shuffle=True), "TRAIN", seed=4)
    np.testing.assert_array_equal(np.concatenate(list(islice(again.order(3), 2))), visited[6:])


def test_order_starts_anywhere() -> None:
    for permutation in (None, shuffled(7, 1)):
        order = Order(7, 3, skip=2, permutation=permutation)
        whole = list(islice(order.batches(), 6))
        for start in range(6):
            np.testing.assert_array_equal(next(order.batches(start)), whole[start])


def test_fingerprint_follows_files_and_transform(pictures: None) -> None:
    before = open_source(layer(), "TEST").fingerprint()
    assert open_source(layer(), "TEST").fingerprint() == before
    assert open_source(layer(crop_size=4), "TEST").fingerprint() != before
    Image.new("RGB", (9, 8)).save("a b4.png")
    assert open_source(layer(), "TEST").fingerprint() != before


def test_a_small_memory_budget_gives_the_same_batches(pictures: None) -> None:
    kept, live = (open_source(layer(batch_size=3), "TEST", budget=budget) for budget in (1 << 20, 0))
    kept.load()
    for indices in islice(kept.order(), 4):
        np.testing.assert_array_equal(kept.batch(indices)["data"], live.batch(indices)["data"])


@pytest.mark.parametrize("quality", [20, 75, 95])
def test_gray_jpegs_decode_as_pillow_does(quality: int, tmp_path: Path) -> None:
    pixels = np.random.default_rng(quality).integers(0, 255, (28, 31)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.jpg", quality=quality)
    data = (tmp_path / "x.jpg").read_bytes()
    with Image.open(tmp_path / "x.jpg") as picture:
        np.testing.assert_array_equal(decode_image(data, color=False)[0], np.asarray(picture))


def test_cut_off_jpegs_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8)).save(tmp_path / "x.jpg")
    data = (tmp_path / "x.jpg").read_bytes()
    for end in (0, 3, 30, 200, len(data) // 2):
        with pytest.raises(ValueError, match=r".*"):
            decode_image(data[:end], color=False)


def test_half_size_averages() -> None:
    picture = np.array([[0, 1], [2, 4]], np.uint8)
    assert resize_bilinear(picture, 1, 1).tolist() == [[2]]
