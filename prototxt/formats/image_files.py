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


class PictureError(ValueError):
    """A picture is damaged, or in a form that cannot be decoded."""


class TooLargeError(PictureError):
    """A picture is too large."""


@contextmanager
def open_picture(file: str | os.PathLike[str] | BinaryIO) -> Iterator[Image.Image]:
    """Open a picture, reading its header; the block may decode it.

    Raises: PIL.UnidentifiedImageError (an OSError) for other formats, PictureError for damage that the header or the
    block's decoding shows, TooLargeError, OSError.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file, formats=FORMATS) as picture:
            if max(picture.size) > LONGEST_SIDE:
                size = " x ".join(map(str, picture.size))
                raise TooLargeError(f"it has {size} pixels; no side may be longer than {LONGEST_SIDE}")
            yield picture
    except (UnidentifiedImageError, PictureError, Warning):
        raise
    except Image.DecompressionBombError as error:
        raise TooLargeError(str(error)) from None
    except Exception as error:  # Pillow's decoders raise anything for damage, IndexError and struct.error included
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise PictureError(str(error) or type(error).__name__) from error
