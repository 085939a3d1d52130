"""Detect the kind of a file from its content, so that a wrong file is refused with a helpful message."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from prototxt.errors import WeightsError

if TYPE_CHECKING:
    from prototxt.sniff.protobuf_wire import ByteWindow

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_HEAD = 4096

_TORCH = "it is a PyTorch or zip archive; save the weights from PyTorch as safetensors named '<layer>/<i>', or as ONNX"
_ARCHIVE = "unpack it first"
_MAGICS: tuple[tuple[bytes, str, str | None], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "run 'git lfs pull' where it came from"),
    (b"PK\x03\x04", "a zip archive (PyTorch, NumPy .npz, ...)", _TORCH),
    (b"PK\x05\x06", "an empty zip archive", _ARCHIVE),
    (b"\x93NUMPY", "a NumPy array", "use prototxt.write_weights to make a caffemodel of arrays"),
    (b"\x1f\x8b", "a gzip archive", _ARCHIVE),
    (b"BZh", "a bzip2 archive", _ARCHIVE),
    (b"\xfd7zXZ", "an xz archive", _ARCHIVE),
    (b"7z\xbc\xaf", "a 7z archive", _ARCHIVE),
    (b"Rar!", "a RAR archive", _ARCHIVE),
    (b"\x89PNG", "a PNG image", None),
    (b"\xff\xd8\xff", "a JPEG image", None),
    (b"\x7fELF", "a program", None),
)
WEB_PAGE = "a web page"
_PAGES = ("<!doctype", "<html", "<?xml", "<svg")
_PICKLE = "pickles can run any code when opened, so none is read; save the weights as safetensors or HDF5 instead"


def detect_format(path: str | os.PathLike[str]) -> str:
    """Return the format of a weights file: "caffemodel", "hdf5" or "safetensors".

    Raises: WeightsError for a file recognised as something else.
    """
    place = os.fspath(path)
    if os.path.isdir(place):
        raise WeightsError("this is a folder, not a weights file", place=place, hint="give a file inside it")
    try:
        with open(place, "rb") as file:
            head = file.read(_HEAD)
            size = os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        raise WeightsError("there is no such file", place=place, hint="check the path") from None
    return _kind(head, size, place)


def _kind(head: bytes, size: int, place: str) -> str:
    if not head:
        raise WeightsError("the file is empty", place=place, hint="the program that wrote it failed: write it again")
    if head.startswith(HDF5_MAGIC):
        return "hdf5"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8:
        return "safetensors"
    found = foreign_format(head)
    if found is not None:
        kind, hint = found
        also = ", not a weights file" if kind == WEB_PAGE else ""
        raise WeightsError(f"this is {kind}{also}", place=place, hint=hint or "give the weights file")
    if not head.strip(b"\0") and size >= 16:
        raise WeightsError("the file starts with zeros only", place=place, hint="a copy failed: fetch it again")
    if _is_text(head):
        raise WeightsError(
            "this is a text file; weights are binary",
            place=place,
            hint="a prototxt describes a net without its weights: give the .caffemodel that belongs to it",
        )
    return "caffemodel"


def foreign_format(head: bytes) -> tuple[str, str | None] | None:
    """Return the kind of a file that is not Caffe's, by its first bytes, and a remedy; None if not recognised.

    The remedy is None if the only one is to give the right file.
    """
    for magic, kind, hint in _MAGICS:
        if head.startswith(magic):
            return kind, hint
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "a Python pickle (an old PyTorch file?)", _PICKLE
    if head[257:262] == b"ustar":
        return "a tar archive", _ARCHIVE
    if head.decode("utf-8", "replace").lstrip("\ufeff \t\r\n").lower().startswith(_PAGES):
        return WEB_PAGE, "the download link led to a page: open it in a browser and fetch the file itself"
    return None


def _is_text(head: bytes) -> bool:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return True  # UTF-16
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        text = head[: error.start].decode("utf-8") if error.start > len(head) - 4 else ""  # cut in a character
    return len(text) >= 3 and not any(ord(c) < 0x20 and c not in "\t\n\r" for c in text)


def other_message_error(window: ByteWindow) -> WeightsError | None:
    """Return the error for a protobuf message recognised by its fields as something else than a net, or None."""
    found = _message(outer_fields(window))
    return found and WeightsError(f"this is {found[0]}, not trained weights", place=window.path, hint=found[1])


def message_kind(window: ByteWindow) -> str | None:
    """Return the kind of a binary message of Caffe or ONNX, recognised by its fields, or None."""
    seen = outer_fields(window)
    found = _message(seen)
    if found is not None:
        return found[0]
    return "a caffemodel (a net's weights)" if seen & {(100, 2), (2, 2)} else None


def is_onnx_message(seen: set[tuple[int, int]]) -> bool:
    """Return whether a message with these outermost fields (number, wire type) is an ONNX model."""
    found = _message(seen)
    return found is not None and found[0] == ONNX


def _message(seen: set[tuple[int, int]]) -> tuple[str, str] | None:
    return next(((kind, hint) for kind, hint, needed, allowed in _MESSAGES if needed <= seen <= allowed), None)


def outer_fields(window: ByteWindow, *, damaged: bool = False) -> set[tuple[int, int]]:
    """Return the numbers and wire types of the first 1,000 outermost fields.

    damaged  keep the fields before a damaged one; else bytes that are not a whole message have none
    """
    from prototxt.sniff.protobuf_wire import wire_fields

    seen: set[tuple[int, int]] = set()
    try:
        for count, (number, wire, _, _) in enumerate(wire_fields(window, 0, window.size)):
            seen.add((number, wire))
            if count > 1000:
                break
    except WeightsError:
        return seen if damaged else set()
    return seen


BLOB_FIELDS = {(1, 0), (2, 0), (3, 0), (4, 0), (5, 2), (6, 2), (7, 2), (8, 2), (9, 2), (5, 5)}
BLOB_FIELDS |= {(10, 0), (11, 0), (12, 2), (13, 2)}  # NVCaffe's raw values
C3D_FIELDS = {(1, 0), (2, 0), (3, 0), (4, 0), (5, 0), (6, 2), (7, 2)}
STATE_FIELDS = {(1, 0), (2, 2), (3, 2), (4, 0), (5, 5), (6, 0)}  # the last two are NVCaffe's
_MEAN, _MEAN_HINT = "one blob, such as a mean image (.binaryproto)", "name it as mean_file in transform_param"
_DATUM = {(1, 0), (2, 0), (3, 0), (4, 2), (5, 0), (6, 2), (6, 5), (7, 0)}
ONNX = "an ONNX model"
_ONNX = {(n, w) for n in range(1, 32) for w in (0, 2)}
_MESSAGES: tuple[tuple[str, str, set[tuple[int, int]], set[tuple[int, int]]], ...] = (
    ("a solver state", "the weights are in the .caffemodel of the same iteration", {(1, 0), (2, 2)}, STATE_FIELDS),
    ("a solver state", "the weights are in the .caffemodel of the same iteration", {(1, 0), (3, 2)}, STATE_FIELDS),
    (_MEAN, _MEAN_HINT, {(5, 2)}, BLOB_FIELDS),
    (_MEAN, _MEAN_HINT, {(10, 0), (12, 2)}, BLOB_FIELDS),
    (_MEAN, _MEAN_HINT, {(5, 0), (6, 2)}, C3D_FIELDS),
    ("one record of a database (Datum)", "give the .caffemodel", {(1, 0), (2, 0), (3, 0), (4, 2)}, _DATUM),
    (ONNX, "use it as a source of its own, without a weights file", {(1, 0), (7, 2)}, _ONNX),
)
