"""Sums with learned shares."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

import prototxt
from fusion.errors import DeadShares
from fusion.nets import build as nets
from fusion.nets.graph import Net
from fusion.nets.weights import load_weights, save_weights

INPUTS = "".join(
    f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ dim: 2 dim: 3 dim: 4 }} }} }}'
    for name in "abc"
)


def build(kind: str) -> Net:
    text = f'{INPUTS} layer {{ name: "sum" bottom: "a" bottom: "b" bottom: "c" top: "y" {kind} }}'
    return nets.build(prototxt.parse(text), seed=0)


def blobs() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(2, 3, 4, generator=generator) for name in "abc"}


def test_a_weighted_sum_starts_as_the_mean() -> None:
    x = blobs()
    mean = (x["a"] + x["b"] + x["c"]) / 3
    torch.testing.assert_close(build('type: "WeightedSum"')(x)["y"], mean, rtol=1e-4, atol=1e-4)
    softmax = build('type: "WeightedSum" weighted_sum_param { normalization: SOFTMAX }')
    torch.testing.assert_close(softmax(x)["y"], mean)


def test_fastnorm_leaves_out_what_falls_below_zero() -> None:
    net = build('type: "WeightedSum"')
    with torch.no_grad():
        nets.params(net)["sum"][0].copy_(torch.tensor([1.0, -2.0, 3.0]))
    x = blobs()
    torch.testing.assert_close(net(x)["y"], (x["a"] + 3 * x["c"]) / 4.0001)


def test_a_silent_sum_is_told_of_wherever_weights_come_and_go(tmp_path: Path) -> None:
    net = build('type: "WeightedSum"')
    for v, dead in (([-1.0, 0.0, -0.5], True), ([-1.0, 1e-6, -0.5], False)):
        weights = {"sum": [np.array(v, np.float32)]}
        for act in (lambda weights=weights: load_weights(net, weights), lambda: save_weights(net, tmp_path / "w.h5")):
            with pytest.warns(DeadShares, match="layer 'sum': all shares are 0, because") if dead else nullcontext():
                act()
    assert float(net(blobs())["y"].detach().abs().max()) > 0
    softmax = build('type: "WeightedSum" weighted_sum_param { normalization: SOFTMAX }')
    load_weights(softmax, {"sum": [np.full(3, -1, np.float32)]})


def test_a_gate_starts_as_the_mean_and_learns_per_sample() -> None:
    net, x = build('type: "Gate"'), blobs()
    torch.testing.assert_close(net(x)["y"], (x["a"] + x["b"] + x["c"]) / 3)
    weight, bias = nets.params(net)["sum"]
    assert (weight.shape, bias.shape) == ((3, 36), (3,))
    with torch.no_grad():
        bias.copy_(torch.tensor([100.0, 0.0, 0.0]))
    torch.testing.assert_close(net(x)["y"], x["a"])


def test_gradients_are_derivatives() -> None:
    for kind in (
        'type: "WeightedSum"',
        'type: "WeightedSum" weighted_sum_param { normalization: SOFTMAX }',
        'type: "Gate"',
    ):
        net = build(kind).double()
        parameters = {name: p.detach() for name, p in net.named_parameters()}

        def output(*tensors: torch.Tensor, net: Net = net, names: tuple[str, ...] = tuple(parameters)) -> torch.Tensor:
            own = dict(zip(names, tensors[3:], strict=True))
            given = dict(zip("abc", tensors[:3], strict=True))
            return torch.func.functional_call(net, own, (given,))["y"]  # type: ignore[no-any-return]

        tensors = [t.double().requires_grad_() for t in (*blobs().values(), *(p.clone() for p in parameters.values()))]
        assert torch.autograd.gradcheck(output, tensors)
