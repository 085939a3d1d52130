"""A net to be fused: as the user gives it, and as prototxt whatever its file format."""

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
    prototxt  its file (raw, or already renamed with the prefix), a parsed document, or an ONNX file
    at        the blob where it is cut, or several; None cuts before its classifier
    weights   its trained weights; composing only counts the blobs of each layer, where its type does not determine them
    classes   for its own classifier as a reference: the fused classes that its scores stand for, in their order, by
              number or, where the fused net's class names are known, by name
    logits    the blob with its class scores, where its loss reads another one
    pixels    for an ONNX file, or a prototxt with an Input layer: how its images are prepared, one of
              `fusion.composition.pixels.PIXELS`
    reads     the prefix of an earlier source, whose cut is its input instead of the data; None: it reads data
    share     its weight in the heads logits and probs; None is 1
    stages    of the net's state, as `fusion.composition.stages` reads them: "train", "val", "TEST=other"
    train_list, val_list  replace the lists of its data layers: one list, folder of class folders or database where it
              has one data layer per phase, else one for each by the name of the layer or of its top
    """

    prefix: str
    prototxt: PathLike | Document
    at: str | Sequence[str] | None = None
    weights: PathLike | None = None
    classes: Sequence[int | str] = ()
    logits: str | None = None
    pixels: str | None = None
    reads: str | None = None
    share: float | None = None
    stages: Sequence[str] = ()
    train_list: str | Mapping[str, str] | None = None
    val_list: str | Mapping[str, str] | None = None

    def __str__(self) -> str:
        return f"source '{self.prefix}'"


@dataclass(frozen=True)
class SourceText:
    """A source's file as prototxt: composing works on this alone.

    document  the net as in the file, or described from another format
    at        blobs of the document to cut at; None: before the classifier
    logits    the blob with the class scores, where that is known
    notes     every choice that was made, one sentence each
    """

    document: Document
    at: str | Sequence[str] | None = None
    logits: str | None = None
    notes: tuple[str, ...] = ()


def is_onnx_path(path: str | os.PathLike[str]) -> bool:
    """Return whether the name is that of an ONNX file."""
    return os.fspath(path).lower().endswith(".onnx")
