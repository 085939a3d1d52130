"""Pictures are opened up to a longest side, and by their format alone."""

from __future__ import annotations

import io

import pytest
from PIL import Image, UnidentifiedImageError

from prototxt.formats.image_files import LONGEST_SIDE, PictureError, TooLargeError, open_picture


def picture(size: tuple[int, int], kind: str = "PNG") -> io.BytesIO:
    file = io.BytesIO()
    Image.new("L", size).save(file, kind)
    file.seek(0)
    return file


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "GIF", "JPEG", "WEBP"])
def test_known_formats(kind: str) -> None:
    with open_picture(picture((3, 2), kind)) as opened:
        assert opened.size == (3, 2)


def test_other_formats() -> None:
    with pytest.raises(UnidentifiedImageError), open_picture(picture((3, 2), "PCX")):
        pass


def test_the_longest_side() -> None:
    with open_picture(picture((LONGEST_SIDE, 1))) as opened:
        assert opened.size == (LONGEST_SIDE, 1)
    for size in ((LONGEST_SIDE + 1, 1), (1, LONGEST_SIDE + 1)):
        message = rf"it has {size[0]} x {size[1]} pixels; no side may be longer than 65535"
        with pytest.raises(TooLargeError, match=message), open_picture(picture(size)):
            pass


def test_any_damage_is_one_error() -> None:
    """Of a PNG whose colour profile ends after its name Pillow 12 raises an IndexError, while it decodes."""
    with pytest.raises(PictureError, match="index out of range"), open_picture(picture((3, 2))):
        raise IndexError("index out of range")
