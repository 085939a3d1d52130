"""The nets of the studies as prototxt: LeNets and a smaller net, and a loss that holds them to old ones."""

from __future__ import annotations

from typing import NamedTuple

import nets
from google.protobuf import text_format

from fusion.pycaffe.net_spec import NetSpec, Top, layers as L
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
    n = nets.memory_data(BATCH, 1, 28)
    n.conv1 = nets.convolution(n.data, widths.conv1, 5, bias_term=True, filler="xavier")
    n.pool1 = nets.pooling(n.conv1, 2, 2)
    n.conv2 = nets.convolution(n.pool1, widths.conv2, 5, bias_term=True, filler="xavier")
    n.pool2 = nets.pooling(n.conv2, 2, 2)
    return _scored(n, n.pool2, widths.ip1, classes)


def dense_net(widths: Widths, classes: int) -> str:
    """Write a net without convolutions for the images of 8 x 8 pixels."""
    n = nets.memory_data(BATCH, 1, 8)
    return _scored(n, n.data, widths.ip1, classes)


def _scored(n: NetSpec, bottom: Top, width: int, classes: int) -> str:
    n.ip1 = nets.dense(bottom, width)
    n.ip2 = nets.dense(nets.rectified(n, "ip1", n.ip1), classes)
    n.loss = L.SoftmaxWithLoss(n.ip2, n.label)
    return str(n.to_proto())


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
