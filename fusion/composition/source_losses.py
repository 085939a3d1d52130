"""What each source was trained to do: the loss beyond its cut, its label, its measures, and what makes its scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fusion.composition.branches import writer_of
from fusion.composition.losses import SUPPORTED, Loss, read_loss
from fusion.composition.net_text import LayerText
from fusion.composition.prepared_source import PreparedSource
from prototxt.shapes.loss_kinds import LOSS_KINDS

_SCORING = ("InnerProduct", "Convolution")
_ENDS = {"Accuracy": "class", "Softmax": "class", "ArgMax": "class", "Sigmoid": "yes-no"}


@dataclass(frozen=True)
class Metric:
    """An Accuracy layer's parameters; two of a kind are equal."""

    top_k: int = 1
    axis: int = 1
    ignore_label: int | None = None


@dataclass(frozen=True)
class Objective:
    """A loss or measure of a source that judges what is computed from its cut.

    layer       None where nothing judges it
    loss        None for a measure, or for an output such as a Softmax
    labels      what its labels are, as in LossKind; None where that is not known
    scores      the blob that it reads, by its name in the file
    classifier  the layer with weights that makes them, None if there is none beyond the cut
    tail        the layers from there to the scores, in order
    """

    source: PreparedSource
    layer: LayerText | None = None
    loss: Loss | None = None
    labels: str | None = None
    scores: str | None = None
    classifier: LayerText | None = None
    tail: tuple[LayerText, ...] = ()

    @property
    def label(self) -> str | None:
        """The blob that the scores are compared with."""
        if self.loss is not None:
            return self.loss.label
        return self.layer.bottoms[1] if self.layer is not None and self.layer.type == "Accuracy" else None

    @property
    def width(self) -> int | None:
        """Values per sample or position, where the classifier says."""
        if self.classifier is None:
            return None
        block = "inner_product_param" if self.classifier.type == "InnerProduct" else "convolution_param"
        texts = [text for param in self.classifier.message.messages(block) if (text := param.string("num_output"))]
        return int(texts[-1]) if texts else None


def source_objectives(source: PreparedSource) -> list[Objective]:
    """What judges the branch's features: its losses, the heaviest and of equal ones the last first; else its last end.

    Losses that no classifier can serve come after the others. Losses that judge other layers' values alone, such as
    those of an auxiliary head below the cut, are not among them.
    """
    known = layers_after_cut(source)
    found = [
        _judgement(source, layer, made)
        for layer, made in known
        if layer.bottoms and layer.phases and (_is_loss(layer) or layer.type in _ENDS)
    ]
    losses = [item for item in reversed(found) if item.loss is not None]
    return sorted(losses, key=lambda item: (_is_of_features(item), -loss_weight_of(item))) or list(reversed(found))[:1]


def source_metrics(source: PreparedSource, scores: str) -> list[Metric]:
    """The measures of these scores that the source has."""
    found = []
    for layer in source.raw.layers:
        if layer.type == "Accuracy" and layer.phases and layer.bottoms[:1] == (scores,):
            given: dict[str, int] = {}
            for block in layer.message.messages("accuracy_param"):
                texts = {name: block.string(name) for name in ("top_k", "axis", "ignore_label")}
                given.update({name: int(text, 0) for name, text in texts.items() if text is not None})
            found.append(Metric(given.get("top_k", 1), given.get("axis", 1), given.get("ignore_label")))
    return found


def layers_after_cut(source: PreparedSource) -> list[tuple[LayerText, frozenset[str]]]:
    """Each layer that reads a value computed from the cut, and which of its bottoms are such values."""
    cuts = {_raw_name(source, blob) for blob in source.plain}
    own = {layer.number for layer in source.raw.layers if cuts & set(layer.tops)}
    values: set[str] = set()
    found = []
    for layer in source.raw.layers:
        if layer.number in own:
            values |= cuts & set(layer.tops)
            continue
        read = values.intersection(layer.bottoms)
        if read:
            found.append((layer, frozenset(read)))
            values.update(layer.tops)
        elif layer.phases == ("TRAIN", "TEST"):
            values.difference_update(layer.tops)
    return found


def loss_weight_of(item: Objective) -> float:
    """The loss's weight, 1 where the file does not say."""
    raws = item.loss.options.get("loss_weight", ("1",)) if item.loss is not None else ("0",)
    return float(raws[0]) if isinstance(raws, tuple) else 1.0


def _is_of_features(item: Objective) -> bool:
    return item.loss is not None and item.loss.type not in SUPPORTED


def _is_loss(layer: LayerText) -> bool:
    """Whether training minimises what the layer makes."""
    from prototxt.shapes import registry

    weights = [float(scalar.value) for scalar in layer.message.scalars("loss_weight")]
    if weights:
        return any(weights)
    known = registry.LAYER_TYPES.get(layer.type)
    return layer.type in LOSS_KINDS or layer.type.endswith("Loss") or (known is not None and known.loss)


def _raw_name(source: PreparedSource, plain: str) -> str:
    """A blob's name in the file, which may carry the prefix."""
    prefixed = f"{source.prefix}/{plain}"
    return prefixed if any(prefixed in layer.tops for layer in source.raw.layers) else plain


def _judgement(source: PreparedSource, layer: LayerText, made: frozenset[str]) -> Objective:
    compared = layer.bottoms[:2]
    scores = next((blob for blob in compared if blob in made), layer.bottoms[0])
    kind = LOSS_KINDS.get(layer.type)
    label = next((blob for blob in compared if blob not in made), None)
    loss = read_loss(layer, label, layer.bottoms[2:]) if _is_loss(layer) else None
    labels = kind.labels if kind is not None else _ENDS.get(layer.type)
    classifier, tail = _classifier(source, scores)
    return Objective(source, layer, loss, labels, scores, classifier, tail)


def _classifier(source: PreparedSource, scores: str) -> tuple[LayerText | None, tuple[LayerText, ...]]:
    """The layer beyond the cut that makes the scores, and those between the two, in-place ones included."""
    branch = {_raw_name(source, blob) for blob in source.plain}
    tail: list[LayerText] = []
    blob: str | None = scores
    while blob is not None and blob not in branch:
        name = blob
        tail += reversed([layer for layer in source.raw.layers if name in layer.tops and name in layer.bottoms])
        writer = writer_of(source.raw, name)
        if writer is None or writer.type in _SCORING:
            return writer, tuple(reversed(tail))
        tail.append(writer)
        blob = writer.bottoms[0] if writer.bottoms else None
    return None, tuple(reversed(tail))


def scores_positions(item: Objective) -> bool:
    """Whether every position of a map gets scores of its own, as far as the layers tell."""
    kinds = {layer.type for layer in item.tail}
    if kinds & {"Pooling", "Flatten", "Reshape", "InnerProduct", "Reduction"}:
        return False
    return item.classifier is not None and item.classifier.type == "Convolution"


def format_objectives(items: Sequence[Objective]) -> str:
    """The losses with their labels, in words."""
    return ", ".join(
        f"'{item.layer.name}' ({item.layer.type} of '{item.scores}' against '{item.label}')"
        for item in sorted_by_layer(items)
        if item.layer is not None
    )


def sorted_by_layer(items: Sequence[Objective]) -> list[Objective]:
    """As their layers stand in the file."""
    return sorted(items, key=lambda item: item.layer.number if item.layer is not None else -1)
