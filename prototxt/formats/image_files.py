"""Open pictures of the supported formats and sizes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, Final

if TYPE_CHECKING:
    from PIL import Image

# Pillow supports many more, and for EPS starts Ghostscript, which runs code in the file.
FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
LONGEST_SIDE: Final = 65_535  # pixels, as JPEG has it


class TooLargeError(ValueError):
    """A picture is too large."""


@contextmanager
def open_picture(file: str | os.PathLike[str] | BinaryIO) -> Iterator[Image.Image]:
    """Open a picture, reading its header but not its pixels.

    Raises: PIL.UnidentifiedImageError (an OSError) for other formats, TooLargeError, and Pillow's errors for damage
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
