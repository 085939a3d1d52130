"""Windows of random sizes, steps and pads against ONNX Runtime, and how many of them Caffe can express."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from graphs import draw, model, node

from fusion.errors import OnnxError
from fusion.nets.build import build
from fusion.nets.weights import load_weights
from fusion.onnx.graphs import normalize_graph
from fusion.onnx.graphs.read import from_model
from fusion.onnx.runtime import inference_session
from fusion.onnx.to_caffe import convert_graph

pytest.importorskip("onnxruntime")
COUNT = 60


def windowed(kind: str, dice: random.Random) -> tuple[onnx.NodeProto, dict[str, Any]]:
    """Draw a node of the kind and its constants; half of the pads are even ones."""
    kernel = [dice.randint(1, 4) for _ in range(2)]
    strides = [dice.randint(1, 3) for _ in range(2)]
    pads = [dice.randint(0, size - 1) for size in kernel * 2]
    values: dict[str, Any] = {"strides": strides, "pads": pads[:2] * 2 if dice.random() < 0.5 else pads}
    if kind in ("MaxPool", "AveragePool"):
        values |= {"kernel_shape": kernel, "ceil_mode": dice.randint(0, 1)}
        if kind == "AveragePool":
            values["count_include_pad"] = dice.randint(0, 1)
        return node(kind, "x", "y", **values), {}
    if kind == "Conv":
        values["dilations"] = [dice.randint(1, 2) for _ in range(2)]
        return node(kind, "x w", "y", **values), {"w": draw(3, 2, *kernel)}
    values |= {"output_padding": [dice.choice((0, 0, step - 1)) for step in strides], "group": dice.randint(1, 2)}
    return node(kind, "x w", "y", **values), {"w": draw(2, 2, *kernel)}


@pytest.mark.parametrize(
    ("kind", "refused"),
    [
        ("Conv", {}),
        ("ConvTranspose", {"an output_padding that is larger than its pads": 23}),
        ("MaxPool", {"uneven pads as wide as its kernel": 8}),
        ("AveragePool", {"uneven pads as wide as its kernel": 7}),
    ],
)
def test_random_windows(kind: str, refused: dict[str, int]) -> None:
    dice, reasons = random.Random(kind), Counter[str]()
    for _ in range(COUNT):
        window, constants = windowed(kind, dice)
        x = draw(2, 2, dice.randint(7, 11), dice.randint(7, 11), seed=9)
        file = model([window], constants, shape=("N", *x.shape[1:]))
        try:
            made = convert_graph(normalize_graph(from_model(file)))
        except OnnxError as error:
            reasons[error.message.rpartition("): ")[2]] += 1
            continue
        (expected,) = inference_session(file.SerializeToString()).run(None, {"x": x})
        net = build(made.net, "TEST", shapes={"x": x.shape}, seed=0)
        load_weights(net, made.weights)
        found = net({"x": torch.from_numpy(x)})["y"].detach().numpy()
        assert found.shape == expected.shape, (window, x.shape)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5, err_msg=f"{window}, {x.shape}")
    assert reasons == refused
