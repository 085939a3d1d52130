"""Dense layers as convolutions and back: the same numbers, for pictures of other sizes (Long et al. 2015)."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusion.errors import FusionError
from fusion.surgery.result import SurgeryResult, Weights
from prototxt.errors import ShapeError
from prototxt.schema.duplicate_names import check_layer_names
from prototxt.schema.filter import filter_net
from prototxt.schema.load import load_net
from prototxt.schema.messages import LayerParameter
from prototxt.shapes.convolution import windows
from prototxt.shapes.dimensions import Shape
from prototxt.shapes.net import infer
from prototxt.text.edits import Edits
from prototxt.text.tree import Document, Field, Message, Scalar

Array = NDArray[Any]
# Layers whose tops have as many axes as their bottoms.
_PASSING = frozenset(
    {
        *("AbsVal", "BNLL", "BatchNorm", "Bias", "Concat", "Dropout", "ELU", "Eltwise", "Exp", "Log", "PReLU"),
        *("Power", "ReLU", "Scale", "Sigmoid", "Slice", "Softmax", "Split", "Swish", "TanH", "Threshold"),
    }
)


@dataclass(frozen=True)
class _Part:
    """A layer's text and content with its bottom's shape."""

    block: Message
    layer: LayerParameter
    bottom: Shape


def to_convolution(
    document: Document,
    weights: Weights,
    match: str = ".*",
    inputs: Mapping[str, Sequence[int]] | None = None,
) -> SurgeryResult:
    """InnerProduct layers as convolutions whose kernel is as large as the blob they read.

    match   a regular expression for the names of the layers to convert
    inputs  shapes of inputs that the net does not tell
    Raises: FusionError when no layer matches, or a layer behind one would not fit; ShapeError for the net itself.
    """
    edits, made, changed, left = Edits(document), dict(weights), {}, {}
    converted: set[str] = set()  # blobs of two axes, to which convolutions add two of size 1
    parts = _parts(document, inputs)
    chosen = _chosen(parts, "InnerProduct", match, document.name)
    for part in parts:
        if part.layer.name not in chosen:
            converted.update(_passed_on(part.layer, converted, document.name))
            continue
        param, name = part.layer.inner_product_param, part.layer.name
        sizes = part.bottom if len(part.bottom) == 4 else (*part.bottom, 1, 1)
        reason = _no_convolution(part, weights)
        if reason is None and len(part.bottom) == 2 and not converted.intersection(part.layer.bottom):
            reason = "its bottom has no height and width"
        if reason is not None:
            left[name] = reason
            continue
        _, channels, height, width = (int(dim or 0) for dim in sizes)
        matrix = np.asarray(weights[name][0]).reshape(np.asarray(weights[name][0]).shape[-2:])
        matrix = matrix.T if param.transpose else matrix
        made[name] = [np.ascontiguousarray(matrix).reshape(-1, channels, height, width), *weights[name][1:]]
        kernel = f"kernel_size: {height}" if height == width else f"kernel_h: {height} kernel_w: {width}"
        _retype(edits, part, "Convolution", "inner_product_param", "convolution_param", kernel)
        changed[name] = f"InnerProduct to Convolution, kernel {height}x{width}"
        converted.update(part.layer.top)
    return SurgeryResult(_whole(edits, inputs), made, tuple(n for n in made if n not in changed), changed, (), left)


def to_dense(
    document: Document,
    weights: Weights,
    match: str = ".*",
    inputs: Mapping[str, Sequence[int]] | None = None,
) -> SurgeryResult:
    """Convolutions whose kernel covers all of the blob they read, as InnerProduct layers; the top loses two axes of 1.

    Raises: as to_convolution.
    """
    edits, made, changed, left = Edits(document), dict(weights), {}, {}
    parts = _parts(document, inputs)
    chosen = _chosen(parts, "Convolution", match, document.name)
    for part in parts:
        name = part.layer.name
        if name not in chosen:
            continue
        reason = _no_dense(part, weights)
        if reason is not None:
            left[name] = reason
            continue
        matrix = np.asarray(weights[name][0])
        made[name] = [matrix.reshape(matrix.shape[0], -1), *weights[name][1:]]
        _retype(edits, part, "InnerProduct", "convolution_param", "inner_product_param", "")
        changed[name] = f"Convolution to InnerProduct, {matrix.shape[0]} outputs"
    return SurgeryResult(_whole(edits, inputs), made, tuple(n for n in made if n not in changed), changed, (), left)


def _whole(edits: Edits, inputs: Mapping[str, Sequence[int]] | None) -> Document:
    """The net after the changes. Raises: FusionError when its layers do not fit together any more."""
    document = edits.apply()
    try:
        infer(filter_net(load_net(document), phase="TEST"), inputs, unknown="ignore")
    except ShapeError as error:
        hint = "what it reads has two axes of size 1 more, or fewer, than before: choose layers with --layers REGEX"
        raise FusionError(f"after the change {error.errors[0].message}", place=document.name, hint=hint) from error
    return document


def _passed_on(layer: LayerParameter, converted: Collection[str], place: str) -> tuple[str, ...]:
    """The tops that get two axes more because the bottoms do. Raises: FusionError where that changes the values."""
    if not converted or not layer.bottom or not set(layer.bottom) <= set(converted) or layer.type not in _PASSING:
        return ()
    params = getattr(layer, f"{layer.type.lower()}_param", None)
    if getattr(params, "axis", 0) < 0:
        what = f"layer '{layer.name}' counts its axis from the back, where the change adds two"
        raise FusionError(what, place=place, hint="give it as axis: 1, or choose layers with --layers REGEX")
    return tuple(layer.top)


def _chosen(parts: Sequence[_Part], kind: str, match: str, place: str) -> frozenset[str]:
    """Names of the layers of a type that a regular expression matches. Raises: FusionError when there is none."""
    try:
        pattern = re.compile(match)
    except re.error as error:
        raise FusionError(f"'{match}' is no regular expression: {error}", hint="e.g. 'fc[67]'") from error
    names = [part.layer.name for part in parts if part.layer.type == kind]
    found = frozenset(name for name in names if pattern.fullmatch(name))
    if not found:
        there = ", ".join(names) or "none"
        raise FusionError(f"no {kind} layer matches '{match}'", place=place, hint=f"there are {there[:300]}")
    return found


def _parts(document: Document, inputs: Mapping[str, Sequence[int]] | None) -> list[_Part]:
    """All layers with bottoms, in order."""
    net = load_net(document)
    check_layer_names(net)
    fields = document.root.all("layer")
    messages = list(net.layer)[len(net.layer) - len(fields) :]
    if any(message.include or message.exclude for message in messages) or document.root.all("layers"):
        hint = "make its deploy form first: fusion-convert NET.prototxt OUT.prototxt --deploy"
        raise FusionError("only a deploy net in today's syntax can be converted", place=document.name, hint=hint)
    shapes = infer(filter_net(net, phase="TEST"), inputs).bottoms[len(net.layer) - len(fields) :]
    return [
        _Part(_block(field), message, bottoms[0])
        for field, message, bottoms in zip(fields, messages, shapes, strict=True)
        if bottoms
    ]


def _no_convolution(part: _Part, weights: Weights) -> str | None:
    if part.layer.name not in weights:
        return "it has no weights"
    if part.layer.inner_product_param.axis != 1:
        return "its axis is not 1"
    if len(part.bottom) not in (2, 4) or None in part.bottom[1:]:
        return "its bottom is no blob of pictures of a known size"
    return None


def _no_dense(part: _Part, weights: Weights) -> str | None:
    param = part.layer.convolution_param
    if part.layer.name not in weights:
        return "it has no weights"
    if param.axis != 1 or len(part.bottom) != 4 or None in part.bottom[1:]:
        return "its bottom is no blob of pictures of a known size"
    if param.group != 1:
        return "it has groups"
    geometry = windows(param, 2)
    if [window.extent for window in geometry] != list(part.bottom[2:]) or any(
        w.pad or w.dilation > 1 for w in geometry
    ):
        return "its kernel does not cover its bottom exactly"
    if len(part.layer.bottom) != 1:
        return "it has several bottoms"
    return None


def _block(field: Field) -> Message:
    value = field.values[0]
    assert isinstance(value, Message)
    return value


def _retype(edits: Edits, part: _Part, kind: str, old: str, new: str, kernel: str) -> None:
    """Another type, and its parameters under their other name: outputs, bias and fillers have the same ones in both."""
    edits.set(part.block, "type", f'"{kind}"')
    kept = ("num_output", "bias_term", "weight_filler", "bias_filler")
    (field, *_) = part.block.all(old)
    text = edits.document.text
    inner = [
        text[item.start : item.end].strip()
        for item in _block(field).fields
        if item.name in kept and isinstance(item.values[0], (Scalar, Message))
    ]
    edits.replace(field, f"{new} {{ {' '.join([*inner, *([kernel] if kernel else [])])} }}")
