"""Read from each source how it was trained: the loss after its cut, its label, its metrics, and its classifier."""

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
    """The parameters of an Accuracy layer."""

    top_k: int = 1
    axis: int = 1
    ignore_label: int | None = None


@dataclass(frozen=True)
class SourceObjective:
    """A loss, metric or output of a source that reads values computed from its cut.

    layer       None if there is none
    loss        None for a metric, or for an output such as a Softmax
    labels      the kind of its labels, as in LossKind; None if it is not known
    scores      the blob that it reads, by its name in the file
    classifier  the layer with weights that computes them, None if there is none after the cut
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
        """Return the blob that the scores are compared with."""
        if self.loss is not None:
            return self.loss.label
        return self.layer.bottoms[1] if self.layer is not None and self.layer.type == "Accuracy" else None

    @property
    def width(self) -> int | None:
        """Return the values per sample or position, where the classifier states them."""
        if self.classifier is None:
            return None
        block = "inner_product_param" if self.classifier.type == "InnerProduct" else "convolution_param"
        texts = [text for param in self.classifier.message.messages(block) if (text := param.string("num_output"))]
        return int(texts[-1]) if texts else None


def source_objectives(source: PreparedSource) -> list[SourceObjective]:
    """Return the losses on the branch's features by falling weight, of equal ones the last first; else its last output.

    Losses that no classifier supports come after the others. Losses that only read values of other layers, such as
    those of an auxiliary head before the cut, are left out.
    """
    known = layers_after_cut(source)
    found = [
        _objective(source, layer, derived)
        for layer, derived in known
        if layer.bottoms and layer.phases and (_is_loss(layer) or layer.type in _ENDS)
    ]
    losses = [item for item in reversed(found) if item.loss is not None]
    return sorted(losses, key=lambda item: (_is_of_features(item), -loss_weight_of(item))) or list(reversed(found))[:1]


def source_metrics(source: PreparedSource, scores: str) -> list[Metric]:
    """Return the source's metrics of these scores."""
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
    """Return each layer that reads a value computed from the cut, and which of its bottoms are such values."""
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
        elif layer.phases == ("TRAIN", "TEST"):  # overwritten in both phases: no longer computed from the cut
            values.difference_update(layer.tops)
    return found


def loss_weight_of(item: SourceObjective) -> float:
    """Return the loss's weight, 1 if the file has none."""
    raws = item.loss.options.get("loss_weight", ("1",)) if item.loss is not None else ("0",)
    return float(raws[0]) if isinstance(raws, tuple) else 1.0


def _is_of_features(item: SourceObjective) -> bool:
    return item.loss is not None and item.loss.type not in SUPPORTED


def _is_loss(layer: LayerText) -> bool:
    """Return whether training minimises the layer's output."""
    from prototxt.shapes import registry

    weights = [float(scalar.value) for scalar in layer.message.scalars("loss_weight")]
    if weights:
        return any(weights)
    known = registry.LAYER_TYPES.get(layer.type)
    return layer.type in LOSS_KINDS or layer.type.endswith("Loss") or (known is not None and known.loss)


def _raw_name(source: PreparedSource, plain: str) -> str:
    """Return a blob's name in the file, which may have the prefix."""
    prefixed = f"{source.prefix}/{plain}"
    return prefixed if any(prefixed in layer.tops for layer in source.raw.layers) else plain


def _objective(source: PreparedSource, layer: LayerText, derived: frozenset[str]) -> SourceObjective:
    compared = layer.bottoms[:2]
    scores = next((blob for blob in compared if blob in derived), layer.bottoms[0])
    kind = LOSS_KINDS.get(layer.type)
    label = next((blob for blob in compared if blob not in derived), None)
    loss = read_loss(layer, label, layer.bottoms[2:]) if _is_loss(layer) else None
    labels = kind.labels if kind is not None else _ENDS.get(layer.type)
    classifier, tail = _classifier(source, scores)
    return SourceObjective(source, layer, loss, labels, scores, classifier, tail)


def _classifier(source: PreparedSource, scores: str) -> tuple[LayerText | None, tuple[LayerText, ...]]:
    """Return the layer after the cut that computes the scores, and those between the two, in-place ones included."""
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


def scores_positions(item: SourceObjective) -> bool:
    """Return whether every position of a map gets scores of its own, as far as the layers show."""
    kinds = {layer.type for layer in item.tail}
    if kinds & {"Pooling", "Flatten", "Reshape", "InnerProduct", "Reduction"}:
        return False
    return item.classifier is not None and item.classifier.type == "Convolution"


def format_objectives(items: Sequence[SourceObjective]) -> str:
    """Return the losses with their labels, in words."""
    return ", ".join(
        f"'{item.layer.name}' ({item.layer.type} of '{item.scores}' against '{item.label}')"
        for item in sorted_by_layer(items)
        if item.layer is not None
    )


def sorted_by_layer(items: Sequence[SourceObjective]) -> list[SourceObjective]:
    """Sort by the order of the layers in the file."""
    return sorted(items, key=lambda item: item.layer.number if item.layer is not None else -1)
