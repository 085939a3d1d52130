"""Trained WeightedSum and Gate layers, which Caffe does not have, replaced by layers that it has.

A WeightedSum becomes an Eltwise with coefficients. A Gate, whose shares depend on the sample, becomes the InnerProduct,
Softmax, Slice and Scale layers that compute the same.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusion.errors import DeadShares, FusionError, WeightsMismatch, raise_all
from fusion.surgery.result import SurgeryResult, Weights
from fusion.surgery.text_layers import NetLayer, net_layers
from prototxt.schema.duplicate_names import check_layer_names
from prototxt.schema.filter import filter_net
from prototxt.schema.load import load_net
from prototxt.schema.messages import LayerParameter
from prototxt.shapes import infer
from prototxt.text.edits import Edits
from prototxt.text.tokens import quote
from prototxt.text.tree import Document

Array = NDArray[Any]
EPSILON = 1e-4  # of fastnorm: Tan et al. 2020, section 3.3


def bake(document: Document, weights: Weights) -> SurgeryResult:
    """Replace every WeightedSum and Gate by Caffe's own layers; the net computes the same.

    document  a net in today's syntax, of any phases
    weights   layer name -> blobs in Caffe's order; the result has none for WeightedSum layers
    Raises: FusionError when there is nothing to bake; WeightsMismatch for layers without weights, or with other shapes.
    Warns: DeadShares.
    """
    net = load_net(document)
    check_layer_names(net)
    found = [layer for layer in net_layers(document, net) if layer.message.type in ("WeightedSum", "Gate")]
    if not found:
        hint = "only WeightedSum and Gate layers (heads fastnorm and softmax) need it: deploy the net as it is"
        raise FusionError("there is no layer to bake", place=document.name, hint=hint)
    raise_all([error for layer in found for error in _misfit(document, layer, weights)])
    edits = Edits(document)
    baked: dict[str, Sequence[Array]] = dict(weights)
    changed, dropped = {}, []
    spatial = _is_spatial(document)
    for layer in found:
        name = layer.message.name
        if layer.message.type == "Gate":
            texts = _gate(layer.message, bool(spatial.get(name)))
            baked[f"{name}/gate"] = baked.pop(name)
            changed[name] = f"is {len(texts)} layers of Caffe's; its weights belong to '{name}/gate'"
        else:
            values = weighted_sum_shares(np.asarray(weights[name][0]), softmax=_is_softmax(layer.message), name=name)
            texts = [_eltwise(layer.message, values)]
            baked.pop(name)
            dropped.append(name)
            changed[name] = f"Eltwise with coeff {', '.join(f'{value:.6g}' for value in values)}"
        edits.replace(layer.field, "\n".join(texts))
    kept = tuple(name for name in baked if name in weights)
    return SurgeryResult(edits.apply(), baked, kept, changed, tuple(dropped))


def weighted_sum_shares(weight: Array, *, softmax: bool, name: str = "") -> Array:
    """Return the share of each bottom of a WeightedSum, float64 [bottoms], from its blob float32 [bottoms].

    Warns: DeadShares when fastnorm gives every bottom 0.
    """
    values = np.asarray(weight, np.float64).ravel()
    if softmax:
        exponents = np.exp(values - values.max())  # the largest becomes 1: no overflow
        return np.asarray(exponents / exponents.sum())
    positive = np.maximum(values, 0)
    if not positive.any():
        text = f"layer '{name}': all shares are 0 ({', '.join(f'{value:.4g}' for value in values)}), so its top is 0"
        warnings.warn(f"{text}; train it again at a lower rate, or take head softmax", DeadShares, stacklevel=3)
    return np.asarray(positive / (positive.sum() + EPSILON))


def _misfit(document: Document, layer: NetLayer, weights: Weights) -> list[FusionError]:
    name, place = layer.message.name, document.place(layer.field.start)
    if name not in weights:
        hint = "give the weights that were trained with this net"
        return [WeightsMismatch(f"layer '{name}' has no weights to bake", place=place, hint=hint)]
    count, first = len(layer.message.bottom), np.asarray(weights[name][0])
    if (first.size if layer.message.type == "WeightedSum" else first.shape[0]) == count:
        return []
    text = f"layer '{name}' has {count} bottoms, its weights are of shape {'x'.join(map(str, first.shape))}"
    return [WeightsMismatch(text, place=place, hint="these are the weights of another net")]


def _is_softmax(message: LayerParameter) -> bool:
    return message.weighted_sum_param.normalization == message.weighted_sum_param.SOFTMAX


def _is_spatial(document: Document) -> dict[str, bool]:
    """Return for each Gate whether its bottoms have a height and a width."""
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


def _gate(message: LayerParameter, spatial: bool) -> list[str]:
    """Write Concat, InnerProduct, Softmax and Slice for the shares; Reshape and Scale for each bottom; Eltwise."""
    name, bottoms = message.name, list(message.bottom)
    rows = [f"{name}/row_{number}" for number, _ in enumerate(bottoms, 1)] if spatial else bottoms
    shares = [f"{name}/share_{number}" for number, _ in enumerate(bottoms, 1)]
    bias = [] if message.gate_param.bias_term else ["    bias_term: false"]
    inner = ["  inner_product_param {", f"    num_output: {len(bottoms)}", *bias, "  }"]
    texts = []
    if spatial:  # maps of different sizes cannot be concatenated, rows can
        texts = [_layer(row, "Flatten", [blob], [row], []) for row, blob in zip(rows, bottoms, strict=True)]
    texts += [
        _layer(f"{name}/all", "Concat", rows, [f"{name}/all"], ["  concat_param { axis: 1 }"]),
        _layer(f"{name}/gate", "InnerProduct", [f"{name}/all"], [f"{name}/gate"], inner),
        _layer(f"{name}/shares", "Softmax", [f"{name}/gate"], [f"{name}/shares"], []),
        _layer(f"{name}/slice", "Slice", [f"{name}/shares"], shares, ["  slice_param { axis: 1 }"]),
    ]
    weighted = []
    for number, (blob, share) in enumerate(zip(bottoms, shares, strict=True), 1):
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
    """Write a layer, in the phases of the layer that it replaces."""
    phases = [rule.phase for rule in like.include] if like else []
    rules = [f"  include {{ phase: {'TRAIN' if phase == 0 else 'TEST'} }}" for phase in phases]
    ends = [f"  bottom: {quote(blob)}" for blob in bottoms] + [f"  top: {quote(blob)}" for blob in tops]
    return "\n".join(["layer {", f"  name: {quote(name)}", f"  type: {quote(kind)}", *ends, *rules, *lines, "}"])
