"""Decode a file's bytes to text: UTF-8, or the encoding of its byte order mark; explain files that are not text."""

from __future__ import annotations

import codecs
import os
import warnings
from pathlib import Path

from prototxt.errors import ParseError
from prototxt.sniff.weights_format import HDF5_MAGIC, foreign_format, message_kind

_HEAD = 4096
_CONTROLS = bytes(set(range(0x20)) - set(b"\t\n\v\f\r\x1a")) + b"\x7f"
_STRAY = 2  # control characters that a text may contain by mistake; the parser reports their places
_HINT = "give the net's or solver's description (.prototxt)"
# UTF-32's mark begins with UTF-16's, so it comes first.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class RecodedWarning(UserWarning):
    """A text is not in UTF-8, the only encoding that Caffe reads."""


def read_source(path: str | os.PathLike[str]) -> str:
    """Read the text of a prototxt file, see `to_source`. Raises: ParseError, OSError."""
    return to_source(Path(path).read_bytes(), os.fspath(path))


def to_source(data: bytes, name: str) -> str:
    """Decode text with every byte kept: line ends and UTF-8's mark stay, bytes that are not UTF-8 become surrogates.

    Raises: ParseError with the kind of file, if the bytes are not text
    Warns: RecodedWarning for UTF-16 and UTF-32, which are written as UTF-8
    """
    encoding = encoding_of(data)
    if encoding is not None:
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError as error:
            hint = "save it as UTF-8 again"
            raise ParseError(
                f"this is damaged {encoding.upper()} text: {error.reason}", place=name, hint=hint
            ) from None
        message = f"{name}: this is {encoding.upper()} text, which Caffe does not read; the output is UTF-8"
        warnings.warn(message, RecodedWarning, stacklevel=3)
        return text.removeprefix("\ufeff")
    found = _foreign(data, name)
    if found is not None:
        raise ParseError(f"this is {found[0]}, not a prototxt", place=name, hint=found[1] or _HINT)
    return data.decode("utf-8", "surrogateescape")


def encoding_of(head: bytes) -> str | None:
    """Return the encoding given by the byte order mark, or by the zero bytes of UTF-16 without one; else None."""
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return encoding
    even, odd = head[:_HEAD:2], head[1:_HEAD:2]
    if len(head) < 4 or not (_is_ascii(even) or _is_ascii(odd)):
        return None
    return "utf-16-le" if not any(odd) else "utf-16-be" if not any(even) else None


def _is_ascii(data: bytes) -> bool:
    return data.isascii() and data.translate(None, _CONTROLS) == data


def _foreign(data: bytes, name: str) -> tuple[str, str | None] | None:
    """Return the kind of a file that is not text, and a specific remedy or None; None for text."""
    head = data[:_HEAD]
    if head.startswith(HDF5_MAGIC):
        return "an HDF5 file", None
    found = foreign_format(head)
    if found is not None:
        return found
    if len(head) - len(head.translate(None, _CONTROLS)) <= _STRAY:
        return None
    from prototxt.sniff.protobuf_wire import ByteWindow

    return message_kind(ByteWindow.over_bytes(data, name)) or "a binary file", None
