"""Graphs from x (N, 3, 8, 9) as Caffe nets, and what these compute."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import torch
from graphs import draw, model

from fusion.nets.build import build
from fusion.nets.weights import load_weights
from fusion.onnx.graphs import normalize_graph
from fusion.onnx.graphs.read import from_model
from fusion.onnx.to_caffe import CaffeNet, convert_graph

Nodes = list[onnx.NodeProto]
W = draw(4, 3, 3, 3)
POSITIVE = np.abs(draw(3)) + 0.5


def shape(*sizes: int) -> np.ndarray[Any, Any]:
    return np.array(sizes, np.int64)


def converted(nodes: Nodes, constants: dict[str, Any], **settings: Any) -> tuple[CaffeNet, onnx.ModelProto]:
    file = model(nodes, constants, **{"shape": ("N", 3, 8, 9), **settings})
    graph = from_model(file)
    return convert_graph(normalize_graph(graph), outputs=graph.outputs), file


def computed(made: CaffeNet, x: np.ndarray[Any, Any], phase: str = "TEST") -> dict[str, torch.Tensor]:
    net = build(made.net, phase, shapes={"x": x.shape}, seed=0)
    report = load_weights(net, made.weights)
    assert not report.missing
    assert not report.unused
    return {name: value.detach() for name, value in net({"x": torch.from_numpy(x)}).items()}


def kinds(made: CaffeNet) -> list[str]:
    return [layer.type for layer in made.net.layer]
