"""The nets of the study as prototxt: LeNets of several widths, and what holds them to old ones."""

from __future__ import annotations

from typing import NamedTuple

from google.protobuf import text_format

from prototxt.schema.messages import SolverParameter

BATCH = 25
_FILLED = 'weight_filler { type: "xavier" }'


class Widths(NamedTuple):
    """Outputs of the two convolutions and of the dense layer between them and the classifier."""

    conv1: int = 8
    conv2: int = 16
    ip1: int = 64


SMALL, BIG = Widths(), Widths(16, 32, 128)


def lenet(widths: Widths, classes: int) -> str:
    """A LeNet that takes its rows from memory."""
    param = f"batch_size: {BATCH} channels: 1 height: 28 width: 28"
    return "\n".join(
        [
            f'layer {{ name: "data" type: "MemoryData" top: "data" top: "label" memory_data_param {{ {param} }} }}',
            _convolution("conv1", "data", widths.conv1),
            _pooling("pool1", "conv1"),
            _convolution("conv2", "pool1", widths.conv2),
            _pooling("pool2", "conv2"),
            _dense("ip1", "pool2", widths.ip1),
            'layer { name: "relu1" type: "ReLU" bottom: "ip1" top: "ip1" }',
            _dense("ip2", "ip1", classes),
            'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }',
        ]
    )


def compatible(classes: int, weight: float) -> str:
    """Layers that put new features through a frozen classifier, `old`, and judge what it says of them (BCT)."""
    frozen = "param { lr_mult: 0 } param { lr_mult: 0 }"
    return (
        f'layer {{ name: "old" type: "InnerProduct" bottom: "ip1" top: "old" {frozen} '
        f"inner_product_param {{ num_output: {classes} }} }}\n"
        f'layer {{ name: "bct" type: "BCTLoss" bottom: "old" bottom: "label" top: "bct" loss_weight: {weight:g} }}'
    )


def solver(net: str, seed: int, iterations: int) -> SolverParameter:
    """SGD whose rate falls to nothing, so that nets of different seeds are at rest when they are compared."""
    rule = 'base_lr: 0.01 momentum: 0.9 weight_decay: 0.0005 lr_policy: "poly" power: 1 clip_gradients: 10'
    message = text_format.Parse(f"{rule} random_seed: {seed} max_iter: {iterations}", SolverParameter())
    text_format.Parse(net, message.net_param)
    return message


def _convolution(name: str, bottom: str, outputs: int) -> str:
    param = f"convolution_param {{ num_output: {outputs} kernel_size: 5 {_FILLED} }}"
    return f'layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}" {param} }}'


def _pooling(name: str, bottom: str) -> str:
    param = "pooling_param { kernel_size: 2 stride: 2 }"
    return f'layer {{ name: "{name}" type: "Pooling" bottom: "{bottom}" top: "{name}" {param} }}'


def _dense(name: str, bottom: str, outputs: int) -> str:
    param = f"inner_product_param {{ num_output: {outputs} {_FILLED} }}"
    return f'layer {{ name: "{name}" type: "InnerProduct" bottom: "{bottom}" top: "{name}" {param} }}'
