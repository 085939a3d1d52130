"""Images, arrays and messages. The expected numbers of resizing were written by scikit-image 0.14 and SciPy 1.2."""

from __future__ import annotations

import io as streams
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusion.errors import DataError
from fusion.pycaffe import io
from fusion.pycaffe.proto import caffe_pb2

RGB = np.arange(24, dtype=np.uint8).reshape(2, 4, 3) * 10


def saved(path: Path, pixels: np.ndarray, mode: str | None = None, **options: object) -> str:
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path, **options)
    return str(path)


def test_a_blob_keeps_its_shape_and_gradients() -> None:
    array = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
    blob = io.array_to_blobproto(array, diff=array + 10)
    assert (list(blob.shape.dim), list(blob.diff)) == ([1, 2, 3], [10, 11, 12, 13, 14, 15])
    assert np.array_equal(io.blobproto_to_array(blob), array)
    assert np.array_equal(io.blobproto_to_array(blob, return_diff=True), array + 10)
    old = caffe_pb2.BlobProto(num=1, channels=1, height=2, width=3, data=range(6))
    assert io.blobproto_to_array(old).tolist() == [[[[0, 1, 2], [3, 4, 5]]]]
    with pytest.raises(ValueError, match=r"into shape \(\)"):
        io.blobproto_to_array(caffe_pb2.BlobProto(data=[1, 2]))
    with pytest.raises(ValueError, match=r"into shape \(0,0,1,2\)"):
        io.blobproto_to_array(caffe_pb2.BlobProto(height=1, width=2, data=[1, 2]))


def test_lists_of_arrays_are_bytes_and_back() -> None:
    arrays = [np.ones((2, 1)), np.full(3, 2.5)]
    back = io.blobprotovector_str_to_arraylist(io.arraylist_to_blobprotovector_str(arrays))
    assert [array.tolist() for array in back] == [[[1], [1]], [2.5, 2.5, 2.5]]


def test_a_datum_of_bytes_and_one_of_numbers() -> None:
    pixels = RGB.transpose(2, 0, 1)
    datum = io.array_to_datum(pixels, label=7)
    assert (datum.channels, datum.height, datum.width, datum.label) == (3, 2, 4, 7)
    assert datum.data == pixels.tobytes()
    back = io.datum_to_array(datum)
    assert back.dtype == np.uint8
    assert np.array_equal(back, pixels)
    numbers = io.array_to_datum(pixels / 4)
    assert (numbers.HasField("label"), numbers.HasField("data")) == (False, False)
    assert np.array_equal(io.datum_to_array(numbers), pixels / 4)
    with pytest.raises(ValueError, match=r"three axes, not 2"):
        io.array_to_datum(np.ones((2, 2)))
    with pytest.raises(DataError, match="encoded image"):
        io.datum_to_array(caffe_pb2.Datum(encoded=True, data=b"x"))


def test_images_are_loaded_in_colour_and_in_gray(tmp_path: Path) -> None:
    colour = saved(tmp_path / "rgb.png", RGB)
    assert np.array_equal(io.load_image(colour), (RGB / 255).astype(np.float32))
    luma = (RGB / 255) @ [0.2125, 0.7154, 0.0721]
    assert np.array_equal(io.load_image(colour, color=False), luma[:, :, None].astype(np.float32))
    gray = saved(tmp_path / "gray.png", RGB[:, :, 0])
    assert np.array_equal(io.load_image(gray), np.repeat(RGB[:, :, :1] / 255, 3, axis=2).astype(np.float32))
    assert io.load_image(gray, color=False).shape == (2, 4, 1)


def test_other_modes_of_images(tmp_path: Path) -> None:
    alpha = np.dstack([RGB, np.full((2, 4), 9, np.uint8)])
    assert np.array_equal(io.load_image(saved(tmp_path / "rgba.png", alpha)), (RGB / 255).astype(np.float32))
    deep = np.array([[0, 65_535, 13_107]], np.uint16)
    loaded = io.load_image(saved(tmp_path / "deep.png", deep), color=False)
    assert np.array_equal(loaded[0, :, 0], np.float32([0, 1, 0.2]))
    assert io.load_image(saved(tmp_path / "p.png", RGB, "P")).shape == (2, 4, 3)
    yellow = np.full((2, 4, 3), (90, 90, 30), np.uint8)
    yellow[0, 0] = 0
    Image.fromarray(yellow).quantize(2).save(tmp_path / "yellow.png")
    assert np.array_equal(io.load_image(tmp_path / "yellow.png"), (yellow / 255).astype(np.float32))
    palette = io.load_image(saved(tmp_path / "gray_p.png", RGB[:, :, 0], "P"), color=False)
    assert np.array_equal(palette[:, :, 0], (RGB[:, :, 0] / 255).astype(np.float32))
    bits = io.load_image(saved(tmp_path / "bits.png", np.array([[0, 255]], np.uint8), "1"), color=False)
    assert bits[0, :, 0].tolist() == [0, 1]
    with open(tmp_path / "p.png", "rb") as file:
        assert np.array_equal(io.load_image(streams.BytesIO(file.read())), io.load_image(str(tmp_path / "p.png")))


def test_no_image(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"x\.jpg: it is in no known format"):
        io.load_image(str(tmp_path / "x.jpg"))
    good = Path(saved(tmp_path / "good.png", RGB)).read_bytes()
    (tmp_path / "cut.png").write_bytes(good[:-40])
    with pytest.raises(DataError, match=r"cut\.png"):
        io.load_image(str(tmp_path / "cut.png"))
    deep = saved(tmp_path / "deep.tif", np.array([[0, 65_536]], np.int32))
    with pytest.raises(DataError, match=r"deep\.tif: its pixels have more than 16 bits"):
        io.load_image(deep)
    with pytest.raises(FileNotFoundError):
        io.load_image(str(tmp_path / "none.png"))


def test_resizing_three_channels_reads_the_smallest_value_beyond_the_border() -> None:
    row = np.float32([2, 6, 4, 10])[None, :, None]
    # centres of the eight pixels are at -0.25, 0.25, ..., 3.25
    expected = [2, 3, 5, 5.5, 4.5, 5.5, 8.5, 8]
    found = io.resize_image(row, (1, 8))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[0, :, 0], expected, rtol=1e-6)
    three = io.resize_image(np.repeat(row, 3, axis=2), (1, 8))
    np.testing.assert_allclose(three, np.repeat(found, 3, axis=2), rtol=1e-6)
    np.testing.assert_allclose(io.resize_image(row, (1, 2))[0, :, 0], [4, 7])  # nothing is averaged over more
    assert io.resize_image(row, (1, 3), interp_order=0)[0, :, 0].tolist() == [2, 4, 10]
    assert io.resize_image(row, np.array([1, 4])).tolist() == row.tolist()


def test_resizing_other_channels_puts_corners_on_corners() -> None:
    image = np.float32([[0, 4, 2], [8, 0, 6]])[:, :, None] * np.float32([1, 10])
    found = io.resize_image(image, (3, 5))
    expected = [[0, 2, 4, 3, 2], [4, 3, 2, 3, 4], [8, 4, 0, 3, 6]]
    np.testing.assert_allclose(found[:, :, 0], expected)
    np.testing.assert_allclose(found[:, :, 1], np.array(expected) * 10)
    assert io.resize_image(np.uint8([[[0, 1], [1, 2]]]), (1, 3))[0].tolist() == [[0, 1], [1, 2], [1, 2]]


def test_constant_images_and_orders() -> None:
    constant = io.resize_image(np.full((4, 4, 3), 7, np.uint8), (3, 2))
    assert (constant.shape, constant.dtype, set(constant.flat)) == ((3, 2, 3), np.float32, {7})
    with pytest.raises(DataError, match=r"interp_order 3 is a spline.*\n.*scipy"):
        io.resize_image(np.zeros((2, 2, 3)), (4, 4), interp_order=3)


def test_oversampling_cuts_corners_and_centre_and_mirrors_them() -> None:
    image = np.arange(5 * 6, dtype=float).reshape(5, 6, 1)
    crops = io.oversample([image, image + 100], (2, 3))
    assert (crops.shape, crops.dtype) == ((20, 2, 3, 1), np.float32)
    assert crops[:5, 0, 0, 0].tolist() == [0, 3, 18, 21, 7]  # the centre is at (1.5, 1.5), rounded down
    assert crops[0, :, :, 0].tolist() == [[0, 1, 2], [6, 7, 8]]
    assert np.array_equal(crops[5:10], crops[:5, :, ::-1])
    assert np.array_equal(crops[10:], crops[:10] + 100)


@pytest.fixture
def transformer() -> io.Transformer:
    result = io.Transformer({"data": (10, 3, 2, 4)})
    result.set_transpose("data", (2, 0, 1))
    result.set_channel_swap("data", (2, 1, 0))
    result.set_raw_scale("data", 255)
    result.set_mean("data", np.array([1.0, 2, 3]))
    result.set_input_scale("data", 0.5)
    return result


def test_preparing_an_image_and_back(transformer: io.Transformer) -> None:
    image = (RGB / 255).astype(np.float32)
    given = image.copy()
    prepared = transformer.preprocess("data", image)
    expected = (RGB.transpose(2, 0, 1)[::-1] - np.array([1.0, 2, 3])[:, None, None]) / 2
    np.testing.assert_allclose(prepared, expected, rtol=1e-5, atol=1e-5)
    assert np.array_equal(image, given)  # Caffe scales the caller's array where nothing else copies it
    np.testing.assert_allclose(transformer.deprocess("data", prepared[None]), image, atol=1e-6)
    assert transformer.preprocess("data", np.zeros((5, 5, 3))).shape == (3, 2, 4)


def test_a_mean_image_is_resized(transformer: io.Transformer) -> None:
    mean = np.arange(3 * 4 * 8, dtype=float).reshape(3, 4, 8) + 50
    transformer.set_mean("data", mean)
    expected = mean.reshape(3, 2, 2, 4, 2).mean((2, 4))  # half the size: each pixel lies between four
    np.testing.assert_allclose(transformer.mean["data"], expected, rtol=1e-6)
    same = np.ones((3, 2, 4))
    transformer.set_mean("data", same)
    assert transformer.mean["data"] is same
    transformer.set_mean("data", np.full((3, 5, 5), 4.0))
    assert transformer.mean["data"].tolist() == np.full((3, 2, 4), 4).tolist()


def test_settings_that_do_not_fit(transformer: io.Transformer) -> None:
    for change, message in (
        (lambda: transformer.set_transpose("data", (1, 0)), "the 3 dimensions of the input, not 2"),
        (lambda: transformer.set_channel_swap("data", (1, 0)), "the 3 channels of the input, not 2"),
        (lambda: transformer.set_mean("data", np.ones(2)), "2 instead of 3"),
        (lambda: transformer.set_mean("data", np.ones((1, 3, 2, 4))), "Mean shape invalid"),
        (lambda: transformer.set_raw_scale("label", 1), "label is not one of the net inputs: data"),
        (lambda: transformer.preprocess("label", RGB), "label is not one of the net inputs: data"),
    ):
        with pytest.raises(ValueError, match=message):
            change()
