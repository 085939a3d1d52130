"""Dense layers as convolutions and back: the same numbers, for images of other sizes (Long et al. 2015)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusion.errors import FusionError
from fusion.surgery.result import SurgeryResult, Weights
from fusion.surgery.text_layers import NetLayer, body_of, deploy_net, name_pattern, net_layers
from prototxt.errors import ShapeError
from prototxt.schema.filter import filter_net
from prototxt.schema.load import load_net
from prototxt.schema.messages import LayerParameter
from prototxt.shapes.convolution import kernel_windows
from prototxt.shapes.dimensions import Shape
from prototxt.shapes.net import infer
from prototxt.text.edits import Edits
from prototxt.text.tree import Document, Message, Scalar

Array = NDArray[Any]
# Layers whose tops have as many axes as their bottoms.
_SAME_AXES = frozenset(
    {
        *("AbsVal", "BNLL", "BatchNorm", "Bias", "Concat", "Dropout", "ELU", "Eltwise", "Exp", "Log", "PReLU"),
        *("Power", "ReLU", "Scale", "Sigmoid", "Slice", "Softmax", "Split", "Swish", "TanH", "Threshold"),
    }
)


@dataclass(frozen=True)
class _Part:
    """A layer with its bottom's shape."""

    text: NetLayer
    bottom: Shape

    @property
    def layer(self) -> LayerParameter:
        return self.text.message


def to_convolution(
    document: Document, weights: Weights, match: str = ".*", inputs: Mapping[str, Sequence[int]] | None = None
) -> SurgeryResult:
    """Convert InnerProduct layers to convolutions whose kernel is as large as their bottom.

    match   a regular expression for the names of the layers to convert
    inputs  shapes of inputs that the net does not have
    Raises: FusionError when no layer matches, or a layer after one would not fit; ShapeError for the net itself.
    """
    edits, converted, changed, skipped = Edits(document), dict(weights), {}, {}
    widened: set[str] = set()  # blobs that had two axes, to which convolutions add two of size 1
    parts = _parts(document, inputs)
    chosen = _chosen(parts, "InnerProduct", match, document.name)
    for part in parts:
        if part.layer.name not in chosen:
            widened.update(_widened_tops(part.layer, widened, document.name))
            continue
        param, name = part.layer.inner_product_param, part.layer.name
        # Vectors after a converted layer have become maps of 1x1.
        sizes = part.bottom if len(part.bottom) == 4 else (*part.bottom, 1, 1)
        # A dense layer after a converted one reads its 1x1 maps, though the net's shapes still say two axes.
        reason = _no_convolution(part, weights)
        if reason is None and len(part.bottom) == 2 and not widened.intersection(part.layer.bottom):
            reason = "its bottom has no height and width"
        if reason is not None:
            skipped[name] = reason
            continue
        _, channels, height, width = (int(dim or 0) for dim in sizes)
        matrix = np.asarray(weights[name][0]).reshape(np.asarray(weights[name][0]).shape[-2:])
        matrix = matrix.T if param.transpose else matrix
        converted[name] = [np.ascontiguousarray(matrix).reshape(-1, channels, height, width), *weights[name][1:]]
        kernel = f"kernel_size: {height}" if height == width else f"kernel_h: {height} kernel_w: {width}"
        _retype(edits, part, "Convolution", "inner_product_param", "convolution_param", kernel)
        changed[name] = f"InnerProduct to Convolution, kernel {height}x{width}"
        widened.update(part.layer.top)
    return SurgeryResult(
        _checked(edits, inputs), converted, tuple(n for n in converted if n not in changed), changed, (), skipped
    )


def to_dense(
    document: Document, weights: Weights, match: str = ".*", inputs: Mapping[str, Sequence[int]] | None = None
) -> SurgeryResult:
    """Convert convolutions whose kernel covers their bottom to InnerProduct layers; the top loses two axes of size 1.

    Raises: as to_convolution.
    """
    edits, converted, changed, skipped = Edits(document), dict(weights), {}, {}
    parts = _parts(document, inputs)
    chosen = _chosen(parts, "Convolution", match, document.name)
    for part in parts:
        name = part.layer.name
        if name not in chosen:
            continue
        reason = _no_dense(part, weights)
        if reason is not None:
            skipped[name] = reason
            continue
        matrix = np.asarray(weights[name][0])
        converted[name] = [matrix.reshape(matrix.shape[0], -1), *weights[name][1:]]
        _retype(edits, part, "InnerProduct", "convolution_param", "inner_product_param", "")
        changed[name] = f"Convolution to InnerProduct, {matrix.shape[0]} outputs"
    return SurgeryResult(
        _checked(edits, inputs), converted, tuple(n for n in converted if n not in changed), changed, (), skipped
    )


def _checked(edits: Edits, inputs: Mapping[str, Sequence[int]] | None) -> Document:
    """Return the net after the changes. Raises: FusionError when its layers no longer fit together."""
    document = edits.apply()
    try:
        infer(filter_net(load_net(document), phase="TEST"), inputs, unknown="ignore")
    except ShapeError as error:
        hint = "its bottom now has two axes of size 1 more, or fewer: choose layers with --layers REGEX"
        raise FusionError(f"after the change {error.errors[0].message}", place=document.name, hint=hint) from error
    return document


def _widened_tops(layer: LayerParameter, widened: Collection[str], place: str) -> tuple[str, ...]:
    """Return the tops that get two axes more because the bottoms do. Raises: FusionError where the values change."""
    if not widened or not layer.bottom or not set(layer.bottom) <= set(widened) or layer.type not in _SAME_AXES:
        return ()
    # An axis from the end would be another one after the change; one from the front stays the same.
    params = getattr(layer, f"{layer.type.lower()}_param", None)
    if getattr(params, "axis", 0) < 0:
        text = f"layer '{layer.name}' counts its axis from the end, where the change adds two"
        raise FusionError(text, place=place, hint="write axis: 1, or choose layers with --layers REGEX")
    return tuple(layer.top)


def _chosen(parts: Sequence[_Part], kind: str, match: str, place: str) -> frozenset[str]:
    """Return the names of the layers of a type that a regular expression matches. Raises: FusionError for none."""
    pattern = name_pattern(match, "'fc[67]'")
    names = [part.layer.name for part in parts if part.layer.type == kind]
    found = frozenset(name for name in names if pattern.fullmatch(name))
    if not found:
        hint = f"there are {', '.join(names)[:300] or 'none'}"
        raise FusionError(f"no {kind} layer matches '{match}'", place=place, hint=hint)
    return found


def _parts(document: Document, inputs: Mapping[str, Sequence[int]] | None) -> list[_Part]:
    """Return all layers with bottoms, in order."""
    net = deploy_net(document, "converted")
    layers = net_layers(document, net)
    shapes = infer(filter_net(net, phase="TEST"), inputs).bottoms[len(net.layer) - len(layers) :]
    return [_Part(layer, bottoms[0]) for layer, bottoms in zip(layers, shapes, strict=True) if bottoms]


def _no_convolution(part: _Part, weights: Weights) -> str | None:
    if part.layer.name not in weights:
        return "it has no weights"
    if part.layer.inner_product_param.axis != 1:
        return "its axis is not 1"
    if len(part.bottom) not in (2, 4) or None in part.bottom[1:]:
        return "its bottom is no blob of images of a known size"
    return None


def _no_dense(part: _Part, weights: Weights) -> str | None:
    param = part.layer.convolution_param
    if part.layer.name not in weights:
        return "it has no weights"
    if param.axis != 1 or len(part.bottom) != 4 or None in part.bottom[1:]:
        return "its bottom is no blob of images of a known size"
    if param.group != 1:
        return "it has groups"
    geometry = kernel_windows(param, 2)
    if [window.extent for window in geometry] != list(part.bottom[2:]) or any(
        w.pad or w.dilation > 1 for w in geometry
    ):
        return "its kernel does not cover its bottom exactly"
    if len(part.layer.bottom) != 1:
        return "it has several bottoms"
    return None


def _retype(edits: Edits, part: _Part, kind: str, old: str, new: str, kernel: str) -> None:
    """Change the type, and move the settings that both types have to the new type's block."""
    edits.set(part.text.body, "type", f'"{kind}"')
    common = ("num_output", "bias_term", "weight_filler", "bias_filler")
    (field, *_) = part.text.body.all(old)
    text = edits.document.text
    inner = [
        text[item.start : item.end].strip()
        for item in body_of(field).fields
        if item.name in common and isinstance(item.values[0], (Scalar, Message))
    ]
    edits.replace(field, f"{new} {{ {' '.join([*inner, *([kernel] if kernel else [])])} }}")
