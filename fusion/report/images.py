"""The samples' pictures as data URIs, within a budget of bytes."""

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
    """Pictures by sample key, read on demand.

    root    folder that keys are relative to
    budget  bytes that all data URIs together may take
    absent, left_out  how many were not found (or are no images), and how many the budget had no room for
    """

    root: Path
    budget: int = 2_500_000
    spent: int = 0
    absent: int = 0
    left_out: int = 0
    kept: dict[str, Picture | None] = field(default_factory=dict)

    def picture(self, key: str) -> Picture | None:
        """The sample's picture, or None where it is missing or the budget is spent."""
        if key not in self.kept:
            self.kept[key] = self._read(key)
        return self.kept[key]

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
    """A picture as a data URI: small files as they are, others as a JPEG thumbnail; None for what is no picture."""
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
    except (OSError, ValueError, SyntaxError):
        return None
    return Picture(f"data:{kind};base64,{base64.b64encode(data).decode()}", *size)
