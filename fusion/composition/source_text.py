"""A source's file as a description in prototxt, whatever its format: the rest of composing sees nothing else."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from prototxt.text.tree import Document


@dataclass(frozen=True)
class SourceText:
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


def is_onnx(path: str | os.PathLike[str]) -> bool:
    """Whether the name is that of an ONNX file."""
    return os.fspath(path).lower().endswith(".onnx")
