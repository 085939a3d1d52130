"""A net to be fused: as the user gives it, and as prototxt whatever its file format."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prototxt.text.tree import Document

if TYPE_CHECKING:
    from torch import Tensor, nn

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class Source:
    """A net to be fused.

    prefix    its layers and blobs become `prefix/name`
    prototxt  its file (raw, or already renamed with the prefix), a parsed document, an ONNX file, or the name of a
              PyTorch net, such as "torchvision:resnet18:weights.pth" (`fusion.conversion.net_names.TORCH_NET`)
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
    as_caffe  convert an ONNX file or a PyTorch net to Caffe's layers, instead of running it as an `Onnx` layer
    module, example  a PyTorch module instead of `prototxt`, and an input of it, or a tuple of its inputs
    """

    prefix: str
    prototxt: PathLike | Document = ""
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
    as_caffe: bool = False
    module: nn.Module | None = None
    example: Tensor | tuple[Tensor, ...] | None = None

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
