"""The kinds of losses: whether the second bottom holds class numbers, targets or the similarity of a pair."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from prototxt.schema.messages import LayerParameter, NetParameter

Labels = Literal["class", "yes-no", "target", "pair"]


@dataclass(frozen=True, slots=True)
class LossKind:
    """The way a loss evaluates its first bottom.

    labels         "class": a class number for each sample or position; "yes-no": a 0 or 1 for each output; "target": a
                   value for each output; "pair": whether two samples are alike
    blocks         the parameter blocks that the loss reads
    output         the layer that turns its scores into an output, None if they are the output
    normalization  default of `loss_param { normalization }`, None if the loss ignores it
    """

    labels: Labels
    blocks: tuple[str, ...] = ()
    output: str | None = None
    normalization: str | None = None


LOSS_KINDS: Final = {
    "SoftmaxWithLoss": LossKind("class", ("loss_param", "softmax_param"), "Softmax", "VALID"),
    "InfogainLoss": LossKind("class", ("infogain_loss_param", "loss_param"), "Softmax", "VALID"),
    "MultinomialLogisticLoss": LossKind("class", (), "Softmax"),
    "HingeLoss": LossKind("class", ("hinge_loss_param",)),
    "SigmoidCrossEntropyLoss": LossKind("yes-no", ("loss_param",), "Sigmoid", "BATCH_SIZE"),
    "EuclideanLoss": LossKind("target"),
    "SmoothL1Loss": LossKind("target", ("smooth_l1_loss_param",)),
    "ContrastiveLoss": LossKind("pair", ("contrastive_loss_param",)),
}
_FOLLOWED: Final = (
    "Sigmoid",
    "TanH",
    "ReLU",
    "Power",
    "Softmax",
    "Flatten",
    "Reshape",
    "Deconvolution",
    "Crop",
    "Interp",
)


def compares_classes(layer: LayerParameter) -> bool:
    """Return whether the layer is a loss or measure that compares class scores with class numbers."""
    kind = LOSS_KINDS.get(layer.type)
    return layer.type == "Accuracy" or (kind is not None and kind.labels == "class")


def non_class_loss(net: NetParameter, blob: str) -> LayerParameter | None:
    """Return the last loss that uses the blob as something else than class scores, None if one uses it as such."""
    other = None
    for layer in _judges(net, {blob}):
        if compares_classes(layer):
            return None
        other = layer
    return other


def class_label(net: NetParameter, blob: str) -> str | None:
    """Return the blob with the class numbers that losses or measures compare these scores with, None if unknown."""
    return next(
        (layer.bottom[1] for layer in _judges(net, {blob}) if compares_classes(layer) and len(layer.bottom) > 1), None
    )


def ignored_label(net: NetParameter, blob: str) -> int | None:
    """Return the class number that the measures of these scores ignore or, without measures, their losses."""
    judges = [layer for layer in _judges(net, {blob}) if compares_classes(layer)]
    measures = [layer.accuracy_param for layer in judges if layer.type == "Accuracy"]
    if measures:
        return next((param.ignore_label for param in measures if param.HasField("ignore_label")), None)
    learned = [layer.loss_param for layer in judges if "loss_param" in LOSS_KINDS[layer.type].blocks]
    return next((param.ignore_label for param in learned if param.HasField("ignore_label")), None)


def _judges(net: NetParameter, blobs: set[str]) -> Iterator[LayerParameter]:
    """Yield the losses and measures that read one of the blobs, directly or through layers without parameters."""
    for layer in net.layer:
        read = blobs.intersection(layer.bottom)
        if read and layer.type in _FOLLOWED:
            blobs.update(layer.top)
        elif read and (layer.type in LOSS_KINDS or layer.type == "Accuracy"):
            yield layer
