"""Models of `ai.onnx.ml`, as scikit-learn's exporters write them, in standard operators and one for trees.

Where ONNX leaves a case open, the values are ONNX Runtime's; where the two differ, the node is refused. The scores
before a softmax or sigmoid within a node are called `NAME:scores`.
Source: the operators of ai.onnx.ml at https://onnx.ai/onnx/operators/.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray

from fusion.onnx.graphs.constants import Facts
from fusion.onnx.graphs.graph import OWN, attributes, make_node
from fusion.onnx.graphs.trees import Forest, read_ensemble, read_forest

ML: Final = "ai.onnx.ml"
SCORES: Final = ":scores"
"""Ends the name of class scores whose softmax, sigmoid or exponential is a value of the file."""
_FLOAT: Final = onnx.TensorProto.FLOAT
_TRANSFORMS: Final = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")
_ZERO: Final = 1e-7  # SOFTMAX_ZERO of ONNX Runtime takes scores up to this for 0
_HALF: Final = np.float32(0.5)
_Compute: TypeAlias = "Callable[[str], str]"
"""Adds nodes that compute scores under the given name, and returns it."""


class UnsupportedError(Exception):
    """A node that cannot be run for certain as its file means it; the text is the reason."""


class _Nodes:
    """The nodes that replace one, whose values have two axes: samples, features or classes."""

    def __init__(self, node: onnx.NodeProto, facts: Facts) -> None:
        self.facts, self.top, self.values = facts, node.output[-1], attributes(node)
        self.inputs, self.nodes = list(node.input), list[onnx.NodeProto]()

    def add(self, op: str, *inputs: str, name: str = "", domain: str = "", **values: Any) -> str:
        """Add a node; return its output, by default a new inner value."""
        name = name or f"{self.top}:{len(self.nodes)}:part"
        self.nodes.append(make_node(op, inputs, [name], domain=domain, **values))
        return name

    def constant(self, name: str, values: Any, dtype: Any = np.float32) -> str:
        """Add a constant; return its name."""
        return self.facts.add(f"{self.top}:{name}", values, dtype)

    def floats(self, index: int = 0) -> str:
        """Return an input in float32, to which ONNX Runtime converts features too."""
        x = self.inputs[index]
        return x if self.facts.probes[0].types.get(x) == _FLOAT else self.add("Cast", x, to=_FLOAT)

    def array(self, name: str) -> NDArray[np.float32]:
        """Return an attribute of numbers, empty if it is absent."""
        return np.asarray(self.values.get(name, ()), np.float32)

    def transformed(self, transform: str, compute: _Compute) -> None:
        """Add the scores and their `post_transform`."""
        if transform == "NONE":
            compute(self.top)
        elif transform == "SOFTMAX":
            self.add("Softmax", compute(self.top + SCORES), name=self.top, axis=1)
            self.facts.softmaxes.add(self.top)
        elif transform == "LOGISTIC":
            self.add("Sigmoid", compute(self.top + SCORES), name=self.top)
        elif transform == "SOFTMAX_ZERO":
            self._softmax_zero(compute(f"{self.top}:raw:part"))
        else:
            raise UnsupportedError(f"post_transform {transform}, which ONNX Runtime only approximates")

    def _softmax_zero(self, scores: str) -> None:
        """Add the softmax over the scores that are not 0."""
        highest = self.add("ReduceMax", scores, axes=[1], keepdims=1)
        powers = self.add("Exp", self.add("Sub", scores, highest))
        present = self.add("Greater", self.add("Abs", scores), self.constant("zero", _ZERO))
        kept = self.add("Where", present, powers, self.constant("none", 0))
        self.add("Div", kept, self.add("ReduceL1", kept, axes=[1], keepdims=1), name=self.top)

    def trees(self, forest: Forest) -> _Compute:
        """Return a function that adds the sum, least or greatest of the trees' weights."""
        arrays = {"features": forest.features, "following": forest.following, "roots": forest.roots}
        size = (self.facts.dims(self.inputs[0]) or (None, None))[1]
        if size is not None and forest.features.max(initial=0) >= size:
            raise ValueError(f"a branch compares feature {forest.features.max()} of {size}")

        def compute(name: str) -> str:
            features, following, roots = (self.constant(key, array, np.int64) for key, array in arrays.items())
            thresholds, leaves = (
                self.constant("thresholds", forest.thresholds),
                self.constant("leaves", forest.leaves),
            )
            inputs = [self.floats(), features, thresholds, following, roots, leaves]
            values = {"depth": forest.depth, "aggregate": forest.aggregate, "least": forest.least}
            values["first"] = len(forest.following) - len(forest.leaves)
            return self.add("TreeEnsemble", *inputs, name=name, domain=OWN, **values)

        return compute


def ml_nodes(node: onnx.NodeProto, facts: Facts) -> list[onnx.NodeProto]:
    """Return the nodes that compute the scores of a node of `ai.onnx.ml`.

    Raises: UnsupportedError; ValueError, LookupError where its attributes contradict each other.
    """
    if node.op_type not in _RULES:
        raise UnsupportedError("no converter")
    if len(node.output) > 1 and facts.uses.get(node.output[0]):
        raise UnsupportedError("its labels are read")
    dims = facts.dims(node.input[0])
    if dims is None or len(dims) != 2:
        raise UnsupportedError("an input of unknown rank" if dims is None else f"an input of {len(dims)} axes")
    nodes = _Nodes(node, facts)
    _RULES[node.op_type](nodes)
    return nodes.nodes


def _labels(nodes: _Nodes) -> int:
    """Return the number of classes, and note labels that are not the numbers of the scores."""
    names = ("classlabels_ints", "classlabels_int64s", "classlabels_strings")
    labels: list[int] | list[str] = next((found for name in names if (found := nodes.values.get(name))), [])
    if labels and labels != list(range(len(labels))):
        shown = ", ".join(map(str, labels[:20])) + (", ..." if len(labels) > 20 else "")
        nodes.facts.notes[f"its scores stand for the labels {shown}, in this order"] = None
    return len(labels)


def _linear_classifier(nodes: _Nodes) -> None:
    classes, bias = _labels(nodes), nodes.array("intercepts")
    transform = nodes.values.get("post_transform", "NONE")
    weight = nodes.array("coefficients").reshape(len(bias) or classes, -1)
    bias = bias if len(bias) else np.zeros(len(weight), np.float32)
    if len(weight) == 1 and classes == 2:
        if transform != "LOGISTIC":
            raise UnsupportedError(
                "one row of weights for two classes, where ONNX Runtime's label is not the larger score"
            )
        weight, bias = np.concatenate([-weight, weight]), np.concatenate([-bias, bias])
    if transform == "LOGISTIC" and len(weight) == 2 and not (weight.sum(0).any() or bias.sum()):
        # sigmoid(-s) and sigmoid(s) are the softmax of -s/2 and s/2.
        weight, bias, transform = weight * _HALF, bias * _HALF, "SOFTMAX"
    nodes.transformed(transform, _dense(nodes, weight, bias))


def _linear_regressor(nodes: _Nodes) -> None:
    targets, transform = nodes.values.get("targets", 1), nodes.values.get("post_transform", "NONE")
    weight = nodes.array("coefficients").reshape(targets, -1)
    bias = nodes.array("intercepts")
    _check_one_target(targets, transform)
    nodes.transformed(transform, _dense(nodes, weight, bias if len(bias) else np.zeros(targets, np.float32)))


def _dense(nodes: _Nodes, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> _Compute:
    inputs = [nodes.floats(), nodes.constant("weight", weight), nodes.constant("bias", bias)]
    return lambda name: nodes.add("Gemm", *inputs, name=name, transB=1)


def _check_one_target(targets: int, transform: str) -> None:
    if targets == 1 and transform != "NONE":
        raise UnsupportedError(f"post_transform {transform} of one score, which ONNX Runtime leaves out")


def _tree_classifier(nodes: _Nodes) -> None:
    classes, base = _labels(nodes), nodes.array("base_values")
    transform = nodes.values.get("post_transform", "NONE")
    if classes < 2 or len(base) not in (0, 1 if classes == 2 else classes):
        raise UnsupportedError(f"{classes} classes with {len(base)} base values")
    forest = read_forest(nodes.values, "class", classes)
    if classes == 2 and forest.given[:, 1].any() and (len(base) or not forest.always[1]):
        raise UnsupportedError("two classes with a base value or sparse leaves, which ONNX Runtime adds in its own way")
    if classes == 2 and not forest.given[:, 1].any():
        forest, transform = _one_score(forest, float(base[0]) if len(base) else 0.0, transform)
    else:
        forest = _with_base(forest, base)
    nodes.transformed(transform, nodes.trees(forest))


def _one_score(forest: Forest, base: float, transform: str) -> tuple[Forest, str]:
    """Return the trees with weights for both classes, where the file has one score s: of the second class.

    The scores are s and -s, or, if no weight is negative, s and 1 - s, which are probabilities.
    """
    score = forest.leaves[:, :1]
    if transform == "LOGISTIC":
        halves = replace(forest, leaves=np.concatenate([-score, score], 1) * _HALF)
        return _with_base(halves, np.asarray([-base, base], np.float32) * _HALF), "SOFTMAX"
    if transform != "NONE":
        raise UnsupportedError(f"post_transform {transform} of one score, which ONNX Runtime leaves out")
    offset = float((score >= 0).all())
    both = replace(forest, leaves=np.concatenate([-score, score], 1))
    return _with_base(both, np.asarray([offset - base, base], np.float32)), "NONE"


def _with_base(forest: Forest, base: NDArray[np.float32]) -> Forest:
    """Return the trees with the base values in their leaves: of one tree for a sum, of all for an extreme."""
    if not len(base):
        return forest
    one = (forest.trees == 0)[:, None] if forest.aggregate == "SUM" else True
    return replace(forest, leaves=np.where(one, forest.leaves + base, forest.leaves))


def _tree_regressor(nodes: _Nodes) -> None:
    targets, base = int(nodes.values.get("n_targets", 1)), nodes.array("base_values")
    forest = read_forest(nodes.values, "target", targets)
    if len(base) not in (0, targets) or (len(base) and not forest.always.all()):
        raise UnsupportedError("base values of targets for which leaves have no weight, which ONNX Runtime leaves out")
    _regressor(nodes, forest, base, str(nodes.values.get("post_transform", "NONE")))


def _tree_ensemble(nodes: _Nodes) -> None:
    transform = _TRANSFORMS[nodes.values.get("post_transform", 0)]
    if transform in ("SOFTMAX", "LOGISTIC"):
        raise UnsupportedError(f"post_transform {transform}, which ONNX and ONNX Runtime number differently")
    _regressor(nodes, read_ensemble(nodes.values), np.zeros(0, np.float32), transform)


def _regressor(nodes: _Nodes, forest: Forest, base: NDArray[np.float32], transform: str) -> None:
    _check_one_target(forest.leaves.shape[1], transform)
    if forest.aggregate == "AVERAGE":
        forest = replace(forest, leaves=forest.leaves / np.float32(len(forest.roots)), aggregate="SUM")
    nodes.transformed(transform, nodes.trees(_with_base(forest, base)))


def _scaler(nodes: _Nodes) -> None:
    offset, scale = nodes.constant("offset", nodes.array("offset")), nodes.constant("scale", nodes.array("scale"))
    nodes.add("Mul", nodes.add("Sub", nodes.floats(), offset), scale, name=nodes.top)


def _normalizer(nodes: _Nodes) -> None:
    """Divide by a norm that is not 0; the sum of a softmax is 1 already."""
    norm = nodes.values.get("norm", "MAX")
    if norm == "L1" and nodes.inputs[0] in nodes.facts.softmaxes:
        nodes.add("Identity", nodes.inputs[0], name=nodes.top)
        return
    op, x = {"MAX": "ReduceMax", "L1": "ReduceL1", "L2": "ReduceL2"}[norm], nodes.floats()
    size = nodes.add(op, x, axes=[1], keepdims=1)
    is_zero = nodes.add("Equal", size, nodes.constant("zero", 0))
    nodes.add("Div", x, nodes.add("Where", is_zero, nodes.constant("one", 1), size), name=nodes.top)


def _imputer(nodes: _Nodes) -> None:
    x, values = nodes.inputs[0], nodes.array("imputed_value_floats")
    if nodes.facts.probes[0].types.get(x) != _FLOAT or not len(values):
        raise UnsupportedError("values that are not floats")
    missing = float(nodes.values.get("replaced_value_float", 0.0))
    where = nodes.add("IsNaN", x) if np.isnan(missing) else nodes.add("Equal", x, nodes.constant("missing", missing))
    nodes.add("Where", where, nodes.constant("values", values), x, name=nodes.top)


def _binarizer(nodes: _Nodes) -> None:
    above = nodes.add("Greater", nodes.floats(), nodes.constant("threshold", nodes.values.get("threshold", 0.0)))
    nodes.add("Cast", above, name=nodes.top, to=_FLOAT)


def _feature_extractor(nodes: _Nodes) -> None:
    index = nodes.facts.constant(nodes.inputs[1])
    if index is None:
        raise UnsupportedError("its indices are computed")
    nodes.add("Gather", nodes.inputs[0], nodes.constant("index", index.reshape(-1), np.int64), name=nodes.top, axis=1)


def _feature_vectorizer(nodes: _Nodes) -> None:
    sizes: Sequence[int] = nodes.values["inputdimensions"]
    if any((nodes.facts.dims(name) or ())[1:] != (size,) for name, size in zip(nodes.inputs, sizes, strict=True)):
        raise UnsupportedError("inputs of other sizes than it states")
    nodes.add("Concat", *(nodes.floats(index) for index in range(len(sizes))), name=nodes.top, axis=1)


def _zip_map(nodes: _Nodes) -> None:
    _labels(nodes)
    nodes.add("Identity", nodes.inputs[0], name=nodes.top)


_RULES: Final[dict[str, Callable[[_Nodes], None]]] = {
    "ArrayFeatureExtractor": _feature_extractor,
    "Binarizer": _binarizer,
    "FeatureVectorizer": _feature_vectorizer,
    "Imputer": _imputer,
    "LinearClassifier": _linear_classifier,
    "LinearRegressor": _linear_regressor,
    "Normalizer": _normalizer,
    "Scaler": _scaler,
    "TreeEnsemble": _tree_ensemble,
    "TreeEnsembleClassifier": _tree_classifier,
    "TreeEnsembleRegressor": _tree_regressor,
    "ZipMap": _zip_map,
}
