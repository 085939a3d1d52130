"""Models of ai.onnx.ml, as scikit-learn's exporters write them, against ONNX Runtime."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from fusion.errors import OnnxError
from fusion.onnx.graphs import Graph, classifier_input, cut, graph_weights, normalize_graph, scores_value, support
from fusion.onnx.graphs.read import from_model
from fusion.onnx.runtime import inference_session
from fusion.onnx.to_torch import OnnxNet
from fusion.onnx.to_torch.runtime_program import RuntimeProgram

sys.path.insert(0, str(Path(__file__).parents[3] / "fusion" / "onnx" / "graphs"))  # the other room's helper
from graphs import draw, node

ort = pytest.importorskip("onnxruntime")
VERSION = tuple(map(int, ort.__version__.split(".")[:2]))
# Older ones leave LOGISTIC of one score out, and differ at missing values; between 1.23 and 1.32 it was not measured.
NEWER = pytest.mark.skipif(VERSION < (1, 32), reason="an older ONNX Runtime computes other scores")
MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ")
FEATURES = 3
# Thresholds are whole numbers too, so that every second comparison is of equal numbers.
X = np.random.default_rng(5).integers(-2, 3, (60, FEATURES)).astype(np.float32)
X[::7, 0], X[3, 1], X[4, 2] = np.nan, np.inf, -np.inf


def ml(op: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    """A node of ai.onnx.ml."""
    return node(op, inputs, outputs, domain="ai.onnx.ml", **attributes)


def file_of(
    nodes: list[onnx.NodeProto],
    constants: dict[str, Any] | None = None,
    *,
    outputs: dict[str, int | None] | None = None,
    version: int = 3,
    features: int = FEATURES,
    kind: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """A model with the input x of rows; outputs: name -> element type, None for ZipMap's."""
    made = []
    for name, element in (outputs or {"y": TensorProto.FLOAT}).items():
        info = helper.make_tensor_value_info(name, element, None) if element else onnx.ValueInfoProto(name=name)
        made.append(info)
    given = [numpy_helper.from_array(np.asarray(array), name) for name, array in (constants or {}).items()]
    value = helper.make_tensor_value_info("x", kind, ["N", features])
    graph = helper.make_graph(nodes, "model", [value], made, given)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", version)]
    return helper.make_model(graph, opset_imports=imports, ir_version=9)


CLASSIFIED = {"label": TensorProto.INT64, "y": TensorProto.FLOAT}


def opened(file: onnx.ModelProto) -> Graph:
    return normalize_graph(from_model(file))


def run(graph: Graph, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    with torch.no_grad():
        found: torch.Tensor = OnnxNet(graph, frozen=True)(torch.from_numpy(x))
    return found.numpy()


def check(file: onnx.ModelProto, x: np.ndarray[Any, Any] = X, tolerance: float = 1e-6) -> Graph:
    """Compare the last output with ONNX Runtime's, in a batch and one by one; return the graph."""
    graph, session = opened(file), inference_session(file.SerializeToString())
    expected = session.run([file.graph.output[-1].name], {"x": x})[0]
    assert expected.dtype == np.float32
    found = run(graph, x)
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(np.concatenate([run(graph, row[np.newaxis]) for row in x[:8]]), found[:8], atol=1e-6)
    exported = RuntimeProgram(graph)(torch.from_numpy(x))  # in standard operators
    assert isinstance(exported, torch.Tensor)
    np.testing.assert_allclose(exported.numpy(), found, rtol=tolerance, atol=tolerance)
    return graph


def forest(rng: np.random.Generator, trees: int, ids: str, columns: list[int], least: float = -1.0) -> dict[str, Any]:
    """Attributes of random trees in which each leaf has a weight for each of these columns."""
    rows: list[tuple[int, int, int, float, str, int, int, int]] = []
    leaves: list[tuple[int, int, int, float]] = []
    for tree in range(trees):
        waiting, fresh = [(0, 0)], iter(range(1, 1000))
        while waiting:
            number, depth = waiting.pop()
            if depth == 3 or (depth and rng.random() < 0.3) or (tree == 1 and not depth):
                rows.append((tree, number, 0, 0.0, "LEAF", 0, 0, 0))
                leaves += [(tree, number, column, float(rng.uniform(least, 1))) for column in columns]
                continue
            yes, no = next(fresh), next(fresh)
            mode = MODES[rng.integers(len(MODES))]
            value, missing = float(rng.integers(-2, 3)), int(rng.integers(2))
            rows.append((tree, number, int(rng.integers(FEATURES)), value, mode, yes, no, missing))
            waiting += [(no, depth + 1), (yes, depth + 1)]
    fields = ("treeids", "nodeids", "featureids", "values", "modes", "truenodeids", "falsenodeids")
    names = [f"nodes_{field}" for field in (*fields, "missing_value_tracks_true")]
    own = [f"{ids}_{field}" for field in ("treeids", "nodeids", "ids", "weights")]
    return {name: list(column) for keys, table in ((names, rows), (own, leaves))
            for name, column in zip(keys, zip(*table, strict=True), strict=True)}  # fmt: skip


@pytest.mark.parametrize("aggregate", ["SUM", "AVERAGE", "MIN", "MAX"])
@pytest.mark.parametrize(
    ("targets", "base", "transform"),
    [(1, (), "NONE"), (1, (0.25,), "NONE"), (3, (), "NONE"), (3, (0.5, -1.0, 2.0), "NONE"), (3, (), "SOFTMAX"),
     (2, (), "LOGISTIC"), (3, (0.5, 0.0, 0.0), "SOFTMAX_ZERO")],
)  # fmt: skip
def test_tree_regressor(aggregate: str, targets: int, base: tuple[float, ...], transform: str) -> None:
    for seed in range(2):
        values = forest(np.random.default_rng(seed), 5, "target", list(range(targets)))
        values |= {"base_values": base} if base else {}
        check(file_of([ml("TreeEnsembleRegressor", "x", "y", n_targets=targets, aggregate_function=aggregate,
                          post_transform=transform, **values)]))  # fmt: skip


@NEWER
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("missing", [0, 1])
def test_each_comparison(mode: str, missing: int) -> None:
    """One branch, both of whose leaves differ, at values below, at and above the threshold, and not a number."""
    values = {
        "nodes_treeids": [0, 0, 0], "nodes_nodeids": [0, 1, 2], "nodes_featureids": [1, 0, 0],
        "nodes_values": [0.1, 0.0, 0.0], "nodes_modes": [mode, "LEAF", "LEAF"], "nodes_truenodeids": [1, 0, 0],
        "nodes_falsenodeids": [2, 0, 0], "nodes_missing_value_tracks_true": [missing, 0, 0],
        "target_treeids": [0, 0], "target_nodeids": [1, 2], "target_ids": [0, 0], "target_weights": [7.0, 9.0],
    }  # fmt: skip
    column = np.float32([0.1, np.nextafter(np.float32(0.1), -1), np.nextafter(np.float32(0.1), 1), np.nan, np.inf])
    x = np.stack([np.zeros(5, np.float32), column, np.zeros(5, np.float32)], 1)
    graph = check(file_of([ml("TreeEnsembleRegressor", "x", "y", n_targets=1, **values)]), x)
    assert set(run(graph, x).reshape(-1).tolist()) == {7.0, 9.0}


@pytest.mark.parametrize("transform", ["NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO"])
@pytest.mark.parametrize(
    ("classes", "columns", "base"),
    [(3, [0, 1, 2], ()), (3, [0, 2], ()), (4, [3, 1], (0.5, -1.0, 2.0, 0.25)), (2, [0, 1], ()), (2, [1], ())],
)
def test_tree_classifier(transform: str, classes: int, columns: list[int], base: tuple[float, ...]) -> None:
    for seed in range(2):
        values = forest(np.random.default_rng(seed), 4, "class", columns) | ({"base_values": base} if base else {})
        tree = ml("TreeEnsembleClassifier", "x", "label y", post_transform=transform,
                  classlabels_int64s=list(range(classes)), **values)  # fmt: skip
        check(file_of([tree], outputs=CLASSIFIED))


@pytest.mark.parametrize(
    ("least", "base", "transform"),
    [(0.0, (), "NONE"), (0.0, (0.25,), "NONE"), (-1.0, (), "NONE"), (-1.0, (0.5,), "NONE"),
     pytest.param(0.0, (), "LOGISTIC", marks=NEWER), (-1.0, (0.5,), "LOGISTIC")],
)  # fmt: skip
def test_two_classes_with_one_score(least: float, base: tuple[float, ...], transform: str) -> None:
    """The larger score is the label of ONNX Runtime, and its softmax or logarithm is that of the file's values."""
    values = forest(np.random.default_rng(2), 3, "class", [0], least) | ({"base_values": base} if base else {})
    values["class_weights"][0] = 0.0  # which is not negative
    tree = ml("TreeEnsembleClassifier", "x", "label y", post_transform=transform, classlabels_int64s=[0, 1], **values)
    file = file_of([tree], outputs=CLASSIFIED)
    graph = check(file)
    scores = run(cut(graph, [scores_value(graph)]), X)
    labels = inference_session(file.SerializeToString()).run(["label"], {"x": X})[0]
    np.testing.assert_array_equal(scores.argmax(1), labels)


def test_votes_are_probabilities_and_their_logarithms_scores() -> None:
    values = forest(np.random.default_rng(3), 4, "class", [0, 1, 2])
    votes = np.random.default_rng(4).dirichlet([0.3, 0.3, 0.3], len(values["class_weights"]) // 3)
    votes[0] = 0, 1, 0
    values["class_weights"] = (votes / 4).reshape(-1).tolist()
    tree = ml("TreeEnsembleClassifier", "x", "label p", classlabels_int64s=[0, 1, 2], **values)
    file = file_of([tree, ml("ZipMap", "p", "y", classlabels_int64s=[0, 1, 2])], outputs={"label": 7, "y": None})
    graph = opened(file)
    assert (graph.outputs, scores_value(graph), classifier_input(graph)) == (("p",), "p:scores", "p:scores")
    assert graph.notes == ("its output 'label' is left out: labels are no scores",
                           "its class scores are the logarithms of 'p'")  # fmt: skip
    rows = inference_session(file.SerializeToString()).run(["y"], {"x": X})[0]
    expected = np.float32([[row[label] for label in range(3)] for row in rows])
    np.testing.assert_allclose(run(graph, X), expected, atol=1e-6)
    scores = run(cut(graph, ["p:scores"]), X)
    np.testing.assert_allclose(torch.from_numpy(scores).softmax(1), expected, atol=1e-6)
    assert np.isfinite(scores).all()
    assert not graph_weights(graph)


def ensemble(rng: np.random.Generator) -> dict[str, Any]:
    """Attributes of a TreeEnsemble of two trees, with every mode, the second a single leaf."""
    sets = [[1.0, -1.0], [2.0], [0.0, 1.0, -2.0]]
    modes = [6, 0, 6, 1, 6, 2, 3, 4, 5]
    count = len(modes)
    values = {
        "n_targets": 2,
        "tree_roots": [0, count],
        "nodes_modes": [*modes, 0],
        "nodes_featureids": [*rng.integers(0, FEATURES, count).tolist(), 0],
        "nodes_splits": [*rng.integers(-2, 3, count).tolist(), 0],
        "nodes_missing_value_tracks_true": [*rng.integers(0, 2, count).tolist(), 0],
        # a chain: the true branch of each node is a leaf, the false one the next node, at last a leaf
        "nodes_truenodeids": [*range(count), count + 1],
        "nodes_trueleafs": [1] * (count + 1),
        "nodes_falsenodeids": [*range(1, count), count, count + 1],
        "nodes_falseleafs": [*[0] * (count - 1), 1, 1],
        "leaf_targetids": rng.integers(0, 2, count + 2).tolist(),
        "leaf_weights": rng.uniform(-1, 1, count + 2).tolist(),
        "membership_values": [number for group in sets for number in (*group, np.nan)],
    }
    kinds = {"nodes_modes": np.uint8, "nodes_splits": np.float32, "leaf_weights": np.float32,
             "membership_values": np.float32}  # fmt: skip
    return values | {name: numpy_helper.from_array(np.asarray(values[name], kind)) for name, kind in kinds.items()}


@NEWER
@pytest.mark.parametrize(("aggregate", "transform"), [(1, 0), (0, 0), (2, 0), (3, 0), (1, 3)])
def test_tree_ensemble(aggregate: int, transform: int) -> None:
    for seed in range(2):
        values = ensemble(np.random.default_rng(seed))
        tree = ml("TreeEnsemble", "x", "y", aggregate_function=aggregate, post_transform=transform, **values)
        check(file_of([tree], version=5))


COEFFICIENTS = draw(3, FEATURES).reshape(-1).tolist()
LINEAR: dict[str, tuple[list[onnx.NodeProto], dict[str, Any]]] = {
    **{f"classifier {name}": (
        [ml("LinearClassifier", "x", "label y", coefficients=COEFFICIENTS, intercepts=[0.5, -1.0, 0.0],
            classlabels_ints=[0, 1, 2], post_transform=name)], CLASSIFIED)
       for name in ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO")},
    "two rows": ([ml("LinearClassifier", "x", "label y", coefficients=COEFFICIENTS[:6], intercepts=[0.5, -1.0],
                     classlabels_ints=[0, 1], post_transform="LOGISTIC")], CLASSIFIED),
    "two opposite rows": ([ml("LinearClassifier", "x", "label y", intercepts=[-0.5, 0.5], classlabels_ints=[0, 1],
                              coefficients=[1.0, -2.0, 0.5, -1.0, 2.0, -0.5], post_transform="LOGISTIC")], CLASSIFIED),
    "one row": ([ml("LinearClassifier", "x", "label y", coefficients=COEFFICIENTS[:3], intercepts=[0.5],
                    classlabels_ints=[0, 1], post_transform="LOGISTIC")], CLASSIFIED),
    "regressor": ([ml("LinearRegressor", "x", "y", coefficients=COEFFICIENTS[:3], intercepts=[0.5])], {"y": 1}),
    "regressors": ([ml("LinearRegressor", "x", "y", coefficients=COEFFICIENTS, targets=3, post_transform="SOFTMAX")],
                   {"y": 1}),
    "scaler": ([ml("Scaler", "x", "y", offset=[1.0, 2.0, 3.0], scale=[0.5, 2.0, -1.0])], {"y": 1}),
    "scaler of one": ([ml("Scaler", "x", "y", offset=[1.0], scale=[0.5])], {"y": 1}),
    **{f"normalizer {norm}": ([ml("Normalizer", "x", "y", norm=norm)], {"y": 1}) for norm in ("MAX", "L1", "L2")},
    "one against the rest": (
        [ml("LinearClassifier", "x", "label z", coefficients=COEFFICIENTS, intercepts=[0.5, -1.0, 0.0],
            classlabels_ints=[0, 1, 2], post_transform="LOGISTIC"), ml("Normalizer", "z", "y", norm="L1")], CLASSIFIED),
    "softmax and norm": (
        [ml("LinearClassifier", "x", "label z", coefficients=COEFFICIENTS, intercepts=[0.5, -1.0, 0.0],
            classlabels_ints=[0, 1, 2], post_transform="SOFTMAX"), ml("Normalizer", "z", "y", norm="L1")], CLASSIFIED),
    "imputer": ([ml("Imputer", "x", "y", imputed_value_floats=[7.0, 8.0, 9.0], replaced_value_float=-2.0)], {"y": 1}),
    "imputer of one": ([ml("Imputer", "x", "y", imputed_value_floats=[7.0], replaced_value_float=1.0)], {"y": 1}),
    "binarizer": ([ml("Binarizer", "x", "y", threshold=1.0)], {"y": 1}),
    "features": ([ml("ArrayFeatureExtractor", "x i", "y")], {"y": 1}),
    "vectors": ([ml("ArrayFeatureExtractor", "x i", "e"), ml("FeatureVectorizer", "x e", "y", inputdimensions=[3, 2])],
                {"y": 1}),
}  # fmt: skip


@pytest.mark.parametrize("name", [pytest.param(name, marks=NEWER if name == "one row" else ()) for name in LINEAR])
def test_linear_models_and_preparation(name: str) -> None:
    nodes, outputs = LINEAR[name]
    x = np.nan_to_num(X[:20], nan=1, posinf=2, neginf=-2)
    x[5] = 0
    check(file_of(nodes, {"i": np.array([[2, 0]])}, outputs=outputs), x)


def test_missing_values_are_replaced() -> None:
    check(file_of([ml("Imputer", "x", "y", imputed_value_floats=[7.0, 8.0, 9.0], replaced_value_float=float("nan"))]))


@pytest.mark.parametrize(
    "name", [pytest.param("one row", marks=NEWER), "two opposite rows", "softmax and norm", "one against the rest"]
)
def test_the_softmax_of_class_scores_is_the_probabilities(name: str) -> None:
    nodes, outputs = LINEAR[name]
    file, x = file_of(nodes, outputs=outputs), draw(30, FEATURES) * 4
    graph = opened(file)
    assert scores_value(graph).endswith(":scores")
    expected = inference_session(file.SerializeToString()).run(["y"], {"x": x})[0]
    found = torch.from_numpy(run(cut(graph, [scores_value(graph)]), x)).softmax(1)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_scores_that_may_be_negative_stay() -> None:
    nodes, outputs = LINEAR["classifier NONE"]
    assert scores_value(opened(file_of(nodes, outputs=outputs))) == "y"


@pytest.mark.parametrize(
    ("nodes", "positive"),
    [
        ([node("Sigmoid", "x", "s"), node("Sub", "one s", "t"), node("Concat", "t s", "p", axis=1)], True),
        ([node("Sigmoid", "x", "s"), node("Transpose", "s", "c", perm=[0, 1]), node("Sub", "one c", "p")], True),
        ([node("Exp", "x", "s"), node("Sub", "one s", "p")], False),
        ([node("Sigmoid", "x", "s"), node("Sub", "half s", "p")], False),
        ([node("Exp", "x", "s"), node("ReduceSum", "s axis", "t"), node("Div", "s t", "p")], True),
        ([node("Exp", "x", "s"), node("Div", "s below", "p")], False),
        (
            [node("Relu", "x", "s"), node("Abs", "x", "t"), node("Greater", "s t", "c"), node("Where", "c s t", "p")],
            True,
        ),
        ([node("Relu", "x", "s"), node("Greater", "s x", "c"), node("Where", "c s x", "p")], False),
        ([node("Greater", "x half", "c"), node("Cast", "c", "d", to=1), node("Mul", "d half", "p")], True),
        ([node("Softmax", "x", "s"), node("Mul", "s half", "t"), node("Add", "t t", "p")], True),
        ([node("Softmax", "x", "s"), node("Add", "s below", "p")], False),
        ([node("MatMul", "x square", "p")], False),
    ],
)
def test_probabilities_are_what_is_never_negative(nodes: list[onnx.NodeProto], positive: bool) -> None:
    """Their class scores are logarithms; values that may be negative are scores themselves."""
    floats = {"one": [1.0], "half": [0.5], "below": [-0.5], "square": np.ones((FEATURES, FEATURES))}
    given = {name: np.asarray(value, np.float32) for name, value in floats.items()} | {"axis": np.array([1])}
    ends = [node("ArgMax", "p", "label", axis=1), ml("ZipMap", "p", "y", classlabels_int64s=[0, 1, 2])]
    graph = opened(file_of([*nodes, *ends], given, outputs={"label": TensorProto.INT64, "y": None}))
    assert scores_value(graph) == ("p:scores" if positive else "p")


def test_the_weights_of_linear_models_learn() -> None:
    nodes, outputs = LINEAR["classifier SOFTMAX"]
    net = OnnxNet(opened(file_of(nodes, outputs=outputs)))
    weight, bias = net.parameters()
    assert weight.requires_grad
    np.testing.assert_array_equal(weight.detach().numpy(), np.float32(COEFFICIENTS).reshape(3, FEATURES))
    np.testing.assert_array_equal(bias.detach().numpy(), np.float32([0.5, -1.0, 0.0]))


def test_trees_must_be_frozen() -> None:
    values = forest(np.random.default_rng(0), 2, "target", [0])
    graph = opened(file_of([ml("TreeEnsembleRegressor", "x", "y", n_targets=1, **values)]))
    with pytest.raises(OnnxError, match=r"its trees cannot learn\n  hint: freeze the layer: onnx_param \{ frozen: tr"):
        OnnxNet(graph)


def test_labels_are_left_out_and_told() -> None:
    tree = ml("TreeEnsembleClassifier", "x", "label y", classlabels_strings=["ant", "bee", "cat"],
              **forest(np.random.default_rng(0), 2, "class", [0, 1, 2]))  # fmt: skip
    graph = opened(file_of([tree], outputs={"label": TensorProto.STRING, "y": TensorProto.FLOAT}))
    assert graph.notes == ("its output 'label' is left out: labels are no scores",
                           "its scores stand for the labels ant, bee, cat, in this order")  # fmt: skip
    assert not support(graph).unsupported


def test_doubles_and_whole_numbers() -> None:
    values = forest(np.random.default_rng(1), 3, "target", [0, 1])
    for name in ("nodes_values", "target_weights"):
        values[f"{name}_as_tensor"] = numpy_helper.from_array(np.asarray(values.pop(name)))
    double = file_of([ml("TreeEnsembleRegressor", "x", "y", n_targets=2, **values)], kind=TensorProto.DOUBLE)
    expected = inference_session(double.SerializeToString()).run(["y"], {"x": X.astype(np.float64)})[0]
    graph = opened(double)
    assert graph.notes == ("its float64 values are computed in float32",)
    np.testing.assert_allclose(run(graph, X), expected, atol=1e-6)
    nodes, outputs = LINEAR["classifier SOFTMAX"]
    whole = file_of(nodes, outputs=outputs, kind=TensorProto.INT64)
    x = np.arange(12).reshape(4, FEATURES)
    expected = inference_session(whole.SerializeToString()).run(["y"], {"x": x})[0]
    np.testing.assert_allclose(run(opened(whole), x), expected, atol=1e-6)


def one_branch(**changed: Any) -> dict[str, Any]:
    values = {
        "nodes_treeids": [0, 0, 0], "nodes_nodeids": [0, 1, 2], "nodes_featureids": [0, 0, 0],
        "nodes_values": [0.5, 0.0, 0.0], "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"],
        "nodes_truenodeids": [1, 0, 0], "nodes_falsenodeids": [2, 0, 0], "target_treeids": [0, 0],
        "target_nodeids": [1, 2], "target_ids": [0, 0], "target_weights": [1.0, 2.0],
    }  # fmt: skip
    return {**values, **changed}


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"nodes_nodeids": [0, 1, 1]}, "two nodes of a tree have one number"),
        ({"nodes_truenodeids": [7, 0, 0]}, "a node that does not exist is named"),
        ({"nodes_falsenodeids": [0, 0, 0]}, "no branch leads to a node"),
        ({"nodes_falsenodeids": [1, 0, 0]}, "each tree has one root"),
        ({"nodes_treeids": [0, 0, 1]}, "a node that does not exist is named"),
        ({"target_nodeids": [1, 5]}, "a node that does not exist is named"),
        ({"target_ids": [0, 1]}, "there are 1 targets"),
        ({"n_targets": 1 << 40}, "1099511627776 targets for 2 leaves"),
        ({"nodes_featureids": [3, 0, 0]}, "a branch compares feature 3 of 3"),
        ({"nodes_modes": ["BRANCH_XY", "LEAF", "LEAF"]}, "there is no comparison 'BRANCH_XY'"),
        ({"nodes_treeids": [0] * 5, "nodes_nodeids": [0, 1, 2, 3, 4], "nodes_featureids": [0] * 5,
          "nodes_values": [0.5] * 5, "nodes_modes": ["BRANCH_LEQ", "LEAF", "BRANCH_LEQ", "BRANCH_LEQ", "LEAF"],
          "nodes_truenodeids": [1, 0, 4, 2, 0], "nodes_falsenodeids": [2, 0, 3, 4, 0]}, "leads back to itself"),
    ],
)  # fmt: skip
def test_what_is_no_tree_is_an_error(changed: dict[str, Any], reason: str) -> None:
    values = one_branch(**changed)
    with pytest.raises(OnnxError, match=reason):
        opened(file_of([ml("TreeEnsembleRegressor", "x", "y", **{"n_targets": 1, **values})]))


def refused() -> Iterator[tuple[str, list[onnx.NodeProto]]]:
    rng = np.random.default_rng(0)
    row = {"coefficients": COEFFICIENTS[:3], "intercepts": [0.5]}
    yield (
        "two classes, where ONNX Runtime's label is",
        [ml("LinearClassifier", "x", "l y", classlabels_ints=[0, 1], **row)],
    )
    yield (
        "only approximates",
        [ml("LinearRegressor", "x", "y", coefficients=COEFFICIENTS, targets=3, post_transform="PROBIT")],
    )
    yield "of one score, which ONNX", [ml("LinearRegressor", "x", "y", post_transform="LOGISTIC", **row)]
    trees = forest(rng, 3, "class", [0])
    for transform in ("SOFTMAX", "SOFTMAX_ZERO"):
        tree = ml("TreeEnsembleClassifier", "x", "l y", classlabels_int64s=[0, 1], post_transform=transform, **trees)
        yield "of one score, which ONNX", [tree]
    two = forest(rng, 3, "class", [0, 1])
    yield (
        "a base value or sparse leaves",
        [ml("TreeEnsembleClassifier", "x", "l y", classlabels_int64s=[0, 1], base_values=[0.5], **two)],
    )
    sparse = trees | {"class_ids": [1, *trees["class_ids"][1:]]}
    yield (
        "a base value or sparse leaves",
        [ml("TreeEnsembleClassifier", "x", "l y", classlabels_int64s=[0, 1], **sparse)],
    )
    yield "1 classes with 0 base values", [ml("TreeEnsembleClassifier", "x", "l y", classlabels_int64s=[0], **trees)]
    some = forest(rng, 3, "target", [0])
    yield (
        "which ONNX Runtime leaves out",
        [ml("TreeEnsembleRegressor", "x", "y", n_targets=2, base_values=[0.5, 1.0], **some)],
    )
    yield (
        "its labels are read",
        [
            ml("TreeEnsembleClassifier", "x", "l z", classlabels_int64s=[0, 1], **trees),
            node("Cast", "l", "y", to=1),
        ],
    )
    yield "an input of 3 axes", [node("Unsqueeze", "x a", "z"), ml("Normalizer", "z", "y")]
    yield "no converter", [ml("SVMRegressor", "x", "y")]


@pytest.mark.parametrize(("reason", "nodes"), list(refused()))
def test_what_onnx_and_its_runtime_compute_differently_is_refused(reason: str, nodes: list[onnx.NodeProto]) -> None:
    version = 5 if nodes[0].op_type == "TreeEnsemble" else 3
    (row,) = support(opened(file_of(nodes, {"a": np.array([1])}, version=version))).unsupported
    assert any(reason in text for text in row.reasons), row.reasons
