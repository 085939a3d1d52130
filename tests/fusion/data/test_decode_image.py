"""Pictures are opened in the formats that are meant, with sides that can be worked with, and resized as OpenCV does."""

from __future__ import annotations

import io
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from fusion.data import cv_resize
from fusion.data.cv_resize import resize_bilinear
from fusion.data.decode_image import UndecodableError, decode_image
from fusion.data.encode_image import encode_image
from fusion.errors import DataError
from fusion.report.images import data_uri
from fusion.serving.images import Refusal, check_picture
from prototxt.formats.image_files import FORMATS, LONGEST_SIDE

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"


def saved(pixels: np.ndarray, kind: str) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, kind)
    return content.getvalue()


@pytest.mark.parametrize(
    ("kind", "weights", "rounding", "shift"),
    [("PNG", (9797, 19234, 3737), 0, 15), ("BMP", (4899, 9617, 1868), 8192, 14)],
)
def test_gray_of_colours_is_opencv_s_to_the_last_bit(
    kind: str, weights: tuple[int, int, int], rounding: int, shift: int
) -> None:
    """Also of colours whose sum lies one below the next gray; libpng's sums are truncated, OpenCV's rounded."""
    pixels = np.random.default_rng(0).integers(0, 256, (400, 400, 3)).astype(np.uint8)
    sums = pixels.astype(np.int64) @ np.array(weights) + rounding
    assert {0, (1 << shift) - 1} <= set((sums & ((1 << shift) - 1)).ravel().tolist())
    np.testing.assert_array_equal(decode_image(saved(pixels, kind), color=False)[0], sums >> shift)


def test_numbers_of_a_palette_are_no_gray() -> None:
    picture = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4), "P")
    picture.putpalette([255 - 20 * index for index in range(12) for _ in range(3)])
    content = io.BytesIO()
    picture.save(content, "PNG")
    for color in (False, None):
        found = decode_image(content.getvalue(), color=color)
        np.testing.assert_array_equal(found[0].ravel(), 255 - 20 * np.arange(12))


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_that_is_meant_is_read(kind: str) -> None:
    pixels = np.full((5, 7, 3), 200, np.uint8)
    found = decode_image(saved(pixels, kind), color=True)
    assert found.shape == (3, 5, 7)
    assert np.abs(found.astype(int) - 200).max() <= 2
    check_picture(saved(pixels, kind))


def test_no_picture_starts_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was started"))
    with pytest.raises(UndecodableError, match="it is in no known format"):
        decode_image(EPS, color=True)
    (tmp_path / "a.eps").write_bytes(EPS)
    assert data_uri(tmp_path / "a.eps") is None
    with pytest.raises(Refusal):
        check_picture(EPS)


@pytest.mark.parametrize("shape", [(LONGEST_SIDE + 1, 1), (1, LONGEST_SIDE + 1)])
def test_a_side_that_is_too_long_is_refused_before_decoding(shape: tuple[int, int]) -> None:
    for pixels in (np.zeros(shape, np.uint8), np.zeros((*shape, 3), np.uint8)):
        data = saved(pixels, "PNG")
        for color in (True, False, None):
            with pytest.raises(UndecodableError, match="no side may be longer than 65535"):
                decode_image(data, color=color, size=(4, 4))
        with pytest.raises(Refusal, match="or a side over 65535"):
            check_picture(data)
    assert decode_image(saved(np.zeros((LONGEST_SIDE, 1), np.uint8), "PNG"), color=None, size=(4, 4)).shape == (1, 4, 4)


@pytest.mark.parametrize(
    ("shape", "size"),
    [((37, 50, 3), (5, 7)), ((300, 4), (3, 9)), ((9, 9, 3), (8, 8)), ((7, 5), (20, 31)), ((3, 3), (3, 9))],
)
def test_picking_rows_first_changes_no_pixel(
    shape: tuple[int, ...], size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8)
    found = resize_bilinear(picture, *size)
    for worth in (0.0, 2.0):
        monkeypatch.setattr(cv_resize, "_WORTH", worth)
        np.testing.assert_array_equal(resize_bilinear(picture, *size), found)


def test_a_tall_picture_takes_memory_for_the_rows_that_it_needs() -> None:
    picture = np.zeros((2_000_000, 1), np.uint8)
    tracemalloc.start()
    try:
        assert resize_bilinear(picture, 4, 4).shape == (4, 4)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20  # working through all rows took 80 MB
    finally:
        tracemalloc.stop()


def test_planes_of_colour_and_of_gray() -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (9, 13, 3)).astype(np.uint8)
    data = saved(pixels, "JPEG")
    with Image.open(io.BytesIO(data)) as picture:
        expected = np.asarray(picture)
    np.testing.assert_array_equal(decode_image(data, color=True), expected[:, :, ::-1].transpose(2, 0, 1))
    np.testing.assert_array_equal(decode_image(data, color=None), expected[:, :, ::-1].transpose(2, 0, 1))
    with Image.open(io.BytesIO(data)) as picture:
        picture.draft("YCbCr", picture.size)
        np.testing.assert_array_equal(decode_image(data, color=False)[0], np.asarray(picture)[:, :, 0])


def test_deep_gray_keeps_its_upper_byte() -> None:
    gray = np.random.default_rng(2).integers(0, 256, (9, 13)).astype(np.uint8)
    data = saved(gray.astype(np.uint16) * 256 + 255, "PNG")
    for color, planes in ((False, 1), (None, 1), (True, 3)):
        np.testing.assert_array_equal(decode_image(data, color=color), np.stack([gray] * planes))


@pytest.mark.parametrize(("kind", "shape"), [("JPEG", (13, 9)), ("PNG", (9, 13))])
def test_only_jpegs_are_turned(kind: str, shape: tuple[int, int]) -> None:
    exif, content = Image.Exif(), io.BytesIO()
    exif[274] = 6
    Image.fromarray(np.zeros((9, 13, 3), np.uint8)).save(content, kind, exif=exif)
    for color in (True, False, None):
        assert decode_image(content.getvalue(), color=color).shape[1:] == shape


def test_sides_halve_alone_or_together() -> None:
    """A third takes the middle line, a half the mean of two, double keeps a single line; both halves average four."""
    pixels = np.random.default_rng(3).integers(0, 128, (6, 6)).astype(np.uint8) * 2
    mean = pixels.astype(int).reshape(3, 2, 3, 2).sum((1, 3))
    np.testing.assert_array_equal(resize_bilinear(pixels, 3, 3), (mean + 2) // 4)
    pairs = pixels.astype(int).reshape(6, 3, 2).sum(2)
    np.testing.assert_array_equal(resize_bilinear(pixels, 2, 3), (pairs[1::3] + 1) // 2)
    np.testing.assert_array_equal(resize_bilinear(pixels.T, 3, 2), ((pairs[1::3] + 1) // 2).T)
    np.testing.assert_array_equal(resize_bilinear(pixels[:1], 2, 3), np.repeat(pairs[:1], 2, 0) // 2)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpegs_are_written_at_opencv_s_quality(channels: int) -> None:
    pixels = np.random.default_rng(4).integers(0, 256, (channels, 8, 9)).astype(np.uint8)
    rows = pixels[0] if channels == 1 else pixels[::-1].transpose(1, 2, 0)
    content = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(rows)).save(content, "JPEG", quality=95)
    assert encode_image(pixels, "jpg") == content.getvalue()
    with pytest.raises(DataError, match="images cannot be encoded as 'xyz'"):
        encode_image(pixels, "xyz")


@pytest.mark.parametrize(
    ("height", "width", "bits"), [(16, 15, 8), (1, 256, 9), (2, 255, 9), (128, 127, 14), (1, 16384, 15)]
)
def test_the_window_of_a_png_is_the_smallest_that_holds_its_rows(height: int, width: int, bits: int) -> None:
    data = encode_image(np.zeros((1, height, width), np.uint8), "png")
    assert data[41] == (bits - 8) << 4 | 8
    assert not decode_image(data, color=False).any()


def test_a_png_of_many_parts() -> None:
    pixels = np.random.default_rng(5).integers(0, 256, (3, 90, 100)).astype(np.uint8)
    data = encode_image(pixels, "png")
    assert data.count(b"\0\0\x20\0IDAT") == 3
    np.testing.assert_array_equal(decode_image(data, color=True), pixels)
