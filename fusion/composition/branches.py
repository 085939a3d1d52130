"""The layers of a net that a blob depends on: its ancestors, in every phase, by value and not by name."""

from __future__ import annotations

from dataclasses import dataclass

from fusion.composition.net_text import PHASES, LayerText, NetText
from fusion.errors import ComposeError
from prototxt.errors import did_you_mean
from prototxt.schema.shared_memory import find_overwritten
from prototxt.shapes.loss_kinds import LOSS_KINDS

_CLASSES = frozenset(name for name, kind in LOSS_KINDS.items() if kind.labels == "class")
_OTHERS = frozenset(name for name, kind in LOSS_KINDS.items() if kind.labels in ("yes-no", "target"))
_ENDS = frozenset(("Accuracy", "Softmax", "ArgMax", "Silence", "Python"))

_SCORING = frozenset(("InnerProduct", "Convolution"))
_PASSING = frozenset(
    ("Pooling", "Flatten", "Reshape", "ReLU", "Dropout", "Sigmoid", "TanH", "Power", "Deconvolution", "Crop", "Interp")
)


@dataclass(frozen=True)
class Branch:
    """The ancestors of some blobs.

    layers  numbers of the layers, without data layers
    inputs  the blobs from outside that these layers read, in order
    """

    layers: frozenset[int]
    inputs: tuple[str, ...]


def ancestors(net: NetText, blobs: tuple[str, ...]) -> Branch:
    """Return all layers that compute the final values of these blobs, in any phase.

    The final value includes in-place layers on the blob. A layer that writes a blob which a later layer overwrites is
    an ancestor only through the layers that read it before. An in-place layer on a blob that shares the memory of
    another one writes that one too.
    """
    found: set[int] = set()
    inputs: set[str] = set()
    for phase in PHASES:
        writers: dict[str, LayerText] = {}  # blob -> the last layer so far that writes it
        read: dict[int, list[tuple[str, LayerText | None]]] = {}
        layers = [layer for layer in net.layers if phase in layer.phases]
        changed = find_overwritten([(layer.type, layer.bottoms, layer.tops) for layer in layers])
        for index, layer in enumerate(layers):
            read[layer.number] = [(bottom, writers.get(bottom)) for bottom in layer.bottoms]
            others = [found.blob for found in changed if found.layer == index]
            writers.update(dict.fromkeys((*layer.tops, *others), layer))
        todo = [(blob, writers.get(blob)) for blob in blobs]
        while todo:
            blob, writer = todo.pop()
            if writer is None or writer.is_data:
                inputs.add(blob)
            else:
                todo += read.pop(writer.number, [])  # popped: each layer is followed once
                found.add(writer.number)
    return Branch(frozenset(found), tuple(blob for blob in net.input_blobs if blob in inputs))


def cut_candidates(net: NetText) -> list[str]:
    """Return the blobs at which the net can be cut: computed, and no loss or metric; nearest to the output first."""
    tops = [
        top
        for layer in net.layers
        if not layer.is_data and layer.type not in _ENDS and not layer.type.endswith("Loss")
        for top in layer.tops
    ]
    return list(dict.fromkeys(reversed(tops)))


def check_cut(net: NetText, blob: str, prefix: str) -> None:
    """Check that the net can be cut at this blob. Raises: ComposeError."""
    candidates = cut_candidates(net)
    if blob in candidates:
        return
    if blob in net.input_blobs:
        message = f"cut blob '{blob}' is an input of the net, so nothing of it would be left"
    elif any(blob in layer.tops for layer in net.layers):
        message = f"cut blob '{blob}' is a loss or a metric, not a feature"
    else:
        message = f"there is no blob '{blob}'"
    names = ", ".join(candidates[:12]) + (f" and {len(candidates) - 12} more" if len(candidates) > 12 else "")
    hint = did_you_mean(blob, candidates, also=f"cut at one of (output side first): {names or 'none'}")
    place = net.document.place(net.layers[-1].start) if net.layers else net.file
    raise ComposeError(f"source '{prefix}': {message}", place=place, hint=hint)


def last_scores_blob(net: NetText) -> str | None:
    """Return the blob with the net's scores before any softmax, which its last loss, metric or softmax reads."""
    found = scores_blobs(net)
    return found[-1] if found else None


def scores_blobs(net: NetText) -> tuple[str, ...]:
    """Return the blobs with scores before any softmax: those of every classifier, in the order of the losses.

    Losses of classes are tried before metrics, and these before losses of values, whose first two bottoms are of one
    shape. A loss of a smaller weight than another one of its type and label is an auxiliary one, and left out.
    """
    # From the surest sign of a classifier to the weakest.
    for types in (_CLASSES, frozenset(("Accuracy",)), _OTHERS, frozenset(("Softmax",))):
        readers = [layer for layer in net.layers if layer.type in types and layer.bottoms and layer.phases]
        heaviest: dict[tuple[str, tuple[str, ...]], float] = {}
        for layer in readers:
            key = (layer.type, layer.bottoms[1:])
            heaviest[key] = max(heaviest.get(key, 0.0), _weight(layer))
        main = [layer for layer in readers if _weight(layer) >= heaviest[layer.type, layer.bottoms[1:]] > 0]
        if main:
            return tuple(dict.fromkeys(_scores(net, layer) for layer in main))
    return tuple(cut_candidates(net)[:1])


def _weight(layer: LayerText) -> float:
    weights = layer.message.scalars("loss_weight") if layer.type in _CLASSES | _OTHERS else []
    return float(weights[0].value) if weights else 1.0


def _scores(net: NetText, layer: LayerText) -> str:
    """Return the scores that a loss or metric reads, before any softmax."""
    blob = next((bottom for bottom in layer.bottoms[:2] if bottom not in net.input_blobs), layer.bottoms[0])
    writer = writer_of(net, blob)
    return writer.bottoms[0] if writer is not None and writer.type == "Softmax" else blob


def writer_of(net: NetText, blob: str) -> LayerText | None:
    """Return the layer that makes the blob; in-place layers do not count."""
    makers = [layer for layer in net.layers if blob in layer.tops and blob not in layer.bottoms]
    return makers[-1] if makers else None


def default_cut(net: NetText, scores: str | None) -> str | None:
    """Return the blob read by the layer that computes these scores: where to cut by default.

    That layer may be followed by others without weights, such as the pooling that ends a fully convolutional net.
    """
    blob = scores
    for _ in net.layers:
        writer = writer_of(net, blob) if blob else None
        if writer is None or (len(writer.bottoms) != 1 and writer.type != "Crop"):
            return None
        blob = writer.bottoms[0]
        if writer.type in _SCORING:
            return None if blob in net.input_blobs else blob
        if writer.type not in _PASSING:
            return None
    return None


def readers_of(net: NetText, blob: str) -> list[LayerText]:
    """Return the layers that read the blob and do not merely change it in place."""
    return [layer for layer in net.layers if blob in layer.bottoms and blob not in layer.tops]
