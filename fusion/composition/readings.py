"""A source's file as a description in prototxt, whatever its format: the rest of composing sees nothing else."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fusion.errors import ComposeError
from prototxt.tree import Document

if TYPE_CHECKING:
    from fusion.composition.sources import Source


@dataclass(frozen=True)
class Reading:
    """What was read.

    document  the net, as the file has it or as it was described from another format
    at        blobs of the document to cut at; None: before the classifier
    logits    the blob with the class scores, where that is known
    notes     what was decided, one sentence each
    """

    document: Document
    at: str | Sequence[str] | None = None
    logits: str | None = None
    notes: tuple[str, ...] = ()


def read_source(source: Source, *, reference: bool) -> Reading:
    """Read a source's file.

    reference  whether its class scores are wanted, beside the blobs to cut at
    Raises: ComposeError, PrototxtError, OSError.
    """
    net = source.prototxt
    if source.pixels is not None and (isinstance(net, Document) or not is_onnx(net)):
        what = f"source '{source.prefix}': pixels are for ONNX files; a prototxt says in its data layer what it wants"
        raise ComposeError(what, hint="give its train_val prototxt")
    if isinstance(net, Document):
        return Reading(net, source.at, source.logits)
    if is_onnx(net):
        from fusion.composition.onnx_sources import read_onnx

        return read_onnx(source, reference=reference)
    from prototxt.parser import parse_file

    _check_text(source.prefix, os.fspath(net))
    return Reading(parse_file(net), source.at, source.logits)


def _check_text(prefix: str, path: str) -> None:
    """Raises: ComposeError for a binary file, which would be one error of syntax per line."""
    with open(path, "rb") as file:
        if b"\0" in file.read(4096):
            hint = f"give the net's description: '{prefix}=NET.prototxt'; its weights go to the merge"
            raise ComposeError(f"source '{prefix}': this is no text, but binary", place=path, hint=hint)


def is_onnx(path: str | os.PathLike[str]) -> bool:
    """Whether the name is that of an ONNX file."""
    return os.fspath(path).lower().endswith(".onnx")
