"""Nets that benchmarks train, as prototxt and by hand: a LeNet, and a ResNet-50 like torchvision's."""

from __future__ import annotations

from torch import nn

import prototxt
from prototxt.schema.messages import NetParameter

STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))  # width, bottlenecks


def lenet(batch: int) -> NetParameter:
    """Two convolutions, two inner products, from MemoryData [batch, 1, 28, 28] to ten classes."""
    text = _data(batch, 1, 28) + _convolution("conv1", "data", 20, 5, bias=True) + _pooling("pool1", "conv1", 2, 2)
    text += _convolution("conv2", "pool1", 50, 5, bias=True) + _pooling("pool2", "conv2", 2, 2)
    text += _inner("ip1", "pool2", 500) + _relu("ip1") + _inner("fc", "ip1", 10)
    return _net("lenet", text)


def lenet_by_hand() -> nn.Module:
    """The same in torch's modules."""
    return nn.Sequential(
        nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10),
    )  # fmt: skip


def resnet(batch: int, size: int, *, frozen: bool = False) -> NetParameter:
    """ResNet-50 from MemoryData [batch, 3, size, size] to 1000 classes, the stride in the 3 x 3 convolutions.

    frozen  all but the classifier
    """
    text = _data(batch, 3, size) + _unit("conv1", "data", 64, 7, frozen, stride=2, pad=3) + _relu("conv1")
    text += _pooling("pool1", "conv1", 3, 2, pad=1)
    bottom = "pool1"
    for stage, (width, blocks) in enumerate(STAGES):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            text += _bottleneck(f"res{stage + 2}{chr(97 + block)}", bottom, width, stride, frozen, shorten=not block)
            bottom = f"res{stage + 2}{chr(97 + block)}"
    text += f'layer {{ name: "pool5" type: "Pooling" bottom: "{bottom}" top: "pool5" '
    text += "pooling_param { pool: AVE global_pooling: true } }\n"
    return _net("resnet50", text + _inner("fc", "pool5", 1000))


def _bottleneck(name: str, bottom: str, width: int, stride: int, frozen: bool, *, shorten: bool) -> str:
    text, shortcut = "", bottom
    if shorten:
        shortcut = f"{name}_short"
        text += _unit(shortcut, bottom, 4 * width, 1, frozen, stride=stride)
    text += _unit(f"{name}_a", bottom, width, 1, frozen) + _relu(f"{name}_a")
    text += _unit(f"{name}_b", f"{name}_a", width, 3, frozen, stride=stride, pad=1) + _relu(f"{name}_b")
    text += _unit(f"{name}_c", f"{name}_b", 4 * width, 1, frozen, gain=0.2)
    text += f'layer {{ name: "{name}" type: "Eltwise" bottom: "{shortcut}" bottom: "{name}_c" top: "{name}" }}\n'
    return text + _relu(name)


def _unit(
    name: str, bottom: str, width: int, kernel: int, frozen: bool, *, stride: int = 1, pad: int = 0, gain: float = 1
) -> str:
    """Convolution, BatchNorm, Scale, under one top; a small gain keeps sums of many branches small."""
    rate = "param { lr_mult: 0 } " if frozen else ""
    norm = "batch_norm_param { use_global_stats: true } " if frozen else ""
    return (
        _convolution(name, bottom, width, kernel, stride=stride, pad=pad, rate=rate)
        + f'layer {{ name: "{name}_bn" type: "BatchNorm" bottom: "{name}" top: "{name}" {norm}}}\n'
        + f'layer {{ name: "{name}_scale" type: "Scale" bottom: "{name}" top: "{name}" {rate * 2}'
        + f"scale_param {{ bias_term: true filler {{ value: {gain} }} }} }}\n"
    )


def _convolution(
    name: str, bottom: str, width: int, kernel: int, *, stride: int = 1, pad: int = 0, bias: bool = False,
    rate: str = "",
) -> str:  # fmt: skip
    return (
        f'layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}" {rate}'
        f"convolution_param {{ num_output: {width} kernel_size: {kernel} stride: {stride} pad: {pad} "
        f'bias_term: {str(bias).lower()} weight_filler {{ type: "msra" }} }} }}\n'
    )


def _pooling(name: str, bottom: str, kernel: int, stride: int, *, pad: int = 0) -> str:
    window = f"kernel_size: {kernel} stride: {stride} pad: {pad} round_mode: FLOOR"
    return f'layer {{ name: "{name}" type: "Pooling" bottom: "{bottom}" top: "{name}" pooling_param {{ {window} }} }}\n'


def _relu(blob: str) -> str:
    return f'layer {{ name: "{blob}_relu" type: "ReLU" bottom: "{blob}" top: "{blob}" }}\n'


def _inner(name: str, bottom: str, width: int) -> str:
    return (
        f'layer {{ name: "{name}" type: "InnerProduct" bottom: "{bottom}" top: "{name}" '
        f'inner_product_param {{ num_output: {width} weight_filler {{ type: "xavier" }} }} }}\n'
    )


def _data(batch: int, channels: int, size: int) -> str:
    shape = f"batch_size: {batch} channels: {channels} height: {size} width: {size}"
    return f'layer {{ name: "data" type: "MemoryData" top: "data" top: "label" memory_data_param {{ {shape} }} }}\n'


def _net(name: str, text: str) -> NetParameter:
    text += 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }\n'
    return prototxt.load_net(prototxt.parse(f'name: "{name}"\n{text}', name=name))
