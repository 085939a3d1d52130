"""The layers between a classifier and its loss, in the sources and so in the fused net: upsampling, activations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from fusion.composition.inputs import Inputs
from fusion.composition.net_text import LayerText, excerpt, read_net, rename_blobs, reparse
from fusion.composition.preprocessing import parameters
from fusion.composition.source_losses import SourceObjective
from fusion.composition.tasks import Goal
from fusion.errors import ComposeError

_RESIZING: Final = ("Deconvolution", "Crop", "Interp")
_ACTIVATIONS: Final = ("Sigmoid", "TanH", "ReLU", "ELU", "AbsVal", "BNLL", "Power", "Exp", "Log")
_PASSING: Final = ("Pooling", "Flatten", "Reshape", "Dropout", "Softmax", "Split")


@dataclass(frozen=True)
class Tail:
    """Layers after a classifier, as written but for the name of its blob.

    layers  texts in which the classifier's blob is called `start`
    end     the blob that they compute, `start` if there are none
    """

    layers: tuple[str, ...] = ()
    start: str = ""
    end: str = ""

    def apply(self, scores: str) -> tuple[list[str], str]:
        """Return the layers on a classifier's blob, and the blob that the loss reads."""
        if not self.layers:
            return [], scores
        text = [rename_blobs(layer, {self.start: scores}) for layer in self.layers]
        return text, scores if self.end == self.start else self.end


def common_tail(goal: Goal, inputs: Inputs, width: int, positions: bool, notes: list[str]) -> Tail:
    """Return the layers that all sources have after their classifiers. Raises: ComposeError if they differ."""
    objectives = goal.objectives
    tails = [_tail(item, goal, inputs, width, positions, notes) for item in objectives.values()]
    if len(set(map(_comparison_key, tails))) > 1:
        names = ", ".join(objectives)
        message = f"the sources {names} have different layers between their classifiers and their losses"
        raise ComposeError(message, hint="cut where the rest is alike, or fuse sources with outputs of one form")
    return tails[0] if tails else Tail()


def _tail(item: SourceObjective, goal: Goal, inputs: Inputs, width: int, positions: bool, notes: list[str]) -> Tail:
    if positions:
        _check_classifier(item)
    kept, dropped = [], []
    for layer in item.tail:
        kind = layer.type
        if (positions and kind in _RESIZING) or (kind in _ACTIVATIONS and goal.loss.kind.labels != "class"):
            kept.append(layer)
        elif positions and kind not in (*_ACTIVATIONS, *_PASSING):
            raise item.source.error(
                f"{item.source}: layer '{layer.name}' ({kind}) between its classifier and its loss cannot be kept",
                f"layers there may be {', '.join(_RESIZING)}; nets that add up scores of several depths (skip "
                "connections) cannot be cut before all of them",
                layer,
            )
        elif kind not in _PASSING:
            dropped.append(f"'{layer.name}' ({kind})")
    if dropped:
        between = f"{', '.join(dropped)} between its classifier and its loss"
        notes.append(f"loss: {item.source} has {between}; the fused net omits it")
    if not kept:
        return Tail()
    start = item.classifier.tops[0] if item.classifier is not None else kept[0].bottoms[0]
    texts = [_adapt(item, layer, start, inputs, width, notes) for layer in kept]
    names = _plain_names(item, start)
    return Tail(tuple(texts), names[start], names.get(kept[-1].tops[0], names[start]))


def _check_classifier(item: SourceObjective) -> None:
    """Check that the source's classifier gives a map of the size of its bottom. Raises: ComposeError."""
    layer = item.classifier
    blocks = layer.message.messages("convolution_param") if layer is not None else []
    for block in blocks:
        kernels = {scalar.value for name in ("kernel_size", "kernel_h", "kernel_w") for scalar in block.scalars(name)}
        pads = {scalar.value for name in ("pad", "pad_h", "pad_w") for scalar in block.scalars(name)} or {"0"}
        strides = {scalar.value for name in ("stride", "stride_h", "stride_w") for scalar in block.scalars(name)}
        dilation = int(block.string("dilation") or 1)
        sizes = {2 * int(pad) - dilation * (int(kernel) - 1) for pad in pads for kernel in kernels}
        if sizes != {0} or strides - {"1"}:
            message = f"{item.source}: its classifier '{layer.name if layer else ''}' changes the size of the map"
            hint = "cut after the layers that do, so that the classifier keeps the size"
            raise item.source.error(f"{message}, which the head's 1x1 convolution does not", hint, layer)


def _plain_names(item: SourceObjective, start: str) -> dict[str, str]:
    """Return the blobs of the tail -> their names without the source's prefix."""
    blobs = [start, *(top for layer in item.tail for top in layer.tops)]
    return {blob: blob.removeprefix(f"{item.source.prefix}/") for blob in blobs}


def _adapt(item: SourceObjective, layer: LayerText, start: str, inputs: Inputs, width: int, notes: list[str]) -> str:
    """Return a layer's text with the fused net's blobs and number of outputs. Raises: ComposeError."""
    source = item.source
    names = {**inputs.feeds[source.prefix], **_plain_names(item, start)}
    unknown = [blob for blob in layer.bottoms if blob not in names]
    if unknown:
        message = f"{source}: layer '{layer.name}' ({layer.type}) after its classifier also reads '{unknown[0]}'"
        hint = "nets that add up several scores (skip connections) cannot be cut before all of them"
        raise source.error(f"{message}, which is neither of the classifier nor an input", hint, layer)
    text = rename_blobs(excerpt(source.raw, layer), names, layer.name.removeprefix(f"{source.prefix}/"))
    return _set_maps(text, item.width, width, notes) if layer.type == "Deconvolution" else text


def _set_maps(text: str, own: int | None, width: int, notes: list[str]) -> str:
    """Return a Deconvolution with as many maps as the fused net has scores.

    One that is frozen gets a group per map and bilinear weights: with one group, Caffe's bilinear filler would mix all
    maps.
    """
    from prototxt.text.edits import Edits

    document = reparse(text, "the head")
    message = document.root.messages("layer")[0]
    edits, block = Edits(document), message.messages("convolution_param")[-1]
    rates = [float(rate) for param in message.messages("param") if (rate := param.string("lr_mult")) is not None]
    filler = [item.string("type") for item in block.messages("weight_filler")]
    frozen = bool(rates) and not any(rates)
    grouped = block.string("group") not in (None, "1") and block.string("group") == str(own)
    edits.set(block, "num_output", str(width))
    if grouped or frozen or filler == ["bilinear"]:
        edits.set(block, "group", str(width))
    if frozen and filler != ["bilinear"]:
        for field in block.all("weight_filler"):
            edits.remove(field)
        edits.append_field(block, 'weight_filler { type: "bilinear" }')
        notes.append(f"head: '{message.string('name')}' interpolates, as its weights do not learn")
    return str(edits.apply())


def _comparison_key(tail: Tail) -> tuple[object, ...]:
    """Return a key that is equal for tails that compute the same: types and parameters, not names."""
    layers = read_net(reparse("\n".join(tail.layers), "the head")).layers
    return tuple((layer.type, parameters(layer)) for layer in layers)
