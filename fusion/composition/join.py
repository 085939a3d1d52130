"""How the branches' features become one blob: side by side, added, or weighted; all at once or level by level."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from fusion.composition.features import Features, HeadRequest, PreparedFeatures, make_ready, pooled
from fusion.composition.net_text import layer_text
from fusion.errors import ComposeError

Joiner = Callable[[Sequence[Features], str, str], str]
_COMMENT: Final = "What the branches know."
_OWN: Final = f"{_COMMENT} (No layer of Caffe's: fusion-surgery bake makes it an Eltwise once it is trained.)"


def joined(request: HeadRequest, joiner: Joiner, name: str, *, equal: bool) -> PreparedFeatures:
    """All features as the blob `request.joined`.

    joiner  (features, layer name, blob to make) -> layers as text
    name    of the layer that joins
    equal   whether the joiner wants blobs of one shape
    Raises: ComposeError.
    """
    if request.maps == "levels":
        return _by_level(request, joiner, name, equal)
    ready = make_ready(request.features, request, equal=equal)
    text = joiner(ready.features, name, request.joined)
    whole = replace(_named(request, _shape(ready.features, equal)), steps=request.steps)
    return PreparedFeatures((whole,), (*ready.text, text), ready.notes)


def _by_level(request: HeadRequest, joiner: Joiner, name: str, equal: bool) -> PreparedFeatures:
    """The first cuts of all sources joined, the second ones, ..., each averaged over its positions; then these."""
    levels = sorted({item.level for item in request.features})
    groups = [[item for item in request.features if item.level == level] for level in levels]
    if len({len(group) for group in groups}) > 1:
        counts = ", ".join(str(len(group)) for group in groups)
        raise ComposeError(
            f"features cannot be joined level by level: the levels have {counts} cuts",
            hint="cut every source at the same number of blobs: --source a=a.prototxt@low,high",
        )
    found: list[Features] = []
    text: list[str] = []
    notes: list[str] = []
    for number, group in enumerate(groups, 1):
        ready = make_ready(group, request, equal=equal)
        item = Features(f"level_{number}", f"{request.joined}_{number}", _shape(ready.features, equal))
        text += [*ready.text, joiner(ready.features, f"{name}_{number}", item.blob)]
        notes += [*ready.notes, f"head: level {number} is {', '.join(one.blob for one in group)}"]
        if item.is_map:
            item, pieces = pooled(item)
            text += pieces
        found.append(item)
    text.append(concatenated(found, "levels", request.joined))
    return PreparedFeatures((_named(request, _shape(found, equal=False)),), tuple(text), tuple(notes))


def _named(request: HeadRequest, shape: tuple[int | None, ...] | None) -> Features:
    return Features("features", request.joined, shape)


def _shape(features: Sequence[Features], equal: bool) -> tuple[int | None, ...] | None:
    """The shape of the features as one, where it is known."""
    first = features[0].shape
    if equal or first is None or len({item.shape[2:] if item.shape else None for item in features}) > 1:
        return first if equal else None
    axis = features[0].axis
    dims = [item.shape[axis] if item.shape else None for item in features]
    known = [dim for dim in dims if dim is not None]
    return (*first[:axis], sum(known) if len(known) == len(dims) else None, *first[axis + 1 :])


def concatenated(features: Sequence[Features], name: str, top: str) -> str:
    """Side by side, as the tutorial does."""
    body = f"concat_param {{ axis: {features[0].axis} }}"
    return layer_text(name, "Concat", [item.blob for item in features], [top], body, _COMMENT)


def added(features: Sequence[Features], name: str, top: str) -> str:
    """Their sum."""
    return _eltwise(features, name, top, ["operation: SUM"])


def averaged(features: Sequence[Features], name: str, top: str) -> str:
    """Their mean."""
    return _eltwise(features, name, top, ["operation: SUM", *([f"coeff: {1 / len(features):.9g}"] * len(features))])


def largest(features: Sequence[Features], name: str, top: str) -> str:
    """The largest, element by element."""
    return _eltwise(features, name, top, ["operation: MAX"])


def fastnorm(features: Sequence[Features], name: str, top: str) -> str:
    """Their sum with learned shares relu(v) / (sum of relu(v) + 1e-4)."""
    return _weighted(features, name, top, "FASTNORM")


def softmax(features: Sequence[Features], name: str, top: str) -> str:
    """Their sum with learned shares, the softmax of as many numbers."""
    return _weighted(features, name, top, "SOFTMAX")


def gated(features: Sequence[Features], name: str, top: str) -> str:
    """Their sum with shares that a linear map of all features gives each sample; equal at the start. Plain Caffe."""
    flat = [_flattened(item) for item in features]
    text = [piece for _, pieces in flat for piece in pieces]
    shares = [f"{item.stem}_share" for item in features]
    cut = [f"{share}s" for share in shares]
    gate = f"{name}_gate"
    body = f"""inner_product_param {{
  num_output: {len(features)}
  weight_filler {{ type: "constant" }}
  bias_filler {{ type: "constant" }}
}}"""
    text += [
        concatenated([item for item, _ in flat], f"{name}_all", f"{name}_all"),
        layer_text(gate, "InnerProduct", [f"{name}_all"], [gate], body, "How much each branch counts, per sample."),
        layer_text(f"{name}_shares", "Softmax", [gate], [f"{name}_shares"]),
        layer_text(f"{name}_slice", "Slice", [f"{name}_shares"], cut, "slice_param { axis: 1 }"),
    ]
    for item, share in zip(features, shares, strict=True):
        weighted = f"{item.stem}_weighted"
        row = "reshape_param { shape { dim: -1 } }"
        text += [
            layer_text(share, "Reshape", [f"{share}s"], [share], row),
            layer_text(weighted, "Scale", [item.blob, share], [weighted], "scale_param { axis: 0 }"),
        ]
    parts = [Features(item.stem, f"{item.stem}_weighted", item.shape) for item in features]
    return "\n".join([*text, added(parts, name, top)])


def _flattened(item: Features) -> tuple[Features, list[str]]:
    if item.shape is None or len(item.shape) <= 2:
        return item, []
    row = f"{item.stem}_row"
    return Features(item.stem, row, (None, item.width)), [layer_text(row, "Flatten", [item.blob], [row])]


def _weighted(features: Sequence[Features], name: str, top: str, normalization: str) -> str:
    body = f"param {{ lr_mult: 1 decay_mult: 0 }}\nweighted_sum_param {{ normalization: {normalization} }}"
    return layer_text(name, "WeightedSum", [item.blob for item in features], [top], body, _OWN)


def _eltwise(features: Sequence[Features], name: str, top: str, lines: Sequence[str]) -> str:
    body = "\n".join(["eltwise_param {", *(f"  {line}" for line in lines), "}"])
    return layer_text(name, "Eltwise", [item.blob for item in features], [top], body, _COMMENT)
