from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch

import fusion
import prototxt
from fusion import FusionError
from fusion.errors import DeadShares
from fusion.surgery import bake

INPUTS = """
layer { name: "a" type: "Input" top: "a" input_param { shape { dim: 2 dim: 3 SIZE } } }
layer { name: "b" type: "Input" top: "b" input_param { shape { dim: 2 dim: 3 SIZE } } }
"""
Weights = dict[str, list[Any]]


def net(layer: str, size: str = "") -> prototxt.Document:
    text = INPUTS.replace("SIZE", size)
    return prototxt.parse(f'{text}layer {{ name: "join" bottom: "a" bottom: "b" top: "join" {layer} }}')


def answer(document: prototxt.Document, weights: Weights) -> torch.Tensor:
    message = prototxt.load_net(document)
    built = fusion.build(message)
    fusion.load_weights(built, weights)
    random = torch.Generator().manual_seed(0)
    inputs = {
        layer.top[0]: torch.randn(tuple(layer.input_param.shape[0].dim), generator=random)
        for layer in message.layer
        if layer.type == "Input"
    }
    found: torch.Tensor = built(inputs)["join"].detach()
    return found


@pytest.mark.parametrize("size", ["", "dim: 4 dim: 5"])
@pytest.mark.parametrize(
    ("layer", "blobs"),
    [
        ('type: "WeightedSum"', [[0.7, -0.2]]),
        ('type: "WeightedSum" include { phase: TEST }', [[0.7, 0.4]]),
        ('type: "WeightedSum" weighted_sum_param { normalization: SOFTMAX }', [[0.7, -3.0]]),
        ('type: "Gate"', None),
        ('type: "Gate" gate_param { bias_term: false }', None),
    ],
)
def test_a_baked_net_computes_the_same_in_plain_caffe(layer: str, blobs: Any, size: str) -> None:
    document = net(layer, size)
    random = np.random.default_rng(0)
    if blobs is None:
        shapes = prototxt.infer(prototxt.load_net(document)).params[-1]
        blobs = [random.normal(0, 0.3, [int(dim or 0) for dim in shape]) for shape in shapes]
    weights = {"join": [np.asarray(blob, np.float32) for blob in blobs]}
    outcome = bake(document, weights)
    assert outcome.document is not None
    assert not {"WeightedSum", "Gate"} & {found.type for found in prototxt.load_net(outcome.document).layer}
    torch.testing.assert_close(
        answer(outcome.document, outcome.weights), answer(document, weights), rtol=1e-5, atol=1e-6
    )


def test_shares_that_are_all_zero_are_warned_of() -> None:
    with pytest.warns(DeadShares, match=r"layer 'join': all shares are 0 \(-1, 0\)"):
        outcome = bake(net('type: "WeightedSum"'), {"join": [np.array([-1, 0], np.float32)]})
    assert outcome.changed == {"join": "Eltwise with coeff 0, 0"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bake(net('type: "WeightedSum"'), {"join": [np.array([-1, 1e-9], np.float32)]})


@pytest.mark.parametrize(
    ("layer", "weights", "says"),
    [
        ('type: "Eltwise"', {}, "there is no layer to bake"),
        ('type: "WeightedSum"', {}, "'join' has no weights to bake"),
        ('type: "WeightedSum"', {"join": [np.ones(3)]}, "has 2 bottoms, its weights are of shape 3"),
    ],
)
def test_what_cannot_be_baked(layer: str, weights: Weights, says: str) -> None:
    with pytest.raises(FusionError, match=says):
        bake(net(layer), weights)
