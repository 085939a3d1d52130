"""Tree ensembles of `ai.onnx.ml` as arrays, in which a step down all trees is one look-up per sample and tree.

A branch compares a feature with its threshold, which has four outcomes: less, equal, greater, and not a number. Each
has its next node, so that one array replaces ONNX's comparisons (`BRANCH_LEQ`, ...) and its rule for missing values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Ints: TypeAlias = "NDArray[np.int64]"
Floats: TypeAlias = "NDArray[np.float32]"

# Whether the outcomes less, equal, greater and NaN lead to the true branch; the order is that of TreeEnsemble's modes.
_TRUE: Final = {
    "BRANCH_LEQ": (1, 1, 0, 0), "BRANCH_LT": (1, 0, 0, 0), "BRANCH_GTE": (0, 1, 1, 0), "BRANCH_GT": (0, 0, 1, 0),
    "BRANCH_EQ": (0, 1, 0, 0), "BRANCH_NEQ": (1, 0, 1, 1),
}  # fmt: skip
_MODES: Final = (*_TRUE, "LEAF")
_LEAF, _EQ, _NEQ = (_MODES.index(name) for name in ("LEAF", "BRANCH_EQ", "BRANCH_NEQ"))
_MEMBER: Final = 6  # of TreeEnsemble, whose leaves have arrays of their own
_MOST: Final = 1 << 28  # weights of all leaves for all targets
_AGGREGATES: Final = ("AVERAGE", "SUM", "MIN", "MAX")


@dataclass(frozen=True)
class Forest:
    """Trees whose nodes are numbered together: M nodes, of which the last L are leaves.

    features    int64 [M]       the feature that a branch compares
    thresholds  float32 [M]
    following   int64 [M, 4]    the next node where the feature is less, equal, greater, NaN; of a leaf, itself
    roots       int64 [T]
    leaves      float32 [L, K]  the weight of each target; where a leaf has none, 0, or for an extreme an infinity
    given       bool [L, K]     whether a leaf has a weight
    trees       int64 [L]       the tree of each leaf, from 0
    depth       steps from a root to the farthest leaf
    aggregate   AVERAGE, SUM, MIN or MAX of the trees
    """

    features: Ints
    thresholds: Floats
    following: Ints
    roots: Ints
    leaves: Floats
    given: NDArray[np.bool_]
    trees: Ints
    depth: int
    aggregate: str

    @property
    def always(self) -> NDArray[np.bool_]:
        """Return for each target whether some tree has a weight for it at all of its leaves, bool [K]."""
        lacking = np.zeros((len(self.roots), self.given.shape[1]), bool)
        np.logical_or.at(lacking, self.trees, ~self.given)
        found: NDArray[np.bool_] = np.logical_not(lacking.all(0))
        return found

    @property
    def least(self) -> float:
        """Return a lower bound of the result, over all samples and targets."""
        low = np.full((len(self.roots), self.leaves.shape[1]), np.inf)
        np.minimum.at(low, self.trees, self.leaves)
        return float((low.sum(0) if self.aggregate == "SUM" else np.minimum(low.min(0), 0)).min())


@dataclass
class _Nodes:
    """The nodes of all trees in any order; `yes` and `no` are the next nodes, of a leaf itself."""

    modes: Ints
    features: Ints
    thresholds: Floats
    yes: Ints
    no: Ints
    tracks: NDArray[np.bool_]


_Entries: TypeAlias = "tuple[Ints, Ints, Floats]"  # node, target, weight


def read_forest(values: Mapping[str, Any], ids: str, targets: int) -> Forest:
    """Return the trees of a TreeEnsembleClassifier or TreeEnsembleRegressor.

    values   the node's attributes
    ids      "class" or "target", which begins the names of the leaves' attributes
    targets  how many classes or targets there are
    Raises: ValueError where the attributes do not describe trees; LookupError where one is missing.
    """
    tree, number = _ints(values["nodes_treeids"]), _ints(values["nodes_nodeids"])
    count, span = len(tree), int(number.max()) + 1
    keys = tree * span + number
    order = np.argsort(keys, kind="stable")
    if (np.diff(keys[order]) == 0).any():
        raise ValueError("two nodes of a tree have one number")

    def places(trees: Ints, numbers: Ints) -> Ints:
        wanted = trees * span + numbers
        found: Ints = order[np.minimum(np.searchsorted(keys, wanted, sorter=order), count - 1)]
        if (keys[found] != wanted).any() or (numbers >= span).any():
            raise ValueError("a node that does not exist is named")
        return found

    modes = _ints([_mode(mode) for mode in values["nodes_modes"]])
    inner = modes != _LEAF
    yes, no = np.arange(count), np.arange(count)
    for way, name in ((yes, "nodes_truenodeids"), (no, "nodes_falsenodeids")):
        way[inner] = places(tree[inner], _ints(values[name])[inner])
    roots = np.setdiff1d(np.arange(count), np.concatenate([yes[inner], no[inner]]))
    if not np.array_equal(tree[roots][np.argsort(tree[roots])], np.unique(tree)):
        raise ValueError("each tree has one root")
    tracks = values.get("nodes_missing_value_tracks_true") or [0] * count
    nodes = _Nodes(
        modes, _ints(values["nodes_featureids"]), _floats(values["nodes_values"]), yes, no, _ints(tracks) > 0
    )
    at = places(_ints(values[f"{ids}_treeids"]), _ints(values[f"{ids}_nodeids"]))
    entries = at, _ints(values[f"{ids}_ids"]), _floats(values[f"{ids}_weights"])
    return _forest(nodes, roots, entries, targets, str(values.get("aggregate_function", "SUM")))


def read_ensemble(values: Mapping[str, Any]) -> Forest:
    """Return the trees of a TreeEnsemble (`ai.onnx.ml` 5). Raises: ValueError, LookupError as `read_forest`."""
    inner, leaves = _ints(values["nodes_modes"]), _floats(values["leaf_weights"])
    count = len(inner)
    features, thresholds = _ints(values["nodes_featureids"]), _floats(values["nodes_splits"])
    tracks = _ints(values.get("nodes_missing_value_tracks_true") or [0] * count)
    yes, no = (_ints(values[f"nodes_{way}nodeids"]) + count * (_ints(values[f"nodes_{way}leafs"]) > 0)
               for way in ("true", "false"))  # fmt: skip
    own = np.arange(count, count + len(leaves))
    filler = np.zeros(len(leaves), np.int64)
    nodes = _Nodes(
        np.concatenate([inner, filler + _LEAF]),
        np.concatenate([features, filler]),
        np.concatenate([thresholds, filler]).astype(np.float32),
        np.concatenate([yes, own]),
        np.concatenate([no, own]),
        np.concatenate([tracks, filler]) > 0,
    )
    if (inner == _MEMBER).any():
        nodes = _without_sets(nodes, np.flatnonzero(inner == _MEMBER), _floats(values["membership_values"]))
    entries = own, _ints(values["leaf_targetids"]), leaves
    aggregate = _AGGREGATES[values.get("aggregate_function", 1)]
    return _forest(nodes, _ints(values["tree_roots"]), entries, int(values["n_targets"]), aggregate)


def _without_sets(nodes: _Nodes, where: Ints, members: Floats) -> _Nodes:
    """Return the nodes with each test of membership in a set as a chain of tests for equality.

    members  the sets, in the order of the nodes, each ended by NaN
    """
    sets = np.split(members, np.flatnonzero(np.isnan(members)) + 1)
    modes, features, thresholds, yes, no, tracks = columns = [
        array.tolist() for array in (nodes.modes, nodes.features, nodes.thresholds, nodes.yes, nodes.no, nodes.tracks)
    ]
    for first, group in zip(where.tolist(), sets, strict=False):
        node, last = first, no[first]
        values = group[~np.isnan(group)].tolist()
        if not values:
            raise ValueError("a set without members")
        modes[first], thresholds[first] = _EQ, values[0]
        for value in values[1:]:
            no[node], node = len(modes), len(modes)  # where the test before fails, the next member is tested
            row = (_EQ, features[first], value, yes[first], last, tracks[first])
            for column, item in zip(columns, row, strict=True):
                column.append(item)
    return _Nodes(_ints(modes), _ints(features), _floats(thresholds), _ints(yes), _ints(no), np.asarray(tracks, bool))


def _forest(nodes: _Nodes, roots: Ints, entries: _Entries, targets: int, aggregate: str) -> Forest:
    """Return the trees with the leaves last. Raises: ValueError for cycles, and numbers out of range."""
    leaf = nodes.modes == _LEAF
    trees, depth = _descend(nodes, roots, leaf)
    outcomes = np.asarray([*_TRUE.values(), (0, 0, 0, 0)], bool)[nodes.modes]
    outcomes[:, 3] |= nodes.tracks
    outcomes[np.isnan(nodes.thresholds), :3] = (nodes.modes == _NEQ)[np.isnan(nodes.thresholds), None]
    following = np.where(outcomes, nodes.yes[:, None], nodes.no[:, None])
    order = np.argsort(leaf, kind="stable")
    renumbered = np.argsort(order, kind="stable")
    first = len(leaf) - int(leaf.sum())
    leaves, given = _leaf_weights(leaf, renumbered - first, entries, targets, aggregate)
    return Forest(
        nodes.features[order], nodes.thresholds[order], renumbered[following[order]], renumbered[roots],
        leaves, given, trees[order][first:], depth, aggregate,
    )  # fmt: skip


def _descend(nodes: _Nodes, roots: Ints, leaf: NDArray[np.bool_]) -> tuple[Ints, int]:
    """Return the tree of each node and the depth. Raises: ValueError for a cycle, and for nodes that no tree has."""
    trees, depth = np.full(len(leaf), -1), 0
    trees[roots] = np.arange(len(roots))
    level = roots[~leaf[roots]]
    while len(level):
        depth += 1
        if depth > len(leaf):
            raise ValueError("a branch leads back to itself")
        following = np.concatenate([nodes.yes[level], nodes.no[level]])
        trees[following] = np.concatenate([trees[level], trees[level]])
        level = np.unique(following)
        level = level[~leaf[level]]
    if (trees < 0).any():
        raise ValueError("no branch leads to a node")
    return trees, depth


def _leaf_weights(
    leaf: NDArray[np.bool_], rows: Ints, entries: _Entries, targets: int, aggregate: str
) -> tuple[Floats, NDArray[np.bool_]]:
    """Return the weight per leaf and target, and whether it is given; weights of branches do not count."""
    at, target, weight = entries
    kept = leaf[at]
    at, target, weight = rows[at[kept]], target[kept], weight[kept]
    if targets * int(leaf.sum()) > _MOST:
        raise ValueError(f"{targets} targets for {int(leaf.sum())} leaves")
    if len(target) and not 0 <= target.min() <= target.max() < targets:
        raise ValueError(f"there are {targets} targets, and a leaf has a weight for another")
    leaves, given = np.zeros((int(leaf.sum()), targets), np.float32), np.zeros((int(leaf.sum()), targets), bool)
    given[at, target] = True
    if aggregate in ("SUM", "AVERAGE"):
        np.add.at(leaves, (at, target), weight)
        return leaves, given
    worst = np.float32(np.inf if aggregate == "MIN" else -np.inf)
    leaves[:] = worst  # a leaf without a weight changes no extreme
    (np.minimum if aggregate == "MIN" else np.maximum).at(leaves, (at, target), weight)
    return leaves, given


def _mode(name: str) -> int:
    if name not in _MODES:
        raise ValueError(f"there is no comparison '{name}'")
    return _MODES.index(name)


def _ints(values: Sequence[int] | NDArray[Any] | Any) -> Ints:
    return np.asarray(_array(values), np.int64)


def _floats(values: Sequence[float] | NDArray[Any] | Any) -> Floats:
    return np.asarray(_array(values), np.float32)


def _array(values: Any) -> Any:
    from onnx import TensorProto, numpy_helper

    return numpy_helper.to_array(values) if isinstance(values, TensorProto) else values
