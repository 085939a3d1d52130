"""Read from each source how it was trained: the loss after its cut, its label, its metrics, and its classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fusion.composition.branches import writer_of
from fusion.composition.losses import SUPPORTED, Loss, loss_option, read_loss
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

    loss        None for a metric, or for an output such as a Softmax
    labels      the kind of its labels, as in LossKind; None if it is not known
    scores      the blob that it reads, by its name in the file
    classifier  the layer with weights that computes them, None if there is none after the cut
    tail        the layers from there to the scores, in order
    """

    source: PreparedSource
    layer: LayerText
    loss: Loss | None
    labels: str | None
    scores: str
    classifier: LayerText | None
    tail: tuple[LayerText, ...]

    @property
    def label(self) -> str | None:
        """Return the blob that the scores are compared with."""
        if self.loss is not None:
            return self.loss.label
        return self.layer.bottoms[1] if self.layer.type == "Accuracy" else None

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
    known = [(layer, derived) for layer, derived in _layers_after_cut(source) if layer.bottoms and layer.phases]
    found = [_objective(source, *item) for item in known if _is_loss(item[0]) or item[0].type in _ENDS][::-1]
    losses = [(item, item.loss) for item in found if item.loss is not None]
    # sorted() is stable: of equal weights the loss later in the file stays first.
    losses.sort(key=lambda pair: (pair[1].type not in SUPPORTED, -float(loss_option(pair[1], "loss_weight") or 1)))
    return [item for item, _ in losses] or found[:1]


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


def _layers_after_cut(source: PreparedSource) -> list[tuple[LayerText, frozenset[str]]]:
    """Return each layer that reads a value computed from the cut, and which of its bottoms are such values."""
    cuts = set(source.raw_cuts)
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


def _is_loss(layer: LayerText) -> bool:
    """Return whether training minimises the layer's output."""
    from prototxt.shapes import registry

    weights = [float(scalar.value) for scalar in layer.message.scalars("loss_weight")]
    if weights:
        return any(weights)
    known = registry.LAYER_TYPES.get(layer.type)
    return layer.type in LOSS_KINDS or layer.type.endswith("Loss") or (known is not None and known.loss)


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
    tail: list[LayerText] = []
    blob: str | None = scores
    while blob is not None and blob not in source.raw_cuts:
        name = blob
        tail += reversed([layer for layer in source.raw.layers if name in layer.tops and name in layer.bottoms])
        writer = writer_of(source.raw, name)
        if writer is None or writer.type in _SCORING:
            return writer, tuple(reversed(tail))
        tail.append(writer)
        blob = writer.bottoms[0] if writer.bottoms else None
    return None, tuple(reversed(tail))


def format_objectives(items: Sequence[SourceObjective]) -> str:
    """Return the losses with their labels, in words."""
    return ", ".join(
        f"'{item.layer.name}' ({item.layer.type} of '{item.scores}' against '{item.label}')"
        for item in sorted_by_layer(items)
    )


def sorted_by_layer(items: Sequence[SourceObjective]) -> list[SourceObjective]:
    """Sort by the order of the layers in the file."""
    return sorted(items, key=lambda item: item.layer.number)
