"""A small PyTorch net of the kinds of layers that classifiers have, as a user keeps it in a file of his own."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Small(nn.Module):
    """Two convolutions, one with a shortcut, and a classifier; images are [N, 3, 8, 8]."""

    def __init__(self, num_classes: int = 5, width: int = 4) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.act = nn.PReLU(width)
        self.fc = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the class scores [N, num_classes]."""
        x = self.stem(x)
        x = x + self.act(self.conv(x))
        return self.fc(x.mean((2, 3)))


def trained(**options: int) -> Small:
    """A net whose parameters and statistics are all different, so that none can stand for another."""
    torch.manual_seed(3)
    net = Small(**options)
    for tensor in net.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape) + 0.1)
    return net


class Thing:
    """No net."""


def _hidden() -> Small:
    """Return a net, but not to other files."""
    return trained()
