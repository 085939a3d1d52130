"""Graphs of random operators, whose values are read by several others, against ONNX Runtime.

Caffe's layers may overwrite a blob, join a constant to the layer below, or cut a wider result: each must leave all
other readers of a value their numbers.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from graphs import model, node

from fusion.nets.build import build, restrict_to_blobs
from fusion.nets.weights import load_weights
from fusion.onnx.graphs import normalize_graph
from fusion.onnx.graphs.read import from_model
from fusion.onnx.runtime import inference_session
from fusion.onnx.to_caffe import convert_graph

pytest.importorskip("onnxruntime")
SIZES = CHANNELS, HEIGHT, WIDTH = 4, 6, 7


class Draw:
    """A graph under construction, from x to its last value."""

    def __init__(self, seed: int) -> None:
        self.dice, self.numbers = random.Random(seed), np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray[Any, Any]] = {}
        self.values = ["x"]
        for index in range(self.dice.randint(3, 10)):
            self.append(f"v{index}")

    def value(self) -> str:
        return self.dice.choice(self.values[-3:] if self.dice.random() < 0.7 else self.values)

    def constant(self, *shape: int, positive: bool = False) -> str:
        """Add a constant, half of them named as a module's parameters are."""
        name = f"{self.dice.choice(['', 'part.'])}k{len(self.constants)}"
        array = 0.7 * self.numbers.standard_normal(shape)
        self.constants[name] = np.abs(array) + 0.5 if positive else array
        return name

    def whole(self, *numbers: int) -> str:
        name = f"i{len(self.constants)}"
        self.constants[name] = np.array(numbers, np.int64)
        return name

    def append(self, out: str) -> None:
        """Append an operator, or a few, that keep the shape."""
        a, c = self.value(), CHANNELS
        kinds = (self.window, self.elementwise, self.arithmetic) * 3 + (self.broadcast, self.parts, self.reshaped)
        before = len(self.nodes)
        self.dice.choice(kinds)(a, out, c)
        assert len(self.nodes) > before
        self.values.append(out)

    def window(self, a: str, out: str, c: int) -> None:
        kind, window = self.dice.choice(["Conv", "Conv", "Conv", "MaxPool", "AveragePool"]), {"pads": [1, 1, 1, 1]}
        if kind != "Conv":
            self.nodes.append(node(kind, a, out, kernel_shape=[3, 3], **window))
            return
        bias = f" {self.constant(c)}" if self.dice.random() < 0.5 else ""
        pads = self.dice.choice([[1, 1, 1, 1], [0, 1, 2, 1], [2, 0, 0, 2]])
        self.nodes.append(node(kind, f"{a} {self.constant(c, c, 3, 3)}{bias}", out, pads=pads))

    def elementwise(self, a: str, out: str, c: int) -> None:
        plain = ["Relu", "Sigmoid", "Tanh", "Elu", "LeakyRelu", "HardSwish", "HardSigmoid", "Abs", "Neg", "Softmax"]
        kind = self.dice.choice([*plain, "PRelu", "LRN", "BatchNormalization"])
        more = {"PRelu": [(c, 1, 1)], "BatchNormalization": [(c,)] * 3}.get(kind, [])
        given = [a, *(self.constant(*shape) for shape in more)]
        given += [self.constant(c, positive=True)] if kind == "BatchNormalization" else []
        self.nodes.append(node(kind, " ".join(given), out, **({"size": 3, "alpha": 0.3} if kind == "LRN" else {})))

    def arithmetic(self, a: str, out: str, c: int) -> None:
        shape = self.dice.choice([(c, 1, 1), (1,), (WIDTH,), (HEIGHT, 1), (1, *SIZES), (c, 1, WIDTH)])
        other = self.constant(*shape, positive=True) if self.dice.random() < 0.6 else self.value()
        kind = self.dice.choice(["Add", "Sub", "Mul"] if other in self.values else ["Add", "Sub", "Mul", "Div"])
        swapped = kind != "Div" and self.dice.random() < 0.4
        self.nodes.append(node(kind, f"{other} {a}" if swapped else f"{a} {other}", out))

    def broadcast(self, a: str, out: str, c: int) -> None:
        kind = self.dice.choice(["Mul", "Add", "Sub", "Div"])
        self.nodes += [node("GlobalAveragePool", a, f"{out}p"), node("Sigmoid", f"{out}p", f"{out}s"),
                       node(kind, f"{self.value()} {out}s", out)]  # fmt: skip

    def parts(self, a: str, out: str, c: int) -> None:
        ends = [self.whole(number) for number in (0, 2, 9, 1)]
        self.nodes += [node("Slice", f"{a} {ends[0]} {ends[1]} {ends[3]}", f"{out}h"),
                       node("Slice", f"{a} {ends[1]} {ends[2]} {ends[3]}", f"{out}t"),
                       node("Concat", f"{out}t {out}h", out, axis=1)]  # fmt: skip

    def reshaped(self, a: str, out: str, c: int) -> None:
        flat, back = self.whole(0, c, HEIGHT * WIDTH), self.whole(0, *SIZES)
        self.nodes += [node("Reshape", f"{a} {flat}", f"{out}f"), node("Relu", f"{out}f", f"{out}r"),
                       node("Reshape", f"{out}r {back}", out)]  # fmt: skip


@pytest.mark.parametrize("seed", range(40))
def test_a_random_graph(seed: int) -> None:
    drawn = Draw(seed)
    outputs = list(dict.fromkeys([drawn.values[-1], drawn.dice.choice(drawn.values[1:])]))
    file = model(drawn.nodes, drawn.constants, shape=("N", *SIZES), outputs=outputs)
    x = drawn.numbers.standard_normal((2, *SIZES)).astype(np.float32)
    expected = inference_session(file.SerializeToString()).run(outputs, {"x": x})
    made = convert_graph(normalize_graph(from_model(file)))
    net = build(made.net, "TEST", shapes={"x": x.shape}, seed=0)
    load_weights(net, made.weights)
    found = restrict_to_blobs(net, outputs)({"x": torch.from_numpy(x)})
    for name, array in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(found[name].detach().numpy(), array, rtol=1e-4, atol=1e-4 * np.abs(array).max())
