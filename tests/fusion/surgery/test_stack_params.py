"""Layers of several branches as one: which are exact, and when the branches are alike."""

# ruff: noqa: E501 - texts of layers

from __future__ import annotations

import numpy as np
import pytest

from fusion.errors import FusionError
from fusion.surgery import fuse_horizontally
from fusion.surgery.matching_layers import group_layers
from fusion.surgery.stack_params import stack
from prototxt.schema.load import load_net
from prototxt.schema.messages import LayerParameter
from prototxt.text.parser import parse


def layer(kind: str, settings: str = "", bottoms: str = 'bottom: "x"', tops: str = 'top: "y"') -> LayerParameter:
    return load_net(parse(f'layer {{ name: "n" type: "{kind}" {bottoms} {tops} {settings} }}')).layer[0]


TWO = 'bottom: "x" bottom: "z"'


@pytest.mark.parametrize(
    ("kind", "settings", "bottoms", "exact"),
    [
        ("ReLU", "", "", True),
        ("Flatten", "", "", True),
        ("Flatten", "flatten_param { axis: 2 }", "", False),
        ("Flatten", "flatten_param { axis: 0 }", "", False),
        ("Eltwise", "", TWO, True),
        ("Eltwise", "eltwise_param { coeff: 1 coeff: 2 }", TWO, True),
        ("Eltwise", "eltwise_param { coeff: 2 }", "", False),
        ("Pooling", "pooling_param { kernel_size: 2 }", "", True),
        ("Pooling", "pooling_param { kernel_size: 2 pool: STOCHASTIC }", "", False),
        ("ReLU", "", TWO, False),
        ("LRN", "", "", False),
        ("LRN", "lrn_param { norm_region: WITHIN_CHANNEL }", "", True),
        ("Softmax", "", "", False),
        ("ReLU", 'param { name: "w" }', "", False),
    ],
)
def test_layers_without_weights(kind: str, settings: str, bottoms: str, exact: bool) -> None:
    one = layer(kind, settings, bottoms or 'bottom: "x"')
    found = stack(one, [[], []], shared=False)
    assert (found is not None) == exact
    assert stack(one, [[], []], shared=True) is None, "one blob for all branches needs the layer once only"
    if found:
        assert found == (one, [])
        assert (
            stack(layer(kind, settings, bottoms or 'bottom: "x"', 'top: "y" top: "z"'), [[], []], shared=False) is None
        )


A, B = np.arange(6, dtype=np.float32).reshape(2, 3), np.arange(6, 12, dtype=np.float32).reshape(2, 3)
BIAS = [np.ones(2, np.float32), np.full(2, 2, np.float32)]


@pytest.mark.parametrize("transpose", [False, True])
def test_dense_layers_on_one_blob(transpose: bool) -> None:
    one = layer("InnerProduct", f"inner_product_param {{ num_output: 2 transpose: {str(transpose).lower()} }}")
    blobs = [[A.T if transpose else A, BIAS[0]], [B.T if transpose else B, BIAS[1]]]
    found = stack(one, blobs, shared=True)
    assert found is not None
    joined, weights = found
    assert (joined.inner_product_param.num_output, joined.inner_product_param.transpose) == (4, False)
    np.testing.assert_array_equal(weights[0], np.concatenate([A, B]))
    np.testing.assert_array_equal(weights[1], [1, 1, 2, 2])
    assert stack(one, blobs, shared=False) is None
    other = layer("InnerProduct", "inner_product_param { num_output: 2 axis: 2 }")
    assert stack(other, blobs, shared=True) is None


@pytest.mark.parametrize(("shared", "group", "exact"), [(False, 1, 2), (True, 1, 1), (False, 2, 4), (True, 2, 0)])
def test_convolutions(shared: bool, group: int, exact: int) -> None:
    one = layer("Convolution", f"convolution_param {{ num_output: 4 kernel_size: 1 group: {group} }}")
    kernels = [np.full((4, 2, 1, 1), value, np.float32) for value in (1, 2)]
    found = stack(one, [[kernels[0]], [kernels[1]]], shared=shared)
    assert (found[0].convolution_param.group if found else 0) == exact
    if found:
        assert found[0].convolution_param.num_output == 8
        np.testing.assert_array_equal(found[1][0], np.concatenate(kernels))
        assert one.convolution_param.num_output == 4, "the branch's own layer stays"
    turned = layer("Deconvolution", "convolution_param { num_output: 4 kernel_size: 1 }")
    assert (stack(turned, [[kernels[0]], [kernels[1]]], shared=True) is None) is True


@pytest.mark.parametrize(
    ("kind", "settings", "exact"),
    [
        ("Scale", "", True), ("Scale", "scale_param { axis: 2 }", False), ("Scale", "scale_param { num_axes: 2 }", False),
        ("Bias", "", True), ("Bias", "bias_param { num_axes: -1 }", False),
        ("PReLU", "", True), ("PReLU", "prelu_param { channel_shared: true }", False),
    ],
)  # fmt: skip
def test_layers_with_a_number_per_channel(kind: str, settings: str, exact: bool) -> None:
    found = stack(layer(kind, settings), [[BIAS[0]], [BIAS[1]]], shared=False)
    assert (found is not None) == exact
    if found:
        np.testing.assert_array_equal(found[1][0], [1, 1, 2, 2])
    assert stack(layer(kind, settings), [[BIAS[0]], [BIAS[1]]], shared=True) is None
    assert stack(layer(kind, settings), [[], []], shared=False) is None


def test_statistics_are_divided_by_their_factors() -> None:
    blobs = [[np.array([2.0, 4.0]), np.array([6.0, 8.0]), np.array([factor])] for factor in (2.0, 4.0)]
    found = stack(layer("BatchNorm"), blobs, shared=False)
    assert found is not None
    assert [blob.tolist() for blob in found[1]] == [[1, 2, 0.5, 1], [3, 4, 1.5, 2], [1]]
    blobs[1][2][:] = 0
    assert stack(layer("BatchNorm"), blobs, shared=False) is None
    assert stack(layer("BatchNorm"), blobs, shared=True) is None


def branch(prefix: str, settings: str = "num_output: 2 kernel_size: 1", size: int = 4, copies: int = 1) -> str:
    text = f'layer {{ name: "{prefix}/x" type: "Input" top: "{prefix}/x" input_param {{ shape {{ dim: 1 dim: 3 dim: {size} dim: 4 }} }} }}\n'
    for number in range(copies):
        text += f'layer {{ name: "{prefix}/c" type: "Convolution" bottom: "{prefix}/x" top: "{prefix}/c{number}" convolution_param {{ {settings} }} }}\n'
    return text + f'layer {{ name: "{prefix}/r" type: "TanH" bottom: "{prefix}/c0" top: "{prefix}/r" }}\n'


def weights(*names: str) -> dict[str, list[np.ndarray]]:
    return {name: [np.ones((2, 3, 1, 1), np.float32), np.ones(2, np.float32)] for name in names}


def test_branches_of_other_sizes_stay_apart() -> None:
    text = branch("a") + branch("b", size=5)
    found = fuse_horizontally(parse(text), weights("a/c", "b/c"), ("a", "b"))
    assert found.mismatched["a/c, b/c"] == "the branches' shapes differ or are not known"
    assert set(found.kept) == {"a/c", "b/c"}


def test_branches_with_weights_of_other_shapes_stay_apart() -> None:
    given = weights("a/c", "b/c")
    given["b/c"] = given["b/c"][:1]
    found = fuse_horizontally(parse(branch("a") + branch("b")), given, ("a", "b"))
    assert found.mismatched["a/c, b/c"] == "the branches' weights have different shapes"


@pytest.mark.parametrize(
    ("second", "grouped"),
    [
        (branch("b"), [("a/c", "b/c"), ("a/r", "b/r")]),
        (branch("b", "num_output: 3 kernel_size: 1"), [("a/r", "b/r")]),
        (branch("b", copies=2), [("a/r", "b/r")]),
        (branch("b").replace("TanH", "ReLU"), [("a/c", "b/c")]),
    ],
)
def test_only_layers_that_occur_once_and_are_alike_are_grouped(second: str, grouped: list[tuple[str, ...]]) -> None:
    layers = load_net(parse(branch("a") + second)).layer
    groups = group_layers(layers, ("a", "b"))
    found = [tuple(layers[index].name for index in group.members) for group in groups if len(group.members) > 1]
    assert found == grouped
    assert sorted(index for group in groups for index in group.members) == list(range(len(layers)))


def test_prefixes_without_layers_and_branches_without_likeness() -> None:
    layers = load_net(parse(branch("a") + branch("b", "num_output: 3 kernel_size: 1").replace("TanH", "ReLU"))).layer
    with pytest.raises(FusionError, match="the branches a, b have no layer in common"):
        group_layers(layers, ("a", "b"))
    with pytest.raises(FusionError, match=r"no layer's name begins with 'z/'\n  hint: the prefixes are a, b"):
        group_layers(layers, ("a", "z"))
