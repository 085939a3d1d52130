"""Learned shares as constants: the layers that Caffe does not know replaced by layers that it does, once trained.

A WeightedSum becomes an Eltwise with coefficients. A Gate, whose shares each sample decides, becomes the InnerProduct,
Softmax, Slice and Scale layers that compute the same.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusion.errors import FusionError, WeightsMismatch, raise_all
from fusion.surgery.result import SurgeryResult, Weights
from prototxt.schema.duplicate_names import check_layer_names
from prototxt.schema.filter import filter_net
from prototxt.schema.load import load_net
from prototxt.schema.messages import LayerParameter
from prototxt.shapes import infer
from prototxt.text.edits import Edits
from prototxt.text.tokens import quote
from prototxt.text.tree import Document, Field

Array = NDArray[Any]
EPSILON = 1e-4  # of fastnorm: Tan et al. 2020, section 3.3


class DeadShares(UserWarning):
    """All v of a fastnorm sum are 0 or less: it gives 0, and no gradient will ever change that."""


@dataclass(frozen=True)
class _Own:
    """A layer to be replaced: its text and its content."""

    field: Field
    message: LayerParameter


def bake(document: Document, weights: Weights) -> SurgeryResult:
    """Replace every WeightedSum and Gate by Caffe's own layers; the net computes the same.

    document  a net in today's syntax, of any phases
    weights   layer name -> blobs in Caffe's order; the blobs of WeightedSum layers are left out of the outcome
    Raises: FusionError when there is nothing to bake; WeightsMismatch for layers without weights, or with others.
    Warns: DeadShares.
    """
    found = _own_layers(document)
    if not found:
        hint = "only WeightedSum and Gate layers (heads fastnorm and softmax) need it: deploy the net as it is"
        raise FusionError("there is no layer to bake", place=document.name, hint=hint)
    raise_all([error for own in found for error in _misfit(document, own, weights)])
    edits = Edits(document)
    made: dict[str, Sequence[Array]] = dict(weights)
    changed, dropped = {}, []
    spread = _maps(document)
    for own in found:
        name = own.message.name
        if own.message.type == "Gate":
            texts = _gate(own.message, bool(spread.get(name)))
            made[f"{name}/gate"] = made.pop(name)
            changed[name] = f"is {len(texts)} layers of Caffe's; its weights are those of '{name}/gate'"
        else:
            values = weighted_sum_shares(np.asarray(weights[name][0]), softmax=_is_softmax(own.message), name=name)
            texts = [_eltwise(own.message, values)]
            made.pop(name)
            dropped.append(name)
            changed[name] = f"Eltwise with coeff {', '.join(f'{value:.6g}' for value in values)}"
        edits.replace(own.field, "\n".join(texts))
    kept = tuple(name for name in made if name in weights)
    return SurgeryResult(edits.apply(), made, kept, changed, tuple(dropped))


def weighted_sum_shares(weight: Array, *, softmax: bool, name: str = "") -> Array:
    """What each bottom of a WeightedSum counts: float64 [bottoms], of its blob float32 [bottoms].

    Warns: DeadShares when fastnorm gives every bottom 0.
    """
    values = np.asarray(weight, np.float64).ravel()
    if softmax:
        exponents = np.exp(values - values.max())
        return np.asarray(exponents / exponents.sum())
    positive = np.maximum(values, 0)
    if not positive.any():
        text = f"layer '{name}': all shares are 0 ({', '.join(f'{value:.4g}' for value in values)}), so its top is 0"
        warnings.warn(f"{text}; train it again at a lower rate, or take head softmax", DeadShares, stacklevel=3)
    return np.asarray(positive / (positive.sum() + EPSILON))


def _own_layers(document: Document) -> list[_Own]:
    net = load_net(document)
    check_layer_names(net)
    fields = document.root.all("layer")
    messages = list(net.layer)[len(net.layer) - len(fields) :]
    return [_Own(*pair) for pair in zip(fields, messages, strict=True) if pair[1].type in ("WeightedSum", "Gate")]


def _misfit(document: Document, own: _Own, weights: Weights) -> list[FusionError]:
    name, place = own.message.name, document.place(own.field.start)
    if name not in weights:
        hint = "give the weights that were trained with this net"
        return [WeightsMismatch(f"layer '{name}' has no weights to bake", place=place, hint=hint)]
    count, first = len(own.message.bottom), np.asarray(weights[name][0])
    if (first.size if own.message.type == "WeightedSum" else first.shape[0]) == count:
        return []
    text = f"layer '{name}' has {count} bottoms, its weights are of shape {'x'.join(map(str, first.shape))}"
    return [WeightsMismatch(text, place=place, hint="these are the weights of another net")]


def _is_softmax(message: LayerParameter) -> bool:
    return message.weighted_sum_param.normalization == message.weighted_sum_param.SOFTMAX


def _maps(document: Document) -> dict[str, bool]:
    """Per Gate, whether what it reads has a height and a width."""
    net = filter_net(load_net(document), phase="TEST")
    bottoms = infer(net, unknown="ignore").bottoms
    return {
        layer.name: len(shapes[0]) > 2
        for layer, shapes in zip(net.layer, bottoms, strict=True)
        if layer.type == "Gate" and shapes
    }


def _eltwise(message: LayerParameter, values: Array) -> str:
    lines = [f"    coeff: {float(value):.9g}" for value in values]
    block = ["  eltwise_param {", "    operation: SUM", *lines, "  }"]
    return _layer(message.name, "Eltwise", message.bottom, message.top, block, message)


def _gate(message: LayerParameter, maps: bool) -> list[str]:
    """Concat, InnerProduct, Softmax and Slice for the shares; Reshape and Scale for each bottom; Eltwise."""
    name, bottoms = message.name, list(message.bottom)
    rows = [f"{name}/row_{number}" for number, _ in enumerate(bottoms, 1)] if maps else bottoms
    cut = [f"{name}/share_{number}" for number, _ in enumerate(bottoms, 1)]
    bias = [] if message.gate_param.bias_term else ["    bias_term: false"]
    inner = ["  inner_product_param {", f"    num_output: {len(bottoms)}", *bias, "  }"]
    texts = []
    if maps:
        texts = [_layer(row, "Flatten", [blob], [row], []) for row, blob in zip(rows, bottoms, strict=True)]
    texts += [
        _layer(f"{name}/all", "Concat", rows, [f"{name}/all"], ["  concat_param { axis: 1 }"]),
        _layer(f"{name}/gate", "InnerProduct", [f"{name}/all"], [f"{name}/gate"], inner),
        _layer(f"{name}/shares", "Softmax", [f"{name}/gate"], [f"{name}/shares"], []),
        _layer(f"{name}/slice", "Slice", [f"{name}/shares"], cut, ["  slice_param { axis: 1 }"]),
    ]
    weighted = []
    for number, (blob, share) in enumerate(zip(bottoms, cut, strict=True), 1):
        weighted.append(f"{name}/weighted_{number}")
        flat = f"{share}_flat"
        texts += [
            _layer(flat, "Reshape", [share], [flat], ["  reshape_param { shape { dim: -1 } }"]),
            _layer(weighted[-1], "Scale", [blob, flat], weighted[-1:], ["  scale_param { axis: 0 }"]),
        ]
    return [*texts, _layer(name, "Eltwise", weighted, message.top, ["  eltwise_param { operation: SUM }"], message)]


def _layer(
    name: str,
    kind: str,
    bottoms: Sequence[str],
    tops: Sequence[str],
    lines: Sequence[str],
    like: LayerParameter | None = None,
) -> str:
    """A layer's text, in the phases of the layer that it stands for."""
    phases = [rule.phase for rule in like.include] if like else []
    rules = [f"  include {{ phase: {'TRAIN' if phase == 0 else 'TEST'} }}" for phase in phases]
    ends = [f"  bottom: {quote(blob)}" for blob in bottoms] + [f"  top: {quote(blob)}" for blob in tops]
    return "\n".join(["layer {", f"  name: {quote(name)}", f"  type: {quote(kind)}", *ends, *rules, *lines, "}"])
