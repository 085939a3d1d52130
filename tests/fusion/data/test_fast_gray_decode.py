"""The short way through a gray picture gives what the long way gives, or leaves it to the long way."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from fusion.data.decode_image import UndecodableError, decode_image
from fusion.data.fast_gray_decode import gray_pixels

rng = np.random.default_rng(0)
SMOOTH = np.add.outer(np.arange(28) * 5, np.arange(28) * 3).astype(np.uint8)
NOISE = rng.integers(0, 256, (9, 13)).astype(np.uint8)


def saved(picture: Image.Image | np.ndarray, kind: str, **options: object) -> bytes:
    content = io.BytesIO()
    whole = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    whole.save(content, kind, **options)
    return content.getvalue()


def long_way(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert("L"))


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


@pytest.mark.parametrize(
    "pixels", [SMOOTH, NOISE, np.tile(NOISE, (30, 30)), NOISE[:1, :1]], ids=["smooth", "noise", "large", "dot"]
)
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_plain_gray_pictures_take_the_short_way(pixels: np.ndarray, kind: str) -> None:
    data = saved(pixels, kind)
    found = gray_pixels(data)
    assert found is not None
    np.testing.assert_array_equal(found, long_way(data))
    for color in (False, None):
        np.testing.assert_array_equal(decode_image(data, color=color), found[None])


def test_every_filter_of_a_png_s_rows() -> None:
    rows = b"".join(bytes([filter_]) + NOISE[filter_].tobytes() for filter_ in range(5))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", NOISE.shape[1], 5, 8, 0, 0, 0, 0))
    packed = zlib.compress(rows)
    parts = chunk(b"IDAT", packed[:7]) + chunk(b"IDAT", packed[7:])
    data = b"\x89PNG\r\n\x1a\n" + head + chunk(b"tEXt", b"Title\0noise") + parts + chunk(b"IEND", b"")
    found = gray_pixels(data)
    assert found is not None
    np.testing.assert_array_equal(found, long_way(data))


def unusual() -> dict[str, bytes]:
    gray = Image.fromarray(NOISE)
    exif = Image.Exif()
    exif[274] = 6  # turned
    return {
        "colour png": saved(gray.convert("RGB"), "PNG"),
        "colour jpeg": saved(gray.convert("RGB"), "JPEG"),
        "palette": saved(gray.convert("P"), "PNG"),
        "one bit": saved(gray.convert("1"), "PNG"),
        "sixteen bits": saved(Image.fromarray(NOISE.astype(np.uint16) * 257), "PNG"),
        "alpha": saved(gray.convert("LA"), "PNG"),
        "transparent": saved(gray, "PNG", transparency=3),
        "turned jpeg": saved(gray, "JPEG", exif=exif),
        "turned png": saved(gray, "PNG", exif=exif),
        "gif": saved(gray, "GIF"),
        "bmp": saved(gray, "BMP"),
    }


@pytest.mark.parametrize("name", unusual())
def test_what_is_unusual_takes_the_long_way(name: str) -> None:
    data = unusual()[name]
    assert gray_pixels(data) is None
    assert decode_image(data, color=False).ndim == 3


def test_remarks_in_a_png_change_nothing() -> None:
    info = PngInfo()
    info.add_text("Author", "nobody")
    data = saved(NOISE, "PNG", pnginfo=info, dpi=(72, 72), gamma=0.45)
    found = gray_pixels(data)
    assert found is not None
    np.testing.assert_array_equal(found, NOISE)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@settings(max_examples=150)
@given(at=st.floats(0, 0.999), byte=st.integers(0, 255), cut=st.booleans())
def test_damage_is_never_taken_for_pixels_by_the_short_way_alone(kind: str, at: float, byte: int, cut: bool) -> None:
    data = bytearray(saved(SMOOTH, kind))
    place = int(at * len(data))
    if cut:
        del data[place:]
    else:
        data[place] = byte
    found = gray_pixels(bytes(data))
    if found is None:
        return
    try:
        np.testing.assert_array_equal(found, long_way(bytes(data)))
    except OSError as error:  # the pixels are whole, but what follows them is not
        pytest.fail(str(error))


def test_a_header_that_promises_much_costs_nothing() -> None:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")
    assert gray_pixels(data) is None
    with pytest.raises(UndecodableError):
        decode_image(data, color=False)


@pytest.mark.parametrize("cut", ["header", "rows", "end"])
def test_a_png_without_one_of_its_parts_is_left_to_the_long_way(cut: str) -> None:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    parts = {"header": head, "rows": chunk(b"IDAT", zlib.compress(bytes(2))), "end": chunk(b"IEND", b"")}
    whole = gray_pixels(b"\x89PNG\r\n\x1a\n" + b"".join(parts.values()))
    assert whole is not None
    assert whole.tolist() == [[0]]
    assert gray_pixels(b"\x89PNG\r\n\x1a\n" + b"".join(part for name, part in parts.items() if name != cut)) is None


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(
    ("kind", "body", "short"),
    [
        (b"gAMA", bytes(4), True), (b"gAMA", bytes(3), False), (b"tEXt", b"a\0b", True),
        (b"tEXt", b"a\0" + bytes(4095), False), (b"acTL", bytes(2), False), (b"tRNS", bytes(2), False),
        (b"pHYs", bytes(9), True), (b"zTXt", b"a\0\0x", False), (b"PLTE", bytes(3), False),
    ],
)  # fmt: skip
def test_pngs_whose_notes_may_be_damaged_are_left_to_the_long_way(
    kind: bytes, body: bytes, short: bool, after: bool
) -> None:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    parts = [chunk(b"IDAT", zlib.compress(b"\0\x07")), chunk(kind, body)]
    data = b"\x89PNG\r\n\x1a\n" + head + b"".join(parts if after else parts[::-1]) + chunk(b"IEND", b"")
    found = gray_pixels(data)
    assert (found is not None) is short
    if found is not None:
        np.testing.assert_array_equal(found, long_way(data))
