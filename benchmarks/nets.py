"""Nets of the benchmarks as prototxt and in torch's modules: LeNets, and bottleneck ResNets like torchvision's."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

import prototxt
from prototxt.schema.messages import NetParameter


def lenet_body(prefix: str = "") -> str:
    """Write the tutorial's LeNet from `data` to its first dense layer, `ip1`."""
    p = prefix
    text = convolution(f"{p}conv1", "data", 20, 5, bias=True) + pooling(f"{p}pool1", f"{p}conv1", 2, 2)
    text += convolution(f"{p}conv2", f"{p}pool1", 50, 5, bias=True) + pooling(f"{p}pool2", f"{p}conv2", 2, 2)
    return text + dense(f"{p}ip1", f"{p}pool2", 500)


def lenet(batch: int) -> NetParameter:
    """Return a LeNet from MemoryData [batch, 1, 28, 28] to ten classes."""
    return _trained("lenet", memory_data(batch, 1, 28) + lenet_body() + relu("ip1") + dense("fc", "ip1", 10))


def lenet_by_hand() -> nn.Module:
    """Return the same LeNet in torch's modules."""
    return nn.Sequential(
        nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10),
    )  # fmt: skip


def resnet_body(prefix: str, width: int, depths: Sequence[int], *, frozen: bool = False) -> str:
    """Write a ResNet of bottlenecks from `data` to `pool5`, the stride in the 3 x 3 convolutions.

    width   channels of the first stage's 3 x 3 convolutions, doubled in each following one
    depths  bottlenecks per stage
    """
    conv1 = f"{prefix}conv1"
    text = normalized(conv1, "data", width, 7, frozen, stride=2, pad=3) + relu(conv1)
    bottom = f"{prefix}pool1"
    text += pooling(bottom, conv1, 3, 2, pad=1)
    for stage, depth in enumerate(depths):
        for block in range(depth):
            name, stride = f"{prefix}res{stage + 2}{chr(97 + block)}", 2 if stage and not block else 1
            text += _bottleneck(name, bottom, width << stage, stride, frozen, projected=not block)
            bottom = name
    return text + global_pooling(f"{prefix}pool5", bottom)


def resnet(batch: int, size: int, *, frozen: bool = False) -> NetParameter:
    """Return ResNet-50 from MemoryData [batch, 3, size, size] to 1000 classes; `frozen`: all but the classifier."""
    body = resnet_body("", 64, (3, 4, 6, 3), frozen=frozen)
    return _trained("resnet50", memory_data(batch, 3, size) + body + dense("fc", "pool5", 1000))


def _bottleneck(name: str, bottom: str, width: int, stride: int, frozen: bool, *, projected: bool) -> str:
    text, shortcut = "", bottom
    if projected:
        shortcut = f"{name}_short"
        text += normalized(shortcut, bottom, 4 * width, 1, frozen, stride=stride)
    text += normalized(f"{name}_a", bottom, width, 1, frozen) + relu(f"{name}_a")
    text += normalized(f"{name}_b", f"{name}_a", width, 3, frozen, stride=stride, pad=1) + relu(f"{name}_b")
    text += normalized(f"{name}_c", f"{name}_b", 4 * width, 1, frozen, gain=0.2)
    return text + layer(name, "Eltwise", [shortcut, f"{name}_c"]) + relu(name)


def normalized(
    name: str, bottom: str, width: int, kernel: int, frozen: bool = False, *, stride: int = 1, pad: int = 0,
    gain: float = 1,
) -> str:  # fmt: skip
    """Write Convolution, BatchNorm and Scale with one top; a small gain keeps sums of many branches small."""
    rate = "param { lr_mult: 0 } " if frozen else ""
    norm = "batch_norm_param { use_global_stats: true }" if frozen else ""
    return (
        convolution(name, bottom, width, kernel, stride=stride, pad=pad, more=rate)
        + layer(f"{name}_bn", "BatchNorm", [name], name, norm)
        + layer(f"{name}_scale", "Scale", [name], name,
                f"{rate * 2}scale_param {{ bias_term: true filler {{ value: {gain} }} }}")
    )  # fmt: skip


def convolution(
    name: str, bottom: str, width: int, kernel: int, *, stride: int = 1, pad: int = 0, bias: bool = False,
    filler: str = "msra", more: str = "",
) -> str:  # fmt: skip
    """Write a Convolution."""
    param = f"num_output: {width} kernel_size: {kernel} stride: {stride} pad: {pad} bias_term: {str(bias).lower()}"
    param += f' weight_filler {{ type: "{filler}" }}'
    return layer(name, "Convolution", [bottom], more=f"{more}convolution_param {{ {param} }}")


def pooling(name: str, bottom: str, kernel: int, stride: int, *, pad: int = 0) -> str:
    """Write a maximum Pooling whose output size is rounded down, as in torch."""
    param = f"kernel_size: {kernel} stride: {stride} pad: {pad} round_mode: FLOOR"
    return layer(name, "Pooling", [bottom], more=f"pooling_param {{ {param} }}")


def global_pooling(name: str, bottom: str) -> str:
    """Write an average Pooling over the whole blob."""
    return layer(name, "Pooling", [bottom], more="pooling_param { pool: AVE global_pooling: true }")


def dense(name: str, bottom: str, width: int) -> str:
    """Write an InnerProduct."""
    param = f'num_output: {width} weight_filler {{ type: "xavier" }}'
    return layer(name, "InnerProduct", [bottom], more=f"inner_product_param {{ {param} }}")


def relu(blob: str) -> str:
    """Write a ReLU in place."""
    return layer(f"{blob}_relu", "ReLU", [blob], blob)


def layer(name: str, kind: str, bottoms: Sequence[str], top: str = "", more: str = "") -> str:
    """Write a layer; its top has its name by default."""
    ends = " ".join(f'bottom: "{bottom}"' for bottom in bottoms)
    return f'layer {{ name: "{name}" type: "{kind}" {ends} top: "{top or name}" {more} }}\n'


def memory_data(batch: int, channels: int, size: int) -> str:
    """Write a MemoryData layer with the tops `data` and `label`."""
    shape = f"batch_size: {batch} channels: {channels} height: {size} width: {size}"
    return f'layer {{ name: "data" type: "MemoryData" top: "data" top: "label" memory_data_param {{ {shape} }} }}\n'


def input_data(channels: int, size: int) -> str:
    """Write an Input layer of one square picture."""
    shape = f"dim: 1 dim: {channels} dim: {size} dim: {size}"
    return f'layer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ {shape} }} }} }}\n'


def _trained(name: str, text: str) -> NetParameter:
    text += layer("loss", "SoftmaxWithLoss", ["fc", "label"])
    return prototxt.load_net(prototxt.parse(f'name: "{name}"\n{text}', name=name))
