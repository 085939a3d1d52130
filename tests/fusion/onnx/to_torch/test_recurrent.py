"""LSTM, GRU and RNN against ONNX Runtime: all directions, states, lengths and activations; gradients; the batch."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from fusion.onnx.graphs import Graph, graph_weights, normalize_graph, support
from fusion.onnx.graphs.read import from_model
from fusion.onnx.runtime import inference_session
from fusion.onnx.to_torch import OnnxNet
from fusion.onnx.to_torch.runtime_program import RuntimeProgram

sys.path.insert(0, str(Path(__file__).parents[3] / "fusion" / "onnx" / "graphs"))  # the other room's helper
from graphs import draw, model, node

pytest.importorskip("onnxruntime")
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
OUTPUTS = {"LSTM": ("y", "last_h", "last_c"), "GRU": ("y", "last_h"), "RNN": ("y", "last_h")}
BATCH, TIME, FEATURES, UNITS = 3, 5, 4, 6
SETTINGS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "plain": ("LSTM GRU RNN", "", {}),
    "biases": ("LSTM GRU RNN", "b", {}),
    "states": ("LSTM GRU RNN", "b h c", {}),
    "a state of the cell alone": ("LSTM", "c", {}),
    "lengths": ("LSTM GRU RNN", "b l h c", {}),
    "peepholes": ("LSTM", "b c p", {}),
    "peepholes and lengths": ("LSTM", "b l c p", {}),
    "one gate for input and forgetting": ("LSTM", "b c", {"input_forget": 1}),
    "reset after the product": ("GRU", "b h", {"linear_before_reset": 1}),
    "reset after the product, and lengths": ("GRU", "b l h", {"linear_before_reset": 1}),
    "relu": ("RNN", "b h", {"activations": ["Relu"]}),
    "other activations": ("LSTM GRU RNN", "b", {"activations": ["Softsign", "Elu", "LeakyRelu"]}),
    "activations with parameters": (
        "LSTM GRU RNN",
        "b h",
        {
            "activations": ["HardSigmoid", "LeakyRelu", "HardSigmoid"],
            "activation_alpha": [0.3, 0.1, 0.9, 0.4, 0.2, 0.8],
            "activation_beta": [0.4, 0.2, 0.6, 0.1],
        },
    ),
}
CASES = [(kind, setting) for setting, (kinds, _, _) in SETTINGS.items() for kind in kinds.split()]


def recurrent(
    kind: str, setting: str, direction: str, batch: int | str = "N", *, layout: int = 0, dropped: Sequence[str] = ()
) -> onnx.ModelProto:
    """A file with the batch first: Transpose, the operator, and a Transpose of each of its outputs."""
    _, names, values = SETTINGS[setting]
    values, count = dict(values), 1 + (direction == "bidirectional")
    if "activations" in values:
        values["activations"] = values["activations"][: len(OUTPUTS[kind]) - (kind == "RNN")] * count
    rows = GATES[kind] * UNITS
    arrays = {"w": draw(count, rows, FEATURES) * 0.4, "r": draw(count, rows, UNITS) * 0.3,
              "b": draw(count, 2 * rows), "l": np.array([2, TIME, 1], np.int32),
              "h": draw(count, BATCH, UNITS, seed=1), "c": draw(count, BATCH, UNITS, seed=2),
              "p": draw(count, 3 * UNITS)}  # fmt: skip
    if layout:
        arrays.update({name: np.ascontiguousarray(arrays[name].swapaxes(0, 1)) for name in "hc"})
    used = [name if name in ("w", "r", *names.split()) else "" for name in ("w", "r", "b", "l", "h", "c", "p")]
    used = used[: 7 if kind == "LSTM" else 5]
    tops = ["" if name in dropped else name for name in OUTPUTS[kind]]
    values.update({"hidden_size": UNITS, "direction": direction}, **({"layout": 1} if layout else {}))
    inputs = ["x" if layout else "t", *used]
    made = helper.make_node(kind, inputs, [top and f"{top}_" for top in tops], **values)
    perms = {True: [0, 1, 2, 3] if layout else [2, 0, 1, 3], False: [0, 1, 2] if layout else [1, 0, 2]}
    nodes = [node("Transpose", "x", "t", perm=[1, 0, 2]), made]
    nodes += [node("Transpose", f"{top}_", top, perm=perms[top == "y"]) for top in tops if top]
    file = model(nodes, {}, shape=(batch, TIME, FEATURES), outputs=list(filter(None, tops)))
    file.graph.initializer.extend(numpy_helper.from_array(arrays[name], name) for name in used if name)
    return file


def run(graph: Graph, x: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    with torch.no_grad():
        found = OnnxNet(graph)(torch.from_numpy(x))
    return [top.numpy() for top in ([found] if isinstance(found, torch.Tensor) else found)]


def expected(file: onnx.ModelProto, x: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    return list(inference_session(file.SerializeToString()).run(None, {"x": x}))


def agree(found: list[np.ndarray[Any, Any]], wanted: list[np.ndarray[Any, Any]]) -> None:
    for mine, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(("kind", "setting"), CASES)
def test_values(kind: str, setting: str, direction: str) -> None:
    file, x = recurrent(kind, setting, direction), draw(BATCH, TIME, FEATURES)
    agree(run(normalize_graph(from_model(file)), x), expected(file, x))


@pytest.mark.parametrize("direction", ["reverse", "bidirectional"])
@pytest.mark.parametrize(("kind", "setting"), CASES)
def test_gradients_of_weights_and_input(kind: str, setting: str, direction: str) -> None:
    net = OnnxNet(normalize_graph(from_model(recurrent(kind, setting, direction))))
    x = torch.from_numpy(draw(BATCH, TIME, FEATURES)).requires_grad_()
    tensors = [x, *net.parameters()]
    assert len(tensors) == 1 + len(net.names)
    factors = [torch.from_numpy(draw(*top.shape, seed=3)).double() for top in net(x)]

    def loss() -> torch.Tensor:
        return torch.stack([(top * factor).sum() for top, factor in zip(net(x), factors, strict=True)]).sum()

    slopes = torch.autograd.grad(loss(), tensors)
    for tensor, slope in zip(tensors, slopes, strict=True):
        step = torch.from_numpy(draw(*tensor.shape, seed=4)) * 2e-4
        ends = []
        with torch.no_grad():
            for sign in (1, -2):
                tensor += sign * step
                ends.append(float(loss()))
            tensor += step
        assert float((slope * step).sum()) == pytest.approx((ends[0] - ends[1]) / 2, rel=0.02, abs=1e-4)
        assert slope.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("setting", ["plain", "states", "lengths"])
@pytest.mark.parametrize("kind", GATES)
def test_mixed_precision(kind: str, setting: str, dtype: torch.dtype) -> None:
    """The input comes in either precision, as operators before leave it."""
    net = OnnxNet(normalize_graph(from_model(recurrent(kind, setting, "bidirectional"))))
    x = torch.from_numpy(draw(BATCH, TIME, FEATURES))
    with torch.autocast("cpu", torch.bfloat16):
        found = net(x.to(dtype))
    sum(top.float().sum() for top in found).backward()  # type: ignore[union-attr]
    for top, exact in zip(found, net(x), strict=True):
        assert (top.float() - exact).abs().max() <= 0.03 * exact.abs().max()
    assert all(parameter.grad is not None for parameter in net.parameters())


@pytest.mark.parametrize(
    ("kind", "dropped"), [("LSTM", "y"), ("LSTM", "yh"), ("LSTM", "c"), ("GRU", "y"), ("RNN", "h")]
)
def test_some_of_its_outputs(kind: str, dropped: str) -> None:
    file, x = recurrent(kind, "states", "bidirectional", dropped=dropped), draw(BATCH, TIME, FEATURES)
    agree(run(normalize_graph(from_model(file)), x), expected(file, x))


@pytest.mark.parametrize("kind", GATES)
def test_the_batch_as_first_axis_of_the_operator(kind: str) -> None:
    """ONNX Runtime does not run it: the same values with the axes swapped are expected."""
    x = draw(BATCH, TIME, FEATURES)
    graph = normalize_graph(from_model(recurrent(kind, "lengths", "bidirectional", layout=1)))
    agree(run(graph, x), expected(recurrent(kind, "lengths", "bidirectional"), x))


def test_a_sequence_without_elements() -> None:
    file, x = recurrent("LSTM", "lengths", "bidirectional"), draw(BATCH, TIME, FEATURES)
    lengths = next(tensor for tensor in file.graph.initializer if tensor.name == "l")
    lengths.CopyFrom(numpy_helper.from_array(np.array([0, 5, 2], np.int32), "l"))
    agree(run(normalize_graph(from_model(file)), x), expected(file, x))


def set_constant(file: onnx.ModelProto, name: str, array: np.ndarray[Any, Any]) -> None:
    next(item for item in file.graph.initializer if item.name == name).CopyFrom(numpy_helper.from_array(array, name))


def test_states_of_zeros_and_whole_lengths_do_not_fix_the_batch() -> None:
    file = recurrent("LSTM", "lengths", "forward", batch=1)
    for name in "hc":
        set_constant(file, name, np.zeros((1, 1, UNITS), np.float32))
    set_constant(file, "l", np.array([TIME], np.int32))
    graph = normalize_graph(from_model(file))
    assert graph.batch is None
    assert list(graph_weights(graph)) == ["w", "r", "b"]
    x = draw(BATCH, TIME, FEATURES)
    agree(run(graph, x), expected(recurrent("LSTM", "biases", "forward"), x))


@pytest.mark.parametrize(("name", "array"), [("h", draw(1, 1, UNITS)), ("l", np.array([TIME - 1], np.int32))])
def test_another_state_or_length_keeps_the_batch(name: str, array: np.ndarray[Any, Any]) -> None:
    file = recurrent("GRU", "lengths", "forward", batch=1)
    set_constant(file, "h", np.zeros((1, 1, UNITS), np.float32))
    set_constant(file, "l", np.array([TIME], np.int32))
    set_constant(file, name, array)
    graph = normalize_graph(from_model(file))
    assert graph.batch == 1
    assert "the batch stays 1, because of node 'y_' (GRU)" in graph.notes[-1]
    x = draw(BATCH, TIME, FEATURES)
    agree(run(graph, x), [np.concatenate(tops) for tops in zip(*(expected(file, row[None]) for row in x), strict=True)])


def test_a_state_expanded_to_the_batch_is_dropped_if_it_is_zero() -> None:
    """As torch's exporter writes it, with more elements than are followed as values."""
    units = 600
    nodes = [node("Transpose", "x", "t", perm=[1, 0, 2]), node("Shape", "t", "s", start=1, end=2),
             node("Concat", "d s u", "e", axis=0), node("Expand", "z e", "h"),
             node("RNN", "t w r - - h", "y_", hidden_size=units),
             node("Transpose", "y_", "y", perm=[2, 0, 1, 3])]  # fmt: skip
    constants = {"d": np.array([1]), "u": np.array([units]), "z": np.zeros((1, 1, units)),
                 "w": draw(1, units, FEATURES), "r": draw(1, units, units) * 0.01}  # fmt: skip
    graph = normalize_graph(from_model(model(nodes, constants, shape=(1, TIME, FEATURES))))
    assert [made.op_type for made in graph.nodes] == ["Transpose", "RNN", "Transpose"]
    assert graph.batch is None
    nodes[3] = node("Expand", "z e", "g")
    nodes.insert(4, node("Add", "g one", "h"))
    graph = normalize_graph(from_model(model(nodes, {**constants, "one": 1.0}, shape=("N", TIME, FEATURES))))
    assert len([made for made in graph.nodes if made.op_type == "RNN" and len(made.input) == 6]) == 1


def through(*nodes: onnx.NodeProto, **targets: Any) -> onnx.ModelProto:
    """A file of batch 1 that brings values to (time, batch, features) and ends with the given nodes."""
    constants = {"w": draw(FEATURES, 2), **{name: np.array(sizes) for name, sizes in targets.items()}}
    return model([node("Transpose", "x", "t", perm=[1, 0, 2]), *nodes], constants, shape=(1, TIME, FEATURES))


LAST = node("Transpose", "z", "y", perm=[1, 0, 2])


@pytest.mark.parametrize(
    "file",
    [
        through(node("Reshape", "t a", "z"), LAST, a=[TIME, 1, FEATURES]),
        through(node("Reshape", "t a", "z"), LAST, a=[0, 0, -1]),
        through(node("Reshape", "t a", "u"), node("Reshape", "u b", "z"), LAST, a=[TIME, 1, 2, 2],
                b=[TIME, -1, FEATURES]),
        through(node("Reshape", "t a", "u"), node("MatMul", "u w", "v"), node("Reshape", "v b", "z"), LAST,
                a=[-1, FEATURES], b=[TIME, 1, 2]),
        through(node("Reshape", "t a", "u"), node("Reshape", "u b", "z"), LAST, a=[TIME, -1], b=[TIME, 1, FEATURES]),
    ],
)  # fmt: skip
def test_a_batch_between_other_axes_is_opened(file: onnx.ModelProto) -> None:
    graph, x = normalize_graph(from_model(file)), draw(BATCH, TIME, FEATURES)
    assert graph.batch is None
    agree(run(graph, x), [np.concatenate([expected(file, row[None])[0] for row in x])])


@pytest.mark.parametrize(
    "file",
    [
        through(node("Reshape", "t a", "u"), node("MatMul", "u w", "v"), node("Softmax", "v", "s", axis=0),
                node("Reshape", "s b", "z"), LAST, a=[-1, FEATURES], b=[TIME, 1, 2]),
        through(node("Flatten", "t", "u", axis=2), node("MatMul", "u w", "v"), node("Reshape", "v b", "z"), LAST,
                b=[TIME, 1, 2]),
        through(node("Reshape", "t a", "y"), a=[1, TIME, FEATURES]),
    ],
)  # fmt: skip
def test_samples_that_a_reshape_would_mix_keep_the_batch(file: onnx.ModelProto) -> None:
    graph, x = normalize_graph(from_model(file)), draw(BATCH, TIME, FEATURES)
    assert graph.batch == 1
    agree(run(graph, x), [np.concatenate([expected(file, row[None])[0] for row in x])])


def test_no_pieces_where_the_batch_is_not_the_first_axis_of_an_output() -> None:
    file = through(node("Reshape", "t a", "u"), node("MatMul", "u w", "v"), node("Reshape", "v b", "y"),
                   a=[-1, FEATURES], b=[TIME, 1, 2])  # fmt: skip
    net = OnnxNet(normalize_graph(from_model(file)))
    assert net(torch.zeros(1, TIME, FEATURES)).shape == (TIME, 1, 2)
    with pytest.raises(ValueError, match="fixes a batch of 1, which is not the first axis of its outputs"):
        net(torch.zeros(2, TIME, FEATURES))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"clip": 0.5}, "a clip"),
        ({"activations": ["Sigmoid", "Softplus"]}, "the activation 'Softplus'"),
        ({"activations": ["Sigmoid"]}, "1 activations for 1 directions"),
        ({"direction": "sideways"}, "the direction 'sideways'"),
        ({"hidden_size": UNITS + 1}, "its inputs do not fit each other"),
        ({"direction": "bidirectional"}, "its inputs do not fit each other"),
    ],
)
def test_what_is_refused(values: dict[str, Any], reason: str) -> None:
    file = recurrent("GRU", "biases", "forward")
    made = file.graph.node[1]
    kept = {item.name: helper.get_attribute_value(item) for item in made.attribute}
    del made.attribute[:]
    made.attribute.extend(helper.make_attribute(name, value) for name, value in {**kept, **values}.items())
    found = {row.name: row.reasons for row in support(normalize_graph(from_model(file))).unsupported}
    assert reason in found["GRU"][0]


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("w", (1, 4 * UNITS, FEATURES + 1)),
        ("w", (1, 3 * UNITS, FEATURES)),
        ("w", (4 * UNITS, FEATURES)),
        ("r", (1, 4 * UNITS, UNITS + 1)),
        ("r", (2, 4 * UNITS, UNITS)),
        ("b", (1, 4 * UNITS)),
        ("h", (1, BATCH, UNITS + 1)),
        ("c", (2, BATCH, UNITS)),
        ("p", (1, 4 * UNITS)),
    ],
)
def test_weights_of_other_shapes_are_refused(name: str, shape: tuple[int, ...]) -> None:
    file = recurrent("LSTM", "peepholes", "forward", batch=BATCH)
    file.graph.node[1].input[5] = "h"
    file.graph.initializer.append(numpy_helper.from_array(draw(1, BATCH, UNITS), "h"))
    assert not support(normalize_graph(from_model(file))).unsupported
    set_constant(file, name, draw(*shape))
    found = {row.name: row.reasons for row in support(normalize_graph(from_model(file))).unsupported}
    assert "its inputs do not fit each other" in found["LSTM"]


def test_the_number_of_units_is_that_of_the_weights_where_the_file_leaves_it_out() -> None:
    file, x = recurrent("GRU", "states", "reverse"), draw(BATCH, TIME, FEATURES)
    wanted = expected(file, x)
    attribute = next(item for item in file.graph.node[1].attribute if item.name == "hidden_size")
    file.graph.node[1].attribute.remove(attribute)
    graph = normalize_graph(from_model(file))
    agree(run(graph, x), wanted)
    agree(list(RuntimeProgram(graph)(torch.from_numpy(x))), wanted)  # type: ignore[arg-type]
    set_constant(file, "r", draw(1, 2 * UNITS, UNITS))
    assert support(normalize_graph(from_model(file))).unsupported


@pytest.mark.parametrize("shape", [("N", BATCH, FEATURES), (TIME, BATCH, FEATURES), ("T", "N", FEATURES)])
def test_a_sequence_along_the_batch_is_refused(shape: tuple[int | str, ...]) -> None:
    """As of a module without batch_first that is given the batch first: its samples would depend on each other."""
    file = recurrent("GRU", "biases", "forward", dropped=["y"])
    file.graph.node[1].input[0] = "x"
    del file.graph.node[0]
    file.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.FLOAT, shape))
    (row,) = support(normalize_graph(from_model(file))).unsupported
    assert row.reasons == ("it runs over the first axis of the net's inputs, which is the batch",)
