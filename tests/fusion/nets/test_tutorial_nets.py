"""The published LeNets with their trained weights, alone and fused, against what BVLC Caffe made of real digits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import prototxt
from fusion.nets import build as nets
from fusion.nets.graph import Net
from fusion.nets.split import split_trunk
from fusion.nets.weights import load_weights

SHAPES = {"data": (20, 1, 28, 28), "label": (20,)}


def trained(reference: Path, name: str) -> Net:
    net = nets.build(reference / "tutorial" / f"lenet_{name}_train_val.prototxt", shapes=SHAPES, seed=0)
    for digits in ("odd", "even"):
        weights = prototxt.read_weights(reference / "tutorial" / f"mnist_lenet_{digits}_iter_30000.caffemodel")
        if name == digits:
            load_weights(net, weights, strict=True)
        elif name == "fusion":
            load_weights(net, {f"{digits}/{layer}": weights[layer] for layer in weights})
    return net


@pytest.mark.parametrize("name", ["odd", "even", "fusion"])
def test_trained_nets_give_caffes_outputs(name: str, reference: Path, shared: Path) -> None:
    net = trained(reference, name)
    with np.load(shared / "golden" / "tutorial" / f"lenet_{name}_val.npz") as file:
        recorded = dict(file)
    for batch in ("b0", "b1"):
        inputs = {key: torch.from_numpy(recorded[f"{batch}:{key}"]) for key in ("data", "label")}
        found = nets.blobs(net, inputs)
        for key, expected in recorded.items():
            start, _, blob = key.partition(":")
            untrained = name == "fusion" and blob in ("ip2", "accuracy", "loss")
            if start == batch and not untrained:
                scale = float(np.abs(expected).max())
                np.testing.assert_allclose(
                    found[blob].detach().numpy(), expected, rtol=1e-4, atol=1e-5 * scale, err_msg=key
                )


def test_the_published_fused_net_has_a_trunk_of_both_branches(reference: Path) -> None:
    found = split_trunk(trained(reference, "fusion"))
    assert found is not None
    assert found.boundary == ("ip1_fused",)
    assert [call.name for call in found.head.plan.calls] == ["ip2", "accuracy", "loss"]
