"""What the second bottom of a loss is: a class, targets, a pair's similarity; and so what its first bottom holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from prototxt.schema.messages import LayerParameter, NetParameter

Labels = Literal["class", "yes-no", "target", "pair"]


@dataclass(frozen=True, slots=True)
class LossKind:
    """How a loss judges its first bottom.

    labels         "class": a class number for each sample or position; "yes-no": a 0 or 1 for each output; "target": a
                   value for each output; "pair": whether two samples are alike
    blocks         the layer's parameter blocks that it reads
    output         the layer that makes its scores an answer, None where they are the answer
    normalization  what it is divided by unless `loss_param` says otherwise, None where `loss_param` does not count
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
    """Whether the layer is a loss or measure that compares class scores with class numbers."""
    kind = LOSS_KINDS.get(layer.type)
    return layer.type == "Accuracy" or (kind is not None and kind.labels == "class")


def non_class_loss(net: NetParameter, blob: str) -> LayerParameter | None:
    """The loss that takes the blob for something else than class scores; None where no loss or measure says so."""
    other = None
    for layer in _judges(net, {blob}):
        if compares_classes(layer):
            return None
        other = layer
    return other


def class_label(net: NetParameter, blob: str) -> str | None:
    """The blob with the class numbers that losses or measures compare these scores with, where they name one."""
    return next(
        (layer.bottom[1] for layer in _judges(net, {blob}) if compares_classes(layer) and len(layer.bottom) > 1), None
    )


def ignored_label(net: NetParameter, blob: str) -> int | None:
    """The class number that does not count where these scores are measured, or else where they are learned."""
    judges = [layer for layer in _judges(net, {blob}) if compares_classes(layer)]
    measures = [layer.accuracy_param for layer in judges if layer.type == "Accuracy"]
    if measures:
        return next((param.ignore_label for param in measures if param.HasField("ignore_label")), None)
    learned = [layer.loss_param for layer in judges if "loss_param" in LOSS_KINDS[layer.type].blocks]
    return next((param.ignore_label for param in learned if param.HasField("ignore_label")), None)


def _judges(net: NetParameter, blobs: set[str]) -> Iterator[LayerParameter]:
    """The losses and measures that read one of the blobs, or what layers without learning make of it."""
    for layer in net.layer:
        read = blobs.intersection(layer.bottom)
        if read and layer.type in _FOLLOWED:
            blobs.update(layer.top)
        elif read and (layer.type in LOSS_KINDS or layer.type == "Accuracy"):
            yield layer
