"""Convolutions over four spatial axes, against sums over every kernel position, and their transposes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import prototxt
from fusion.nets import build as nets
from fusion.nets.graph import Net
from prototxt.shapes import infer

STRIDE, PAD, DILATION = (2, 1, 1, 3), (1, 0, 1, 2), (2, 1, 1, 1)
GEOMETRY = f"kernel_size: [2, 1, 3, 2] stride: {list(STRIDE)} pad: {list(PAD)} dilation: {list(DILATION)}"
EVERY = (slice(None), slice(None))
SHAPE = (2, 4, 5, 2, 4, 4)


def build(kind: str, shape: tuple[int, ...], group: int) -> Net:
    dims = " ".join(f"dim: {dim}" for dim in shape)
    text = f"""
layer {{ name: "in" type: "Input" top: "x" input_param {{ shape {{ {dims} }} }} }}
layer {{ name: "c" type: "{kind}" bottom: "x" top: "y" convolution_param {{ num_output: 4 group: {group} {GEOMETRY}
  weight_filler {{ type: "gaussian" std: 1 }} bias_filler {{ type: "gaussian" std: 1 }} }} }}"""
    net = nets.build(prototxt.parse(text), seed=0).double()
    sizes = infer(prototxt.load_net(prototxt.parse(text))).blobs["y"]
    assert tuple(net({"x": torch.zeros(shape, dtype=torch.float64)})["y"].shape) == sizes
    return net


def summed(x: NDArray[np.float64], weight: NDArray[np.float64], sizes: tuple[int, ...]) -> NDArray[np.float64]:
    """One group's outputs, each the sum over inputs and kernel positions."""
    padded = np.pad(x, [(0, 0), (0, 0), *((pad, pad) for pad in PAD)])
    y = np.zeros((len(x), len(weight), *sizes))
    for kernel in np.ndindex(weight.shape[2:]):
        for at in np.ndindex(sizes):
            place = tuple(a * s + k * d for a, s, k, d in zip(at, STRIDE, kernel, DILATION, strict=True))
            y[EVERY + at] += padded[EVERY + place] @ weight[EVERY + kernel].T
    return y


@pytest.mark.parametrize("group", [1, 2])
def test_four_axes(group: int) -> None:
    net = build("Convolution", SHAPE, group)
    x = torch.randn(SHAPE, dtype=torch.float64)
    weight, bias = (p.detach().numpy() for p in nets.params(net)["c"])
    found = net({"x": x})["y"].detach().numpy()
    parts = zip(np.split(x.numpy(), group, 1), np.split(weight, group), strict=True)
    expected = np.concatenate([summed(part, own, found.shape[2:]) for part, own in parts], 1)
    np.testing.assert_allclose(found, expected + bias.reshape(-1, 1, 1, 1, 1), atol=1e-12)


@pytest.mark.parametrize("group", [1, 2])
def test_a_deconvolution_is_the_transpose(group: int) -> None:
    plain = build("Convolution", SHAPE, group)
    x = torch.randn(SHAPE, dtype=torch.float64, requires_grad=True)
    y = plain({"x": x})["y"]
    transposed = build("Deconvolution", tuple(y.shape), group)
    with torch.no_grad():
        nets.params(transposed)["c"][0].copy_(nets.params(plain)["c"][0])
        nets.params(transposed)["c"][1].zero_()
    given = torch.randn_like(y)
    expected = torch.autograd.grad(y, x, given)[0]
    torch.testing.assert_close(transposed({"x": given})["y"].detach(), expected)


@pytest.mark.parametrize("kind", ["Convolution", "Deconvolution"])
def test_gradients_are_derivatives(kind: str) -> None:
    net = build(kind, (1, 4, 3, 2, 3, 4), 2)
    x = torch.randn(1, 4, 3, 2, 3, 4, dtype=torch.float64).requires_grad_()
    own = {name: p.detach().requires_grad_() for name, p in net.named_parameters()}

    def out(x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        values = torch.func.functional_call(net, dict(zip(own, parameters, strict=True)), ({"x": x},))
        return values["y"]  # type: ignore[no-any-return]

    assert torch.autograd.gradcheck(out, (x, *own.values()), fast_mode=True)


@pytest.mark.parametrize("axis", [2, -3])
def test_channels_may_come_after_more_axes_than_the_batch(axis: int) -> None:
    """Counted from the front or from the end: [2, 3, C, H, W] are six images."""
    text = f"""layer {{ name: "in" type: "Input" top: "x"
      input_param {{ shape {{ dim: [2, 3, 4, 5, 6] }} }} }}
    layer {{ name: "c" type: "Convolution" bottom: "x" top: "y" convolution_param {{ num_output: 2 kernel_size: 3
      axis: {axis} weight_filler {{ type: "gaussian" std: 1 }} }} }}"""
    net = nets.build(prototxt.parse(text), seed=0)
    weight, bias = nets.params(net)["c"]
    x = torch.randn(2, 3, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.conv2d(x.flatten(0, 1), weight, bias).reshape(2, 3, 2, 3, 4)
    torch.testing.assert_close(net({"x": x})["y"], expected)
