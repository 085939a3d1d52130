"""A net to be fused: as the user names it, and as a prototxt description whatever its file format."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prototxt.text.tree import Document

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class Source:
    """A net to be fused.

    prefix    its layers and blobs become `prefix/name`
    prototxt  its file (raw, or already renamed with the prefix), or a parsed document; or an ONNX file
    at        the blob where it is cut, or several; None cuts before its classifier
    weights   its trained weights; composing looks only how many blobs each layer has, where the type does not tell
    classes   for its own classifier as a reference: the fused classes that its scores stand for, in their order
    logits    the blob with its class scores, where that is not what its loss reads
    pixels    for an ONNX file: how it wants its pictures, one of `fusion.composition.pixels.PIXELS`
    stages    of the net's state, as `fusion.composition.stages.by_phase` reads them: "train", "val", "TEST=other"
    train_list, val_list  what its data layers read instead of their own lists: one list or database where it has one
              data layer per phase, else one for each by the name of the layer or of its top
    """

    prefix: str
    prototxt: PathLike | Document
    at: str | Sequence[str] | None = None
    weights: PathLike | None = None
    classes: Sequence[int] = ()
    logits: str | None = None
    pixels: str | None = None
    stages: Sequence[str] = ()
    train_list: str | Mapping[str, str] | None = None
    val_list: str | Mapping[str, str] | None = None


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


def is_onnx_path(path: str | os.PathLike[str]) -> bool:
    """Whether the name is that of an ONNX file."""
    return os.fspath(path).lower().endswith(".onnx")
