"""Every idiom of exporters as a torch module, against ONNX Runtime on the file as it stands, with two batch sizes."""

from __future__ import annotations

import copy
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.fx.experimental.proxy_tensor

from fusion.errors import OnnxError
from fusion.onnx.graphs import Graph, graph_weights, normalize_graph, support
from fusion.onnx.graphs.read import from_model
from fusion.onnx.to_torch import OnnxNet

sys.path.insert(0, str(Path(__file__).parents[3] / "fusion" / "onnx" / "graphs"))  # the other room's helper
from graphs import draw, model, node

ort = pytest.importorskip("onnxruntime")
W, B = draw(4, 3, 3, 3), draw(4)
POOLED = [node("Conv", "x w b", "c", pads=[1, 1, 1, 1]), node("GlobalAveragePool", "c", "p")]
DENSE = draw(4, 5)

CASES: dict[str, onnx.ModelProto] = {
    "identity on initialisers": model(
        [node("Identity", "b", "b2"), node("Identity", "w", "w2"), node("Conv", "x w2 b2", "y")], {"w": W, "b": B}
    ),
    "allowzero": model([node("Reshape", "x s", "y", allowzero=1)], {"s": np.array([-1, 192])}),
    "shape subgraph": model(
        [node("Shape", "x", "s"), node("Gather", "s i", "n"), node("Unsqueeze", "n z", "n1"),
         node("Concat", "n1 m", "t", axis=0), node("Reshape", "x t", "y")],
        {"i": np.array(0), "z": np.array([0]), "m": np.array([-1])},
    ),
    "shape with start and end": model(
        [node("Shape", "x", "s", start=0, end=1), node("Concat", "s m", "t", axis=0), node("Reshape", "x t", "y")],
        {"m": np.array([3, 64])},
    ),
    "batch written into a reshape": model(
        [*POOLED, node("Reshape", "p s", "y")], {"w": W, "b": B, "s": np.array([1, -1])}, shape=(1, 3, 8, 8)
    ),
    "a batch of two written in": model(
        [*POOLED, node("Reshape", "p s", "y")], {"w": W, "b": B, "s": np.array([2, 4])}, shape=(2, 3, 8, 8)
    ),
    "a token for one sample": model(
        [node("Reshape", "x s", "r"), node("Concat", "t r", "y", axis=1)],
        {"s": np.array([1, 3, 64]), "t": draw(1, 1, 64)}, shape=(1, 3, 8, 8),
    ),
    "windows": model(
        [node("Reshape", "x s", "a"), node("Transpose", "a", "t", perm=[0, 2, 4, 1, 3, 5]),
         node("Reshape", "t u", "y")],
        {"s": np.array([1, 3, 2, 4, 2, 4]), "u": np.array([4, 3, 16])}, shape=(1, 3, 8, 8),
    ),
    "NHWC sandwich": model(
        [node("Transpose", "x", "h", perm=[0, 2, 3, 1]), node("Transpose", "h", "n", perm=[0, 3, 1, 2]),
         node("Conv", "n w b", "c", auto_pad="SAME_UPPER", strides=[2, 2]),
         node("Transpose", "c", "d", perm=[0, 2, 3, 1]),
         node("ReduceMean", "d ax", "m", keepdims=0), node("MatMul", "m k", "q"), node("Add", "q bb", "y")],
        {"w": W, "b": B, "ax": np.array([1, 2]), "k": DENSE, "bb": draw(5)},
    ),
    "kernels transposed in the graph": model(
        [node("Transpose", "k", "w", perm=[3, 2, 0, 1]), node("Conv", "x w", "y", auto_pad="SAME_LOWER")],
        {"k": draw(2, 2, 3, 4)},
    ),
    "gemm without transB": model([*POOLED, node("Flatten", "p", "f"), node("Gemm", "f k c2", "y", alpha=0.5, beta=2.0)],
                                 {"w": W, "b": B, "k": DENSE, "c2": draw(1, 5)}),
    "batch norm": model(
        [node("Conv", "x w", "c"), node("BatchNormalization", "c s t m v", "y", epsilon=1e-3)],
        {"w": W, "s": draw(4), "t": draw(4), "m": draw(4), "v": np.abs(draw(4)) + 0.5},
    ),
    "average pooling, SAME": model([node("AveragePool", "x", "y", kernel_shape=[2, 2], auto_pad="SAME_UPPER")]),
    "average pooling, uneven": model(
        [node("AveragePool", "x", "y", kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1], count_include_pad=1)]
    ),
    "max pooling, uneven": model([node("MaxPool", "x", "y", kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1])]),
    "reductions with axes as inputs": model(
        [node("ReduceMax", "x a", "m", keepdims=1), node("ReduceL2", "m c", "l"), node("ReduceSum", "l d", "y")],
        {"a": np.array([-1]), "c": np.array([1]), "d": np.array([2])},
    ),
    "pad with axes": model([node("Pad", "x p v a", "y")],
                           {"p": np.array([1, 2, 0, 1]), "v": 0.5, "a": np.array([2, 3])}),
    "split by count": model(
        [node("Split", "x", "a b", axis=3, num_outputs=2), node("Sub", "a b", "y")]
    ),
    "resize": model(
        [node("Resize", "x - s", "r", mode="nearest", nearest_mode="floor",
              coordinate_transformation_mode="asymmetric"),
         node("Resize", "r - - t", "y", mode="linear", coordinate_transformation_mode="half_pixel", axes=[2, 3])],
        {"s": [1.0, 1.0, 2.0, 2.0], "t": np.array([12, 9])},
    ),
    "global max": model([node("GlobalMaxPool", "x", "g"), node("Flatten", "g", "y")]),
    "gelu, both": model([node("Gelu", "x", "g"), node("Gelu", "g", "y", approximate="tanh")]),
    "mish and swish": model([node("Mish", "x", "m"), node("HardSwish", "m", "y")], opset=22),
    "group norm": model([node("GroupNormalization", "x s t", "y", num_groups=3)], {"s": draw(3), "t": draw(3)},
                        opset=21),
    "rms norm": model([node("RMSNormalization", "x s", "y")], {"s": draw(8)}, opset=23),
    "layer norm": model([node("LayerNormalization", "x s t", "y")], {"s": draw(8), "t": draw(8)}),
    "clip and hard swish": model([node("Clip", "x lo hi", "c"), node("HardSigmoid", "c", "h"), node("Mul", "h x", "y")],
                                 {"lo": -1.0, "hi": 1.0}),
    "dropout of inference": model([node("Dropout", "x", "d"), node("Relu", "d", "y")], opset=13),
    "opset 9": model([node("Conv", "x w b", "c"), node("Relu", "c", "r"), node("ReduceMean", "r", "y", axes=[2, 3])],
                     {"w": W, "b": B}, opset=9),
    "opset 11, squeezed": model([*POOLED, node("Squeeze", "p", "y", axes=[2, 3])], {"w": W, "b": B}, opset=11),
    "constants as nodes": model(
        [node("Constant", "", "k", value_floats=[1.0, 2.0, 3.0]), node("Constant", "", "s", value_ints=[1, 3, 1, 1]),
         node("Reshape", "k s", "kk"), node("Mul", "x kk", "y")]
    ),
    "cast like": model([node("Shape", "x", "s"), node("ReduceProd", "s", "p", keepdims=0), node("CastLike", "p x", "f"),
                        node("Mul", "x f", "y")]),
}  # fmt: skip


def runtime(file: onnx.ModelProto, x: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(file.SerializeToString(), options, ["CPUExecutionProvider"])
    size = session.get_inputs()[0].shape[0]
    step = size if isinstance(size, int) else len(x)
    parts = [session.run(None, {"x": x[start : start + step]}) for start in range(0, len(x), step)]
    return [np.concatenate(column) for column in zip(*parts, strict=True)]


def opened(file: onnx.ModelProto) -> Graph:
    return normalize_graph(from_model(file))


@pytest.mark.parametrize("name", CASES)
def test_an_idiom_computes_what_the_file_says(name: str) -> None:
    file = CASES[name]
    graph = opened(file)
    assert support(graph).unsupported == ()
    module = OnnxNet(graph, frozen=True)
    for batch in (2, 4) if "cast like" not in name else (2,):
        x = draw(batch, 3, 8, 8, seed=batch)
        with torch.no_grad():
            found = module(torch.from_numpy(x)).numpy()
        (expected,) = runtime(file, x)
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= 1e-5 * max(1e-3, np.abs(expected).max())


@pytest.mark.parametrize("name", CASES)
def test_the_runtime_in_place_of_torch_computes_the_same(name: str) -> None:
    module = OnnxNet(opened(CASES[name]), frozen=True)
    if name in ("gelu, both", "group norm", "rms norm"):
        with pytest.raises(OnnxError, match=r"opset 17 cannot express its operator (Gelu|GroupNorm|RMSNorm)"):
            module.to_runtime()
        return
    x = torch.from_numpy(draw(2, 3, 8, 8, seed=5))
    expected = module(x)
    module.runtime = module.to_runtime()
    torch.testing.assert_close(module(x), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_the_runtime_has_the_present_weights_in_float32() -> None:
    module = normalized().eval()
    x = torch.from_numpy(draw(2, 3, 8, 8))
    for parameter in module.parameters():
        parameter.data += 0.5
    expected = module(x).detach()
    module.runtime = module.to_runtime()
    torch.testing.assert_close(module(x), expected, rtol=1e-5, atol=1e-5)
    assert not module(x).requires_grad
    with pytest.raises(OnnxError, match="its weights are float64"):
        module.double().to_runtime()


def test_several_outputs_keep_their_order() -> None:
    file = model([node("Split", "x", "a b", axis=2, num_outputs=2), node("Relu", "b", "r")], outputs=("r", "b", "a"))
    x = draw(2, 3, 8, 8)
    found = OnnxNet(opened(file))(torch.from_numpy(x))
    for one, other in zip(found, runtime(file, x), strict=True):
        np.testing.assert_allclose(one.numpy(), other)


def test_a_fixed_batch_runs_in_pieces() -> None:
    file = model(
        [node("Reshape", "x s", "r"), node("ReduceSum", "r a", "y", keepdims=0)],
        {"s": np.array([3, 64]), "a": np.array([0])}, shape=(1, 3, 8, 8), outputs=("y",),
    )  # fmt: skip
    graph = opened(file)
    assert graph.batch == 1
    assert "the batch stays 1" in graph.notes[-1]
    assert opened(CASES["a token for one sample"]).batch is None
    file = CASES["a batch of two written in"]
    assert opened(file).batch is None
    assert "2 in the file, is open" in opened(file).notes[-1]


def test_a_batch_that_is_no_multiple_of_a_fixed_one_is_refused() -> None:
    file = model(
        [node("Reshape", "x s", "r"), node("Concat", "t r", "y", axis=1)],
        {"s": np.array([2, 3, 64]), "t": draw(2, 1, 64)}, shape=(2, 3, 8, 8),
    )  # fmt: skip
    module = OnnxNet(opened(file))
    assert module.batch == 2
    assert module(torch.zeros(4, 3, 8, 8)).shape == (4, 4, 64)
    with pytest.raises(ValueError, match="fixes a batch of 2; 3 is not a multiple"):
        module(torch.zeros(3, 3, 8, 8))


def normalized() -> OnnxNet:
    file = model(
        [node("Conv", "x w", "c"), node("BatchNormalization", "c s t m v", "n"), node("Dropout", "n r", "d"),
         node("GlobalAveragePool", "d", "g"), node("Flatten", "g", "f"), node("Gemm", "f k", "y")],
        {"w": W, "s": np.ones(4), "t": np.zeros(4), "m": draw(4), "v": np.ones(4), "k": DENSE, "r": 0.5},
    )  # fmt: skip
    return OnnxNet(opened(file))


def test_batch_norm_learns_in_train_and_rests_in_eval() -> None:
    module = normalized().train()
    names = dict(zip(module.names, module.caffe_params, strict=True))
    mean = module.get_buffer(names["m"])
    before = mean.clone()
    x = torch.from_numpy(draw(6, 3, 8, 8))
    module(x).square().sum().backward()
    assert not torch.equal(mean, before)
    learned = {name for name, tensor in module.named_parameters() if tensor.grad is not None}
    assert learned == {names[name] for name in ("w", "s", "t", "k")}
    module.eval()
    torch.testing.assert_close(module(x), module(x))


def test_a_frozen_part_is_a_fixed_function() -> None:
    file = CASES["batch norm"]
    module = OnnxNet(opened(file), frozen=True).train()
    x = torch.from_numpy(draw(2, 3, 8, 8))
    first = module(x)
    assert torch.equal(first, module(x))
    assert not list(module.parameters())
    assert not module.training


def test_a_weight_that_two_nodes_read_is_one_parameter() -> None:
    file = model([node("Conv", "x w", "a", pads=[1, 1, 1, 1]), node("Conv", "a w", "y", pads=[1, 1, 1, 1])],
                 {"w": draw(3, 3, 3, 3)})  # fmt: skip
    module = OnnxNet(opened(file))
    assert len(list(module.parameters())) == len(module.caffe_params) == 1
    with torch.no_grad():
        next(iter(module.parameters())).zero_()
    assert module(torch.ones(1, 3, 8, 8)).abs().max() == 0


def test_it_can_be_traced_and_copied() -> None:
    module = OnnxNet(opened(CASES["shape subgraph"]), frozen=True)
    x = torch.from_numpy(draw(2, 3, 8, 8))
    traced = torch.fx.experimental.proxy_tensor.make_fx(copy.deepcopy(module))(x)
    assert torch.equal(traced(x), module(x))
    again = pickle.loads(pickle.dumps(normalized().eval()))
    assert torch.equal(again(x), normalized().eval()(x))


def test_settings_are_no_weights() -> None:
    assert not graph_weights(opened(CASES["clip and hard swish"]))
    assert list(graph_weights(opened(CASES["gemm without transB"]))) == ["w", "b", "k", "c2"]


def test_all_that_cannot_be_run_is_told_at_once() -> None:
    file = model(
        [node("GRU", "x q r", "g", hidden_size=2), node("Unique", "g", "h"), node("MaxPool", "h", "c"),
         onnx.helper.make_node("SVMRegressor", ["c"], ["s"], domain="ai.onnx.ml"),
         onnx.helper.make_node("Own", ["s"], ["y"], domain="com.example")],
        {"q": draw(1, 6, 3), "r": draw(1, 6, 2)}, ml=True,
    )  # fmt: skip
    with pytest.raises(OnnxError) as caught:
        OnnxNet(opened(file))
    text = str(caught.value)
    for part in (
        "5 kinds of its operators",
        "GRU (1x",
        "Unique",
        "Required attribute 'kernel_shape' is missing",
        "ai.onnx.ml::SVMRegressor (1x, first 's'): no converter",
        "com.example::Own (1x, first 'y'): the domain 'com.example' is not ONNX's own",
        "hint: cut the net",
    ):
        assert part in text  # fmt: skip


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ([node("Resize", "x - s", "y", mode="linear", coordinate_transformation_mode="align_corners")],
         "factors that give no whole sizes"),
        ([node("Resize", "x - s", "y", mode="nearest", coordinate_transformation_mode="tf_crop_and_resize")],
         "it also crops"),
        ([node("Resize", "x - s", "y", mode="cubic", antialias=1)], "no form in opset 17"),
        ([node("MaxPool", "x", "p i", kernel_shape=[2, 2]), node("Cast", "i", "j", to=1), node("Add", "p j", "y")],
         "indices of the maxima"),
        ([node("Cast", "x", "h", to=16), node("Cast", "h", "y", to=1)], "values of type bfloat16"),
        ([node("BatchNormalization", "x t t t t", "b m v", training_mode=1), node("Add", "b m", "y")],
         "outputs of it are read that are not computed"),
    ],
)  # fmt: skip
def test_what_is_not_exact_is_refused(nodes: list[onnx.NodeProto], reason: str) -> None:
    found = support(opened(model(nodes, {"s": [1.0, 1.0, 1.3, 1.3], "w": draw(3, 2, 3, 3), "t": draw(3)})))
    assert any(reason in text for row in found.unsupported for text in row.reasons), found.table()
