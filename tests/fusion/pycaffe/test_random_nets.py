"""Random nets layer by layer against torch's own program of the same net, forward and backward."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch

import fusion
import fusion.pycaffe as caffe

PARAMS = {
    "Convolution": 'convolution_param { num_output: 3 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } }',
    "Scale": "scale_param { filler { value: 1.5 } bias_term: true }",
    "PReLU": "prelu_param { filler { value: 0.3 } }",
    "Power": "power_param { scale: 0.7 shift: 0.1 }",
    **dict.fromkeys(("ELU", "ReLU", "Sigmoid", "Flatten", "LRN", "Eltwise"), ""),
}
IN_PLACE = ("ELU", "ReLU", "Sigmoid", "PReLU", "Scale")


def net_text(seed: int) -> str:
    """Write a net; in-place layers work on blobs without other readers, whose gradients would see the change."""
    draw, shared = random.Random(seed), {"b0"}
    axes = {"b0": 4}
    text = """force_backward: true
layer { name: "data" type: "Input" top: "b0" input_param { shape { dim: 2 dim: 3 dim: 4 dim: 4 } } }
"""
    for number in range(1, draw.randint(4, 10)):
        kind, bottom = draw.choice(list(PARAMS)), draw.choice(list(axes))
        if kind in ("Convolution", "LRN") and axes[bottom] != 4:
            continue
        second = draw.choice([name for name in axes if axes[name] == axes[bottom]])
        in_place = kind in IN_PLACE and bottom not in shared
        top = bottom if in_place else f"b{number}"
        ends = f'bottom: "{bottom}"' + f' bottom: "{second}"' * (kind == "Eltwise")
        text += f'layer {{ name: "l{number}" type: "{kind}" {ends} top: "{top}" {PARAMS[kind]} }}\n'
        if not in_place:
            axes[top] = 2 if kind == "Flatten" else axes[bottom]
            shared |= {bottom} | ({second} if kind == "Eltwise" else set()) | ({top} if kind == "Flatten" else set())
    return text


@pytest.mark.parametrize("seed", range(24))
def test_values_and_gradients_equal_those_of_the_program(seed: int, prototxt_file: Callable[..., str]) -> None:
    caffe.set_random_seed(seed)
    net = caffe.Net(prototxt_file(net_text(seed)), seed % 2)
    draw = np.random.default_rng(seed)
    images = draw.standard_normal((2, 3, 4, 4)).astype(np.float32)
    weights = {name: draw.standard_normal(net.blobs[name].shape).astype(np.float32) for name in net.outputs}
    net.forward(b0=images)
    net.backward(**weights)
    data = torch.from_numpy(images.copy()).requires_grad_()
    expected = fusion.blobs(net.module, {"b0": data})
    for name, values in expected.items():
        np.testing.assert_allclose(net.blobs[name].data, values.detach(), rtol=1e-5, atol=1e-6)
    total = sum((expected[name] * torch.from_numpy(array)).sum() for name, array in weights.items())
    parameters = [tensor for tensors in fusion.params(net.module).values() for tensor in tensors]
    own = [net.blobs["b0"], *(blob for blobs in net.params.values() for blob in blobs)]
    for blob, gradient in zip(own, torch.autograd.grad(total, [data, *parameters]), strict=True):
        np.testing.assert_allclose(blob.diff, gradient, rtol=1e-4, atol=1e-5)
