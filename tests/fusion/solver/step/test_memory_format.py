"""Another layout gives the same numbers but for rounding."""

from __future__ import annotations

import pytest
import torch

import prototxt
from fusion.nets.build import build
from fusion.solver.step.memory_format import has_filters, set_layout

NET = """
input: "data" input_shape { dim: 2 dim: CHANNELS dim: 12 dim: 12 }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1" FROZEN
  convolution_param { num_output: 6 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1" pooling_param { kernel_size: 3 stride: 2 } }
layer { name: "norm1" type: "LRN" bottom: "pool1" top: "norm1" }
layer { name: "up" type: "Deconvolution" bottom: "norm1" top: "up"
  convolution_param { num_output: 4 kernel_size: 2 stride: 2 weight_filler { type: "xavier" } } }
layer { name: "pool2" type: "Pooling" bottom: "up" top: "pool2" pooling_param { pool: AVE kernel_size: 2 stride: 2 } }
layer { name: "ip" type: "InnerProduct" bottom: "pool2" top: "ip"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
"""
FREEZE = "param { lr_mult: 0 } param { lr_mult: 0 }"


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("frozen", [True, False])
def test_outputs_and_gradients_are_the_same(channels: int, frozen: bool) -> None:
    text = NET.replace("CHANNELS", str(channels)).replace("FROZEN", FREEZE if frozen else "")
    net = build(prototxt.load_net(prototxt.parse(text)), "TRAIN", seed=1)
    data = torch.randn(2, channels, 12, 12, generator=torch.Generator().manual_seed(2))
    assert has_filters(net)
    found = []
    for channels_last in (False, True, False):
        set_layout(net, channels_last)
        net.zero_grad()
        scores = net({"data": data})["ip"]
        scores.square().sum().backward()
        found.append([scores.detach(), *(p.grad for p in net.parameters() if p.grad is not None)])
    for usual, other, again in zip(*found, strict=True):
        torch.testing.assert_close(other, usual, rtol=1e-5, atol=1e-6)
        assert torch.equal(usual, again)


def test_nets_without_filters_have_no_layout() -> None:
    text = 'input: "x" input_shape { dim: 2 dim: 3 }\nlayer { name: "r" type: "ReLU" bottom: "x" top: "r" }'
    assert not has_filters(build(prototxt.load_net(prototxt.parse(text)), "TEST"))
