"""Detect the content of a Caffe file (net, solver, solver state or blob) and its form, by content and not by name."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from prototxt.errors import WeightsError
from prototxt.sniff.text_encoding import encoding_of
from prototxt.sniff.weights_format import (
    BLOB_FIELDS,
    C3D_FIELDS,
    HDF5_MAGIC,
    ONNX,
    STATE_FIELDS,
    WEB_PAGE,
    detect_format,
    foreign_format,
    is_onnx_message,
    outer_fields,
)

if TYPE_CHECKING:
    from prototxt.text.tree import Document

NET, SOLVER, STATE, BLOB = "net", "solver", "state", "blob"
TEXT, BINARY, HDF5, SAFETENSORS, NUMPY = "text", "binary", "hdf5", "safetensors", "npy"
MESSAGES = {NET: "NetParameter", SOLVER: "SolverParameter", STATE: "SolverState", BLOB: "BlobProto"}

_BINARY_BYTES = bytes(set(range(0x20)) - set(b"\t\n\v\f\r")) + b"\x7f"
_NAMED_BINARY = (".caffemodel", ".h5", ".hdf5", ".safetensors", ".binaryproto", ".solverstate", ".npy")
_WIRES = {
    1: 1,
    2: 5,
    9: 2,
    11: 2,
}  # of doubles, floats, texts and messages; numbers of the schema's other types are varints


@dataclass(frozen=True, slots=True)
class Content:
    """The content of a file.

    kind  NET (with or without weights), SOLVER, STATE (of a solver) or BLOB (a mean image)
    form  TEXT, BINARY (protobuf), HDF5, SAFETENSORS or NUMPY
    """

    kind: str
    form: str


def contents_of(path: str | os.PathLike[str]) -> Content:
    """Detect the content of a file.

    Raises: WeightsError for a file recognised as not Caffe's; OSError.
    """
    if os.path.isdir(path):
        raise WeightsError("this is a folder, not a file", place=os.fspath(path), hint="give a file inside it")
    with open(path, "rb") as file:
        head = file.read(4096)
    if head.startswith(b"\x93NUMPY"):
        return Content(BLOB, NUMPY)
    if _is_text(head, os.fspath(path)):
        from prototxt.text.parser import parse_file

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the code that reads the file will warn
            return Content(text_kind(parse_file(path, tolerant=True)), TEXT)
    form = detect_format(path)
    if form == "hdf5":
        return Content(_hdf5_kind(path), HDF5)
    if form == "safetensors":
        return Content(NET, SAFETENSORS)
    return Content(_message_kind(os.fspath(path)), BINARY)


def text_kind(doc: Document) -> str:
    """Return the content kind of a text, by the names of its outermost fields."""
    from prototxt.edit.upgrade_text import is_solver

    names = {field.name for field in doc.root}
    if names & {"learned_net", "history", "current_step"}:
        return STATE
    if is_solver(doc):
        return SOLVER
    return BLOB if names and names <= set(_field_names(BLOB)) else NET


def _is_text(head: bytes, name: str) -> bool:
    """Return whether the bytes are text or empty; foreign files are not, except web pages not named as weights."""
    if encoding_of(head) is not None:
        return True
    if head.translate(None, _BINARY_BYTES) != head or head.startswith(HDF5_MAGIC):
        return False
    found = foreign_format(head)
    return found is None or (found[0] == WEB_PAGE and not name.lower().endswith(_NAMED_BINARY))


def _hdf5_kind(path: str | os.PathLike[str]) -> str:
    from prototxt.formats.hdf5 import damage_as_weights_error, open_file

    with open_file(path) as file, damage_as_weights_error(os.fspath(path)):
        return STATE if {"iter", "history"} <= set(file) else NET


def _message_kind(path: str) -> str:
    """Return the kind of a binary message by its outermost fields; a fork's net may have any, so NET comes last."""
    from prototxt.sniff.protobuf_wire import ByteWindow

    with open(path, "rb") as file:  # damage is left to the reader of the file, which reports its place
        seen = outer_fields(ByteWindow.over_file(file.fileno(), path), damaged=True)
    if is_onnx_message(seen):
        raise WeightsError(f"this is {ONNX}, not a file of Caffe's", place=path, hint="name it .onnx")
    if (100, 2) in seen:
        return NET
    if (1, 0) in seen and seen <= STATE_FIELDS and seen & {(2, 2), (3, 2)}:
        return STATE
    values = {(5, 2), (5, 5), (8, 2), (8, 1), (12, 2)}
    if seen & values and seen <= _wires(BLOB) | BLOB_FIELDS and not seen <= {(8, 2)}:
        return BLOB
    if {(5, 0), (6, 2)} <= seen <= C3D_FIELDS:
        return BLOB
    return SOLVER if seen and seen <= _wires(SOLVER) and not seen <= _wires(NET) else NET


def _field_names(kind: str) -> list[str]:
    from prototxt.schema.messages import POOL

    return [field.name for field in POOL.FindMessageTypeByName(f"caffe.{MESSAGES[kind]}").fields]


@cache
def _wires(kind: str) -> frozenset[tuple[int, int]]:
    """Return the (number, wire type) pairs of a message's fields; repeated numbers may also be packed."""
    from prototxt.schema.messages import POOL
    from prototxt.schema.scalars import is_repeated

    found = set()
    for field in POOL.FindMessageTypeByName(f"caffe.{MESSAGES[kind]}").fields:
        found.add((field.number, _WIRES.get(field.type, 0)))
        if is_repeated(field):
            found.add((field.number, 2))
    return frozenset(found)
