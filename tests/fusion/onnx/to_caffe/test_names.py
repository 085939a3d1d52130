"""Names of layers, parameters and outputs: those of the module and of the file."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from conversions import POSITIVE, Nodes, W, computed, converted, shape
from graphs import draw, model, node

from fusion.nets.build import build, restrict_to_blobs
from fusion.nets.weights import load_weights
from fusion.onnx.graphs import normalize_graph
from fusion.onnx.graphs.read import from_model
from fusion.onnx.runtime import inference_session
from fusion.onnx.to_caffe import convert_graph
from fusion.onnx.to_caffe.net_writer import NetWriter, RefusedError

pytest.importorskip("onnxruntime")


def test_layers_are_those_of_the_module() -> None:
    """Names as torch's exporter writes them: a block of a convolution, batch normalization, ReLU and a shortcut."""
    nodes = [
        node("Conv", "x layer1.0.conv1.weight", "/layer1/layer1.0/conv1/Conv_output_0", pads=[1, 1, 1, 1]),
        node("BatchNormalization", "/layer1/layer1.0/conv1/Conv_output_0 layer1.0.bn1.weight layer1.0.bn1.bias "
             "layer1.0.bn1.running_mean layer1.0.bn1.running_var", "n"),
        node("Relu", "n", "/layer1/layer1.0/relu/Relu_output_0"),
        node("Add", "/layer1/layer1.0/relu/Relu_output_0 x", "/layer1/layer1.0/Add_output_0"),
        node("Relu", "/layer1/layer1.0/Add_output_0", "/layer1/layer1.0/relu_1/Relu_output_0"),
        node("Flatten", "/layer1/layer1.0/relu_1/Relu_output_0", "f"),
        node("Gemm", "f fc.weight fc.bias", "y", transB=1),
    ]  # fmt: skip
    scale, shift, mean, variance = draw(3), draw(3, seed=1), draw(3, seed=2), POSITIVE
    weights = {"layer1.0.conv1.weight": draw(3, 3, 3, 3), "layer1.0.bn1.weight": scale, "layer1.0.bn1.bias": shift,
               "layer1.0.bn1.running_mean": mean, "layer1.0.bn1.running_var": variance,
               "fc.weight": draw(5, 216), "fc.bias": draw(5)}  # fmt: skip
    made, _ = converted(nodes, weights)
    assert [(layer.name, layer.type, *layer.bottom, *layer.top) for layer in made.net.layer] == [
        ("x", "Input", "x"),
        ("layer1/0/conv1", "Convolution", "x", "layer1/0/conv1"),
        ("layer1/0/bn1", "BatchNorm", "layer1/0/conv1", "layer1/0/conv1"),
        ("layer1/0/bn1/scale", "Scale", "layer1/0/conv1", "layer1/0/conv1"),
        ("layer1/0/relu", "ReLU", "layer1/0/conv1", "layer1/0/conv1"),
        ("layer1/0", "Eltwise", "layer1/0/conv1", "x", "layer1/0"),
        ("layer1/0/relu_1", "ReLU", "layer1/0", "layer1/0/relu_1"),
        ("f", "Flatten", "layer1/0/relu_1", "f"),
        ("fc", "InnerProduct", "f", "y"),
    ]
    stored = made.weights
    np.testing.assert_array_equal(stored["layer1/0/conv1"][0], weights["layer1.0.conv1.weight"])
    for blob, array in zip(stored["layer1/0/bn1"], (mean, variance, np.ones(1)), strict=True):
        np.testing.assert_array_equal(blob, array)
    for blob, array in zip(stored["layer1/0/bn1/scale"], (scale, shift), strict=True):
        np.testing.assert_array_equal(blob, array)
    assert list(made.net.layer[0].input_param.shape[0].dim) == [1, 3, 8, 9]
    assert [layer.name for layer in made.net.layer if layer.param] == []  # all of it can be trained


def test_names_of_modules() -> None:
    """A module at the top is not the net, a function keeps its name, and numbers tell layers of one name apart."""
    nodes = [node("Relu", "x", "/act/Relu_output_0", name="/act/Relu"), node("Neg", "/act/Relu_output_0", "a"),
             node("Relu", "a", "b", name="/act/Relu_1"), node("Neg", "b", "c", name="/Neg"),
             node("Neg", "c", "d", name="/Neg_1"), node("Neg", "d", "e", name="node_7"),
             node("Neg", "e", "y", name="/a/b/b.0/Neg")]  # fmt: skip
    made, _ = converted(nodes, {})
    assert [layer.name for layer in made.net.layer] == ["x", "act", "a", "act_2", "Neg", "Neg_1", "e", "a/b/0"]


def test_repeated_modules_share_their_parameters() -> None:
    """Each blob of them; statistics do not learn, and constants stay frozen."""
    nodes = [node("BatchNormalization", "x b.weight b.bias b.running_mean b.running_var", "n"),
             node("Relu", "n", "r"),
             node("BatchNormalization", "r b.weight b.bias b.running_mean b.running_var", "m"),
             node("Mul", "m /scale.weight", "p"), node("Neg", "p", "q"), node("Mul", "q /scale.weight", "s"),
             node("Conv", "s c.weight", "y")]  # fmt: skip
    constants = {"b.weight": draw(3), "b.bias": draw(3, seed=1), "b.running_mean": draw(3, seed=2),
                 "b.running_var": POSITIVE, "/scale.weight": draw(3, 1, 1), "c.weight": draw(2, 3, 1, 1)}  # fmt: skip
    made, _ = converted(nodes, constants)
    found = {
        layer.name: [(param.name, param.lr_mult, param.decay_mult) for param in layer.param]
        for layer in made.net.layer
        if layer.name in made.weights
    }
    statistics = [(f"b.{index}", 0, 1) for index in range(3)]
    factors = [(f"b.scale.{index}", 1, 1) for index in range(2)]
    assert found == {
        "b": statistics, "b/scale": factors, "b_2": statistics, "b_2/scale": factors,
        "/scale": [("/scale.scale.0", 0, 0)], "/scale_2": [("/scale.scale.0", 0, 0)], "c": [],
    }  # fmt: skip


def test_layers_that_have_one_constant_in_common_are_not_one_module() -> None:
    """Exporters store equal constants once: two convolutions may have a bias in common, and other weights."""
    nodes = [node("Conv", "x a.weight c.bias", "h"), node("Conv", "h b.weight c.bias", "i"),
             node("Conv", "i a.weight c.bias", "y")]  # fmt: skip
    weights = {"a.weight": draw(3, 3, 1, 1), "b.weight": draw(3, 3, 1, 1, seed=1), "c.bias": draw(3)}
    made, _ = converted(nodes, weights)
    names = {layer.name: [param.name for param in layer.param] for layer in made.net.layer[1:]}
    assert names == {"a": ["a.0", "a.1"], "b": [], "a_2": ["a.0", "a.1"]}
    nodes = [node("Conv", "x folded_1 c.bias", "h"), node("Conv", "h folded_2 c.bias", "y")]
    made, _ = converted(nodes, {"folded_1": draw(3, 3, 1, 1), "folded_2": draw(3, 3, 1, 1, seed=1), "c.bias": draw(3)})
    assert [(layer.name, len(layer.param)) for layer in made.net.layer[1:]] == [("c", 0), ("c_2", 0)]


def test_shapes_and_names_in_a_net_writer() -> None:
    shapes = {"a": (None, 3, 4), "b": (2, 3), "c": (None, None), "d": (None, 3, None), "e": ()}
    graph = replace(normalize_graph(from_model(model([node("Relu", "x", "y")]))), shapes=shapes,
                    constants={"k": np.zeros((4, 5))})  # fmt: skip
    writer = NetWriter(graph)
    assert [writer.dims(name) for name in "abk"] == [(0, 3, 4), (2, 3), (4, 5)]
    for name in "cdz":
        with pytest.raises(RefusedError, match=f"the size of '{name}' is not known; give --input-shape"):
            writer.dims(name)
    with pytest.raises(RefusedError, match="'e' is a single number"):
        writer.dims("e")
    assert [writer.unique(name) for name in ("n", "n", "n", "", "")] == ["n", "n_2", "n_3", "layer", "layer_2"]
    assert [writer.learns(name) for name in ("a.b", "a", "a.b:0", "/a.b", "3.a")] == [True, False, True, False, False]


def test_unread_parts_are_silenced() -> None:
    nodes = [node("Split", "x n", "a b c", axis=2), node("Concat", "c a", "y", axis=2)]
    made, _ = converted(nodes, {"n": shape(3, 4, 1)})
    assert [list(layer.bottom) for layer in made.net.layer if layer.type == "Silence"] == [["a/1"]]


def test_outputs_have_their_names_and_blobs_of_their_own() -> None:
    nodes = [
        node("Conv", "x w", "c"),
        node("Relu", "c", "y"),
        node("Identity", "y", "z"),
        node("Split", "c", "p q", axis=1, num_outputs=2),
    ]
    made, file = converted(nodes, {"w": W}, outputs=("y", "q", "z", "p"))
    x = draw(2, 3, 8, 9, seed=9)
    net = build(made.net, "TEST", shapes={"x": x.shape}, seed=0)
    load_weights(net, made.weights)
    expected = inference_session(file.SerializeToString()).run(["y", "q", "z", "p"], {"x": x})
    found = restrict_to_blobs(net, ["y", "q", "z", "p"])({"x": torch.from_numpy(x)})
    for name, array in zip("yqzp", expected, strict=True):
        np.testing.assert_allclose(found[name].detach().numpy(), array, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("nodes", "outputs", "layers"),
    [
        ([node("Relu", "x", "r"), node("Identity", "r", "y")], "y", ["x y"]),  # as TensorFlow's exporters end
        ([node("Identity", "x", "y")], "y", ["x y"]),
        ([node("Identity", "x", "y"), node("Relu", "y", "z")], "zy", ["x z", "x y"]),
        ([node("Relu", "x", "r"), node("Identity", "r", "y"), node("Neg", "y", "q")], "yqr", ["x y", "y q", "y r"]),
        ([node("Relu", "x", "q"), node("Neg", "q", "p"), node("Identity", "p", "y"), node("Abs", "q", "z")], "yz",
         ["x q", "q y", "q z"]),
    ],
)  # fmt: skip
def test_a_value_with_two_names_has_those_of_the_outputs(nodes: Nodes, outputs: str, layers: list[str]) -> None:
    made, file = converted(nodes, {}, outputs=tuple(outputs))
    assert [" ".join((*layer.bottom, *layer.top)) for layer in made.net.layer[1:]] == layers
    x = draw(2, 3, 8, 9, seed=9)
    expected = inference_session(file.SerializeToString()).run(list(outputs), {"x": x})
    found = restrict_to_blobs(build(made.net, "TEST", shapes={"x": x.shape}), list(outputs))({"x": torch.from_numpy(x)})
    for name, array in zip(outputs, expected, strict=True):
        np.testing.assert_array_equal(found[name].numpy(), array)


def test_a_value_in_the_middle_is_an_output() -> None:
    nodes = [node("Relu", "x", "r"), node("Reshape", "r s", "y")]
    made, _ = converted(nodes, {"s": shape(0, 3, 8, 9)}, outputs=("y", "r"))
    x = draw(2, 3, 8, 9, seed=9)
    found = computed(made, x)
    np.testing.assert_array_equal(found["y"].numpy(), np.maximum(x, 0))
    assert [layer.top[0] for layer in made.net.layer] == ["x", "r", "y"]


def test_an_output_that_is_given_twice_is_one_blob() -> None:
    graph = normalize_graph(from_model(model([node("Relu", "x", "y")])))
    assert [layer.name for layer in convert_graph(replace(graph, outputs=("y", "y"))).net.layer] == ["x", "y"]
