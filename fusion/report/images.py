"""The samples' images as data URIs, within a budget of bytes."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

LARGEST_SIDE = 160
KEPT_BYTES = 6_000
FORMATS = {"PNG": "image/png", "JPEG": "image/jpeg", "GIF": "image/gif", "WEBP": "image/webp"}


class Picture(NamedTuple):
    """A data URI and the size in pixels."""

    uri: str
    width: int
    height: int


@dataclass
class Album:
    """Images by sample key, read on demand.

    root      folder that keys are relative to
    budget    bytes of all data URIs together
    absent    number of images that were not found, or cannot be read
    left_out  number of images that did not fit into the budget
    """

    root: Path
    budget: int = 2_500_000
    spent: int = 0
    absent: int = 0
    left_out: int = 0
    cache: dict[str, Picture | None] = field(default_factory=dict)

    def picture(self, key: str) -> Picture | None:
        """Return the sample's image, None if it is missing or the budget is spent."""
        if key not in self.cache:
            self.cache[key] = self._read(key)
        return self.cache[key]

    def _read(self, key: str) -> Picture | None:
        if self.spent >= self.budget:
            self.left_out += 1
            return None
        picture = data_uri(self.root / key)
        if picture is None:
            self.absent += 1
        elif self.spent + len(picture.uri) > self.budget:
            self.left_out += 1
            return None
        else:
            self.spent += len(picture.uri)
        return picture


def data_uri(path: Path) -> Picture | None:
    """Return an image as a data URI: small files as they are, others as a JPEG thumbnail; None if it is no image."""
    from prototxt.formats.image_files import open_picture

    try:
        data = path.read_bytes()
        with open_picture(io.BytesIO(data)) as image:
            image.load()
            size, kind = image.size, FORMATS.get(image.format or "")
            if kind is None or len(data) > KEPT_BYTES:
                thumbnail = image.convert("RGB")
                thumbnail.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
                stream = io.BytesIO()
                thumbnail.save(stream, "JPEG", quality=80)
                data, size, kind = stream.getvalue(), thumbnail.size, "image/jpeg"
    except (OSError, ValueError):  # a key with a zero byte is no path
        return None
    return Picture(f"data:{kind};base64,{base64.b64encode(data).decode()}", *size)
