"""Opening pictures, in one place: the formats that are meant, and sizes that can be worked with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, Final

if TYPE_CHECKING:
    from PIL import Image

# Pillow knows many more, and starts Ghostscript, a program that runs code, for EPS.
FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
LONGEST_SIDE: Final = 65_535  # pixels, as JPEG has it


class TooLargeError(ValueError):
    """A picture has a side that nothing here can work with."""


@contextmanager
def open_picture(file: str | os.PathLike[str] | BinaryIO) -> Iterator[Image.Image]:
    """A picture whose header is read and whose pixels are not.

    Raises: PIL.UnidentifiedImageError (an OSError) for other formats, TooLargeError, and what Pillow raises for damage
    """
    from PIL import Image

    try:
        opened = Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise TooLargeError(str(error)) from None
    with opened as picture:
        if max(picture.size) > LONGEST_SIDE:
            size = " x ".join(map(str, picture.size))
            raise TooLargeError(f"it has {size} pixels; no side may be longer than {LONGEST_SIDE}")
        yield picture
