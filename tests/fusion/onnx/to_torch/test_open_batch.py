"""The batch of a file is opened: class tokens, heads of attention, sequences; a batch equals its samples one by one."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from fusion.onnx.graphs import Graph, graph_weights, load_graph, normalize_graph
from fusion.onnx.graphs.read import from_model
from fusion.onnx.runtime import inference_session
from fusion.onnx.to_torch import OnnxNet

sys.path.insert(0, str(Path(__file__).parents[3] / "fusion" / "onnx" / "graphs"))  # the other room's helper
from graphs import draw, model, node

pytest.importorskip("onnxruntime")
S, E = 5, 6  # steps of a sequence, features


def check(file: onnx.ModelProto | str, graph: Graph, batch: int, tolerance: float = 1e-5) -> None:
    """Compare a batch of three times the file's with three runs of the file."""
    session = inference_session(file if isinstance(file, str) else file.SerializeToString())
    shape = next(iter(session.get_inputs())).shape
    x = draw(3 * batch, *shape[1:])
    expected = np.concatenate([session.run(None, {session.get_inputs()[0].name: part})[0] for part in np.split(x, 3)])
    with torch.no_grad():
        found: Any = OnnxNet(graph, frozen=True)(torch.from_numpy(x))
    np.testing.assert_allclose(found.numpy(), expected, atol=tolerance * np.abs(expected).max())


def token(batch: int, axis: int = 1, *, equal: bool = True) -> onnx.ModelProto:
    """A class token before a sequence, as exporters fold it for the batch of their example."""
    row = draw(1, 1, E)
    constant = np.repeat(row, batch, 0) + (0 if equal else np.arange(batch).reshape(-1, 1, 1))
    last = {1: [1, 0, 2], 2: [1, 2, 0]}[axis]
    nodes = [node("Concat", "t x", "c", axis=1), node("Transpose", "c", "d", perm=[1, 0, 2]),
             node("Concat", "u d" if axis == 2 else "d", "e", axis=axis), node("Transpose", "e", "f", perm=last),
             node("Transpose", "f", "y", perm={1: [0, 1, 2], 2: [0, 2, 1]}[axis])]  # fmt: skip
    wide = np.repeat(draw(S + 1, 1, 2), batch, 1)
    return model(nodes, {"t": constant, "u": wide}, shape=(batch, S, E))


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("axis", [1, 2])
def test_a_class_token_is_expanded_to_the_batch(batch: int, axis: int) -> None:
    """Also where the batch is the second axis."""
    file = token(batch, axis)
    graph = normalize_graph(from_model(file))
    assert (graph.batch, graph.notes[-1]) == (None, f"the batch, {batch} in the file, is open")
    assert {array.size for array in graph_weights(graph).values()} == {E} | ({(S + 1) * 2} if axis == 2 else set())
    check(file, graph, batch)


def test_a_token_per_sample_keeps_the_batch() -> None:
    file = token(2, equal=False)
    graph = normalize_graph(from_model(file))
    assert graph.batch == 2
    check(file, graph, 2)


def attention(batch: int, mixing: str = "") -> onnx.ModelProto:
    """Attention of two heads over (steps, batch, features), whose reshapes have the batch written in.

    mixing  an operator over the axis that steps and batch share
    """
    heads, size = 2, E // 2
    split, back = [S, batch * heads, size], [S * batch, E]
    nodes = [node("Transpose", "x", "t", perm=[1, 0, 2]), node("MatMul", "t wq", "q"), node("MatMul", "t wk", "k"),
             node("Reshape", "q split", "qh"), node("Reshape", "k split", "kh"),
             node("Transpose", "qh", "qt", perm=[1, 0, 2]), node("Transpose", "kh", "kt", perm=[1, 2, 0]),
             node("MatMul", "qt kt", "a"), node("Softmax", "a", "p", axis=-1),
             node("Transpose", "kh", "v", perm=[1, 0, 2]), node("MatMul", "p v", "o"),
             node("Transpose", "o", "ot", perm=[1, 0, 2]), node("Reshape", "ot back", "r"),
             *([node(mixing, "r", "m", axis=0)] if mixing else []), node("Gemm", "m g h" if mixing else "r g h", "z"),
             node("Relu", "z", "zr"), node("Add", "zr h", "za"), node("Add", "za zr", "zs"),
             node("Reshape", "zs rows", "s"), node("Transpose", "s", "y", perm=[1, 0, 2])]  # fmt: skip
    constants = {"wq": draw(E, E), "wk": draw(E, E, seed=1), "g": draw(E, E, seed=2), "h": draw(E),
                 "split": np.array(split), "back": np.array(back), "rows": np.array([S, batch, E])}  # fmt: skip
    return model(nodes, constants, shape=(batch, S, E))


@pytest.mark.parametrize("batch", [1, 2])
def test_heads_and_sequences_share_an_axis_with_the_batch(batch: int) -> None:
    file = attention(batch)
    graph = normalize_graph(from_model(file))
    assert graph.batch is None
    check(file, graph, batch)


@pytest.mark.parametrize("mixing", ["Softmax", "LogSoftmax", "LpNormalization"])
def test_samples_that_would_mix_keep_the_batch(mixing: str) -> None:
    file = attention(1, mixing)
    graph = normalize_graph(from_model(file))
    assert graph.batch == 1
    check(file, graph, 1)


@pytest.mark.parametrize(
    "nodes",
    [
        [node("Softmax", "x", "y", axis=0)],
        [node("LayerNormalization", "x s", "y", axis=0)],
        [node("CumSum", "x o", "y")],
    ],
)
def test_an_operator_along_the_batch_keeps_it(nodes: list[onnx.NodeProto]) -> None:
    file = model(nodes, {"s": np.ones((2, S, E)), "o": np.array(0)}, shape=(2, S, E))
    graph = normalize_graph(from_model(file))
    assert graph.batch == 2
    check(file, graph, 2)


@pytest.mark.parametrize("added", [(S, 1), (S, E)])
def test_a_constant_per_step_keeps_the_batch_where_steps_and_batch_share_an_axis(added: tuple[int, int]) -> None:
    nodes = [
        node("Transpose", "x", "t", perm=[1, 0, 2]),
        node("Reshape", "t back", "r"),
        node("Gemm", "r g", "z"),
        node("Add", "z p", "a"),
        node("Reshape", "a rows", "s"),
        node("Transpose", "s", "y", perm=[1, 0, 2]),
    ]
    constants = {"g": draw(E, E), "p": draw(*added), "back": np.array([S, E]), "rows": np.array([S, 1, E])}
    file = model(nodes, constants, shape=(1, S, E))
    graph = normalize_graph(from_model(file))
    assert graph.batch == 1
    check(file, graph, 1)


@pytest.mark.parametrize("dynamo", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["torchscript", "dynamo"])
@pytest.mark.parametrize("batch", [1, 2])
def test_a_vision_transformer(tmp_path: Path, batch: int, dynamo: bool) -> None:
    transformer = pytest.importorskip("torchvision.models.vision_transformer")
    if dynamo:
        pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    net = transformer.VisionTransformer(16, 8, 1, 2, 8, 16, num_classes=3).eval()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    path = str(tmp_path / "vit.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net, (torch.zeros(batch, 3, 16, 16),), path, dynamo=dynamo, verbose=False)
    graph = load_graph(path)
    assert graph.batch is None
    check(path, graph, batch)


@pytest.mark.parametrize(
    ("op", "values"),
    [("Min", {"k": 2}), ("Max", {"k": 64}), ("Div", {"k": 8}), ("Div", {"k": 16}), ("Max", {"k": 1}), ("Mod", {"k": 2}),
     ("Mul", {"k": 0}), ("Sub", {})],
)  # fmt: skip
def test_what_is_computed_from_an_open_batch(op: str, values: dict[str, int]) -> None:
    """It is a constant only if it is the same for all batches; else it is computed for each."""
    second = "k" if values else "n"
    nodes = [node("Shape", "x", "n", end=1), node(op, f"n {second}", "m"), node("Cast", "m", "f", to=1),
             node("Mul", "x f", "y")]  # fmt: skip
    file = model(nodes, {name: np.array([number]) for name, number in values.items()}, shape=("N", 3))
    graph = normalize_graph(from_model(file))
    assert ("f" in graph.constants) == (op in ("Mul", "Sub"))
    assert graph.shapes["y"] == (None, 3)
    for batch in (1, 2, 3, 15, 16, 100):
        x = draw(batch, 3)
        session = inference_session(file.SerializeToString())
        with torch.no_grad():
            found = OnnxNet(graph)(torch.from_numpy(x))
        np.testing.assert_allclose(found.numpy(), session.run(None, {"x": x})[0])
