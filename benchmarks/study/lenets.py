"""The nets of the studies as prototxt: LeNets and a smaller net, and a loss that holds them to old ones."""

from __future__ import annotations

from typing import NamedTuple

import nets
from google.protobuf import text_format

from prototxt.schema.messages import SolverParameter

BATCH = 25


class Widths(NamedTuple):
    """Outputs of the two convolutions and of the dense layer between them and the classifier."""

    conv1: int = 8
    conv2: int = 16
    ip1: int = 64


SMALL, BIG = Widths(), Widths(16, 32, 128)


def lenet(widths: Widths, classes: int) -> str:
    """Write a LeNet that reads its rows from memory."""
    text = nets.memory_data(BATCH, 1, 28)
    text += nets.convolution("conv1", "data", widths.conv1, 5, bias=True, filler="xavier")
    text += nets.pooling("pool1", "conv1", 2, 2)
    text += nets.convolution("conv2", "pool1", widths.conv2, 5, bias=True, filler="xavier")
    text += nets.pooling("pool2", "conv2", 2, 2)
    text += nets.dense("ip1", "pool2", widths.ip1) + nets.relu("ip1") + nets.dense("ip2", "ip1", classes)
    return text + nets.layer("loss", "SoftmaxWithLoss", ["ip2", "label"])


def dense_net(widths: Widths, classes: int) -> str:
    """Write a net without convolutions for the images of 8 x 8 pixels."""
    text = nets.memory_data(BATCH, 1, 8) + nets.dense("ip1", "data", widths.ip1) + nets.relu("ip1")
    return text + nets.dense("ip2", "ip1", classes) + nets.layer("loss", "SoftmaxWithLoss", ["ip2", "label"])


def compatible(classes: int, weight: float) -> str:
    """Write a frozen classifier, `old`, of the new features, and the loss of its scores (BCT)."""
    frozen = "param { lr_mult: 0 } param { lr_mult: 0 }"
    return (
        f'layer {{ name: "old" type: "InnerProduct" bottom: "ip1" top: "old" {frozen} '
        f"inner_product_param {{ num_output: {classes} }} }}\n"
        f'layer {{ name: "bct" type: "BCTLoss" bottom: "old" bottom: "label" top: "bct" loss_weight: {weight:g} }}'
    )


def solver(net: str, seed: int, iterations: int) -> SolverParameter:
    """Return SGD whose rate falls to 0, so that nets of different seeds have converged when they are compared."""
    rule = 'base_lr: 0.01 momentum: 0.9 weight_decay: 0.0005 lr_policy: "poly" power: 1 clip_gradients: 10'
    message = text_format.Parse(f"{rule} random_seed: {seed} max_iter: {iterations}", SolverParameter())
    text_format.Parse(net, message.net_param)
    return message
