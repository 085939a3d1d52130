"""Checks of uploaded images by their headers, before anything is decoded."""

from __future__ import annotations

import io

from PIL import Image, UnidentifiedImageError

from prototxt.formats.image_files import FORMATS, LONGEST_SIDE, PictureError, TooLargeError, open_picture

MOST_BYTES = 16 << 20
MOST_PIXELS = 40_000_000


class Refusal(Exception):  # noqa: N818 - it is an answer, not a fault
    """The reason why a request is not answered: an HTTP status, and a sentence for the user."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


def check_picture(data: bytes) -> None:
    """Check an uploaded file. Raises: Refusal if it is not an image of a known format, or is too large to decode."""
    try:
        with open_picture(io.BytesIO(data)) as picture:
            width, height = picture.size
    except UnidentifiedImageError as error:
        raise Refusal(415, f"This is not an image of a known format ({', '.join(FORMATS)}).") from error
    except (TooLargeError, Image.DecompressionBombWarning) as error:
        raise Refusal(413, _too_large()) from error
    except PictureError as error:
        raise Refusal(415, "This image's header cannot be read.") from error
    if width * height > MOST_PIXELS:
        raise Refusal(413, _too_large())


def _too_large() -> str:
    most = f"{MOST_PIXELS / 1e6:.0f} million pixels"
    return f"This image has more than {most}, or a side over {LONGEST_SIDE}: make it smaller."
