"""Nets of the benchmarks as prototxt and in torch's modules: LeNets, and bottleneck ResNets like torchvision's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

import prototxt
from fusion.pycaffe.net_spec import NetSpec, Top, layers as L, params as P
from prototxt.schema.messages import NetParameter


def lenet_body(n: NetSpec, prefix: str = "") -> Top:
    """Add the tutorial's LeNet from `data` to its first dense layer, `ip1`, which is returned."""
    top = n.data
    for number, width in ((1, 20), (2, 50)):
        n[f"{prefix}conv{number}"] = top = convolution(top, width, 5, bias_term=True)
        n[f"{prefix}pool{number}"] = top = pooling(top, 2, 2)
    n[f"{prefix}ip1"] = top = dense(top, 500)
    return top


def lenet(batch: int) -> NetParameter:
    """Return a LeNet from MemoryData [batch, 1, 28, 28] to ten classes."""
    n = memory_data(batch, 1, 28)
    return _trained("lenet", n, dense(rectified(n, "ip1", lenet_body(n)), 10))


def lenet_by_hand() -> nn.Module:
    """Return the same LeNet in torch's modules."""
    return nn.Sequential(
        nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10),
    )  # fmt: skip


def resnet_body(n: NetSpec, prefix: str, width: int, depths: Sequence[int], *, frozen: bool = False) -> Top:
    """Add a ResNet of bottlenecks from `data` to `pool5`, which is returned; the stride is in the 3 x 3 convolutions.

    width   channels of the first stage's 3 x 3 convolutions, doubled in each following one
    depths  bottlenecks per stage
    """
    conv1 = normalized(n, f"{prefix}conv1", n.data, width, 7, frozen, stride=2, pad=3, relu=True)
    n[f"{prefix}pool1"] = top = pooling(conv1, 3, 2, pad=1)
    for stage, depth in enumerate(depths):
        for block in range(depth):
            name, stride = f"{prefix}res{stage + 2}{chr(97 + block)}", 2 if stage and not block else 1
            top = _bottleneck(n, name, top, width << stage, stride, frozen, projected=not block)
    n[f"{prefix}pool5"] = top = global_pooling(top)
    return top


def resnet(batch: int, size: int, *, frozen: bool = False) -> NetParameter:
    """Return ResNet-50 from MemoryData [batch, 3, size, size] to 1000 classes; `frozen`: all but the classifier."""
    n = memory_data(batch, 3, size)
    return _trained("resnet50", n, dense(resnet_body(n, "", 64, (3, 4, 6, 3), frozen=frozen), 1000))


def _bottleneck(n: NetSpec, name: str, bottom: Top, width: int, stride: int, frozen: bool, *, projected: bool) -> Top:
    shortcut = normalized(n, f"{name}_short", bottom, 4 * width, 1, frozen, stride=stride) if projected else bottom
    top = normalized(n, f"{name}_a", bottom, width, 1, frozen, relu=True)
    top = normalized(n, f"{name}_b", top, width, 3, frozen, stride=stride, pad=1, relu=True)
    return added(n, name, shortcut, normalized(n, f"{name}_c", top, 4 * width, 1, frozen, gain=0.2))


def added(n: NetSpec, name: str, *bottoms: Top) -> Top:
    """Add an Eltwise and a ReLU."""
    n[name] = top = L.Eltwise(*bottoms)
    return rectified(n, name, top)


def rectified(n: NetSpec, name: str, top: Top) -> Top:
    """Add a ReLU in place, `NAME_relu`."""
    n[f"{name}_relu"] = L.ReLU(top, in_place=True)
    return n[f"{name}_relu"]


def normalized(
    n: NetSpec, name: str, bottom: Top, width: int, kernel: int, frozen: bool = False, *, stride: int = 1,
    pad: int = 0, gain: float = 1, relu: bool = False,
) -> Top:  # fmt: skip
    """Add Convolution, BatchNorm and Scale with one top; a small gain keeps sums of many branches small."""
    rate = [{"lr_mult": 0}] if frozen else []
    n[name] = top = convolution(bottom, width, kernel, stride=stride, pad=pad, param=rate)
    n[f"{name}_bn"] = top = L.BatchNorm(top, in_place=True, **({"use_global_stats": True} if frozen else {}))
    scale = {"bias_term": True, "filler": {"value": gain}}
    n[f"{name}_scale"] = top = L.Scale(top, in_place=True, param=rate * 2, scale_param=scale)
    return rectified(n, name, top) if relu else top


def convolution(bottom: Top, width: int, kernel: int, *, filler: str = "msra", **settings: Any) -> Top:
    """Return a Convolution, without bias unless `bias_term` says so."""
    settings = {"stride": 1, "pad": 0, "bias_term": False, **settings}
    return L.Convolution(bottom, num_output=width, kernel_size=kernel, weight_filler={"type": filler}, **settings)


def pooling(bottom: Top, kernel: int, stride: int, pad: int = 0) -> Top:
    """Return a maximum Pooling whose output size is rounded down, as in torch."""
    return L.Pooling(bottom, kernel_size=kernel, stride=stride, pad=pad, round_mode=P.Pooling.FLOOR)


def global_pooling(bottom: Top) -> Top:
    """Return an average Pooling over the whole blob."""
    return L.Pooling(bottom, pool=P.Pooling.AVE, global_pooling=True)


def dense(bottom: Top, width: int) -> Top:
    """Return an InnerProduct."""
    return L.InnerProduct(bottom, num_output=width, weight_filler={"type": "xavier"})


def memory_data(batch: int, channels: int, size: int) -> NetSpec:
    """Return a net of a MemoryData layer with the tops `data` and `label`."""
    n = NetSpec()
    n.data, n.label = L.MemoryData(batch_size=batch, channels=channels, height=size, width=size, ntop=2)
    return n


def input_data(channels: int, size: int) -> NetSpec:
    """Return a net of an Input layer of one square picture, `data`."""
    n = NetSpec()
    n.data = L.Input(shape={"dim": [1, channels, size, size]})
    return n


def _trained(name: str, n: NetSpec, scores: Top) -> NetParameter:
    n.fc = scores
    n.loss = L.SoftmaxWithLoss(n.fc, n.label)
    return prototxt.load_net(prototxt.parse(f'name: "{name}"\n{n.to_proto()}', name=name))
