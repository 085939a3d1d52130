"""WindowData: Caffe's warped windows, found among all windows of their kind, since Caffe drew them at random."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusion.data import open_source
from fusion.data.source import ImageSource
from fusion.data.window_data import _clipped, _round, _widened
from fusion.data.window_files import WindowBox
from fusion.errors import DataError
from prototxt import load_net
from prototxt.formats.datum import write_mean
from prototxt.schema.messages import LayerParameter


def layer_of(path: Path) -> LayerParameter:
    return load_net(path).layer[0]


def windows(source: object) -> np.ndarray:
    assert isinstance(source, ImageSource)
    return source.batch(np.arange(len(source)))["data"].numpy()


def test_windows_of_caffe(golden: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(golden / "misc" / "windowdata")
    source = open_source(layer_of(Path("net.prototxt")), "TRAIN")
    expected = np.load("io.npz")
    assert source.labels is not None
    assert source.labels.tolist() == [1, 0, 0, 2, 0, 0]
    ours = windows(source)
    for window, label in zip(expected["data"], expected["label"], strict=True):
        same = [i for i in range(6) if np.array_equal(ours[i], window) and source.labels[i] == label]
        assert same, "no window of ours is this one"
    batch = source.batch(next(source.order()))
    assert [bool(label) for label in batch["label"].tolist()] == [bool(label) for label in expected["label"].tolist()]


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LayerParameter:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 24, 3)).astype(np.uint8)).save("a.png")
    Path("w.txt").write_text(
        "# 0\na.png\n3\n20\n24\n4\n3 0.8 2 3 12 14\n0 0.1 0 0 9 9\n1 0.4 5 5 9 9\n5 0.5 8 8 23 19\n"
    )
    layer = LayerParameter(name="d", type="WindowData", top=["data", "label"])
    layer.window_data_param.source = "w.txt"
    layer.window_data_param.batch_size = 8
    layer.window_data_param.bg_threshold = 0.3
    layer.transform_param.crop_size = 8
    return layer


def test_thresholds_and_proportion(made: LayerParameter) -> None:
    source = open_source(made, "TRAIN", seed=3)
    assert source.labels is not None
    assert source.labels.tolist() == [3, 0, 5]
    assert list(source.keys) == ["a.png:2,3,12,14", "a.png:0,0,9,9", "a.png:8,8,23,19"]
    drawn = np.stack(list(islice(source.order(), 50)))
    assert (source.labels[drawn[:, :6]] == 0).all()
    assert set(drawn[:, 6:].ravel()) == {0, 2}
    np.testing.assert_array_equal(next(source.order(17)), drawn[17])
    made.window_data_param.fg_threshold = 0.6
    source = open_source(made, "TRAIN")
    assert source.labels is not None
    assert source.labels.tolist() == [3, 0]


@pytest.mark.parametrize(
    ("overlap", "label"), [("0.5", 4), ("0.51", 4), ("0.49", None), ("0.3", None), ("0.29", 0), ("1", 4)]
)
def test_overlaps_at_the_thresholds(made: LayerParameter, overlap: str, label: int | None) -> None:
    text = Path("w.txt").read_text().replace("\n4\n3 0.8", f"\n5\n4 {overlap} 1 1 2 2\n3 0.8")
    Path("w.txt").write_text(f"\n{text}\n\n")
    source = open_source(made, "TRAIN")
    assert source.labels is not None
    assert source.labels.tolist() == ([] if label is None else [label]) + [3, 0, 5]
    assert source.place(len(source) - 1) == "w.txt:12"


@pytest.mark.parametrize("label", [2**31 - 1, -(2**31), 2**31])
def test_labels_have_32_bits(made: LayerParameter, label: int) -> None:
    Path("w.txt").write_text(Path("w.txt").read_text().replace("3 0.8", f"{label} 0.8"))
    if label == 2**31 - 1:
        assert open_source(made, "TRAIN").labels.tolist()[0] == label  # type: ignore[union-attr]
    else:
        with pytest.raises(DataError, match=r"w\.txt:7: a window was expected here"):
            open_source(made, "TRAIN")


@pytest.mark.parametrize(
    ("box", "fits"),
    [
        ("0 0 23 19", True),
        ("23 19 23 19", True),
        ("7 7 7 9", True),
        ("-1 0 9 9", False),
        ("0 -1 9 9", False),
        ("0 0 24 9", False),
        ("0 0 9 20", False),
        ("5 0 4 9", False),
        ("0 5 9 4", False),
    ],
)
def test_windows_lie_in_their_image(made: LayerParameter, box: str, fits: bool) -> None:
    Path("w.txt").write_text(Path("w.txt").read_text().replace("2 3 12 14", box))
    if fits:
        assert windows(open_source(made, "TRAIN")).shape == (3, 3, 8, 8)
    else:
        with pytest.raises(DataError, match=f"the window {box.replace(' ', ',')} does not lie in the image of 24x20"):
            open_source(made, "TRAIN").load()


@pytest.mark.parametrize(("shape", "fits"), [((3, 9, 10), True), ((3, 8, 10), False), ((3, 12, 7), False)])
def test_a_mean_file_gives_its_middle(made: LayerParameter, shape: tuple[int, ...], fits: bool) -> None:
    """The middle of its width, for the rows too, as in window_data_layer.cpp."""
    mean = np.arange(np.prod(shape), dtype=np.float64).reshape(shape)
    write_mean("mean.binaryproto", mean)
    plain = windows(open_source(made, "TRAIN"))
    made.transform_param.mean_file = "mean.binaryproto"
    if fits:
        np.testing.assert_array_equal(windows(open_source(made, "TRAIN")), plain - mean[:, 1:9, 1:9].astype(np.float32))
    else:
        with pytest.raises(DataError, match=f"the mean file is {shape[1]}x{shape[2]}, smaller than crop_size 8"):
            open_source(made, "TRAIN")


def test_two_mean_values_are_none_for_three_channels(made: LayerParameter) -> None:
    made.transform_param.mean_value.extend([1, 2])
    with pytest.raises(DataError, match="2 mean values for 3 channels"):
        open_source(made, "TRAIN")


def test_mean_scale_and_cache(made: LayerParameter) -> None:
    plain = windows(open_source(made, "TRAIN"))
    made.transform_param.mean_value.extend([10, 20, 30])
    made.window_data_param.scale = 0.5
    made.window_data_param.cache_images = True
    mean = np.array([10, 20, 30], np.float32).reshape(3, 1, 1)
    np.testing.assert_array_equal(windows(open_source(made, "TRAIN")), (plain - mean) * np.float32(0.5))


def test_padding_stays_zero_and_mirrors(made: LayerParameter) -> None:
    made.window_data_param.context_pad = 3
    made.transform_param.mean_value.append(200)
    one = windows(open_source(made, "TRAIN"))
    assert (one[1, :, :3] == 0).all(), "the window at the corner has nothing above it"
    assert (one[1, :, :, :3] == 0).all()
    made.transform_param.mirror = True
    source = open_source(made, "TRAIN", seed=1)
    assert not source.deterministic
    flipped = [source.batch(np.arange(3), draw=draw)["data"].numpy() for draw in range(8)]
    for draws in flipped:
        for index in range(3):
            assert any(np.array_equal(draws[index], form) for form in (one[index], one[index, :, :, ::-1]))
    assert any(not np.array_equal(draws, one) for draws in flipped)


def test_square_keeps_the_aspect(made: LayerParameter) -> None:
    made.window_data_param.crop_mode = "square"
    square = windows(open_source(made, "TRAIN"))
    made.window_data_param.crop_mode = "warp"
    warped = windows(open_source(made, "TRAIN"))
    assert not np.array_equal(square[2], warped[2])
    assert (square[2, :, -1] == 0).all(), "16 wide and 12 high, at the lower edge: beyond it is nothing"


def test_the_hash_is_that_of_settings_phase_and_windows(made: LayerParameter) -> None:
    hashes = [open_source(made, phase).fingerprint() for phase in ("TRAIN", "TRAIN", "TEST")]
    assert hashes[0] == hashes[1] != hashes[2]
    made.window_data_param.context_pad = 1
    hashes.append(open_source(made, "TRAIN").fingerprint())
    text = Path("w.txt").read_text()
    Path("w.txt").write_text(text.replace("2 3 12 14", "2 3 12 13"))
    hashes.append(open_source(made, "TRAIN").fingerprint())
    assert len(set(hashes)) == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no foreground window among 0"),
        ("# 0\na.png\n3\n20\n24\n1\n0 0.1 0 0 9 9\n", "no foreground window among 1"),
        ("# 0\na.png\n3\n20\n24\n1\n1 0.9 0 0 9 9\n", "no background window among 1"),
        ("# 1\na.png\n3\n20\n24\n0\n", "w.txt:1: the image's number is 1"),
        ("# 0\na.png\n1\n20\n24\n0\n", "the image has 1 channels here"),
        ("% 0\na.png\n3\n20\n24\n0\n", "w.txt:1: an image's six lines were expected here"),
        ("# 0\n\n3\n20\n24\n0\n", "w.txt:1: an image's six lines were expected here"),
        ("# 0\na.png\n3\n20\n24\n-1\n", "w.txt:1: an image's six lines were expected here"),
        ("# 0\na.png\n3\n", "w.txt:1: an image's six lines were expected here"),
        ("# 0\na.png\n3\n20\n24\n2\n1 0.9 0 0 9 9\n", "w.txt:8: a window was expected here: ''"),
        ("# 0\na.png\n3\n20\n24\n999999999999\n1 0.9 0 0 9 9\n", "w.txt:8: a window was expected here: ''"),
        (f"# 0\na.png\n3\n20\n24\n1\n{2**31} 0.9 0 0 9 9\n", "w.txt:7: a window was expected here: '2147483648 0.9"),
        ("# 0\na.png\n3\n20\n24\n1\n0 0.9 0 0 9 9\n", "w.txt:7: the label is 0"),
        ("# 0\na.png\n3\n20\n24\n2\n1 0.9 0 0 30 9\n0 0.1 1 1 2 2\n", "w.txt:7: the window 0,0,30,9 does not lie in"),
        ("# 0\nb.png\n3\n20\n24\n2\n1 0.9 0 0 3 9\n0 0.1 1 1 2 2\n", "w.txt:7: cannot read the image 'b.png'"),
    ],
)
def test_broken_files(text: str, message: str, made: LayerParameter) -> None:
    Path("w.txt").write_text(text)
    with pytest.raises(DataError) as error:
        open_source(made, "TRAIN")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("source", "absent", "cannot read the window file"),
        ("crop_mode", "round", "unknown crop_mode"),
        ("context_pad", 4, "leaves nothing"),
        ("batch_size", 0, "at least 1"),
    ],
)
def test_bad_settings(field: str, value: object, message: str, made: LayerParameter) -> None:
    setattr(made.window_data_param, field, value)
    with pytest.raises(DataError, match=message):
        open_source(made, "TRAIN")


def test_windows_need_a_size(made: LayerParameter) -> None:
    made.transform_param.ClearField("crop_size")
    with pytest.raises(DataError, match="crop_size must be given"):
        open_source(made, "TRAIN")


@pytest.mark.parametrize(
    ("arguments", "flip", "expected"),
    [
        ((-2, 9, 8, 24), False, (0, 7, 16, 4)),
        ((-1, 9, 8, 24), False, (0, 7, 17, 2)),
        ((-1, 9, 8, 24), True, (0, 7, 17, 4)),
        ((-1, 0, 3, 5), False, (0, 0, 2, 3)),  # both halves round up
        ((1, 2, 3, 8), True, (1, 2, 8, 0)),
    ],
)
def test_the_part_of_a_window_inside_the_image(
    arguments: tuple[int, int, int, int], flip: bool, expected: tuple[int, ...]
) -> None:
    assert _clipped(*arguments, flip=flip) == expected


def test_windows_are_widened_around_their_middle() -> None:
    box = WindowBox(0, 2, 3, 12, 14)
    assert _widened(box, 8, 1, square=False) == (0, 1, 15, 17)
    assert _widened(box, 8, 0, square=True) == (2, 3, 14, 15)
    assert _widened(WindowBox(0, 2, 3, 13, 12), 8, 0, square=True) == (2, 2, 14, 14)
    assert [_round(np.float32(value)) for value in (2.5, -2.5, 0.49, 3.5)] == [3, -3, 0, 4]


def test_windows_are_drawn_by_seed_and_batch(made: LayerParameter) -> None:
    made.window_data_param.batch_size, made.window_data_param.fg_fraction = 128, 0.3
    rng = np.random.default_rng((3, 2, 5))
    expected = [*np.array([1])[rng.integers(1, size=90)], *np.array([0, 2])[rng.integers(2, size=38)]]
    assert next(open_source(made, "TRAIN", seed=3).order(5)).tolist() == expected
