from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import fusion
import prototxt
from fusion import FusionError
from fusion.surgery import fuse_horizontally

Weights = dict[str, list[Any]]
DATA = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 4 dim: 12 dim: 12 } } }\n'
LENET = """
layer { name: "conv1" type: "Convolution" bottom: "DATA" top: "conv1"
  convolution_param { num_output: 6 kernel_size: 3 } }
layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1" pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "conv2" type: "Convolution" bottom: "pool1" top: "conv2"
  convolution_param { num_output: 8 kernel_size: 3 group: 2 } }
layer { name: "relu2" type: "ReLU" bottom: "conv2" top: "conv2" }
layer { name: "ip1" type: "InnerProduct" bottom: "conv2" top: "ip1" inner_product_param { num_output: 10 } }
layer { name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2" inner_product_param { num_output: 5 } }
"""
RESNET = """
layer { name: "conv1" type: "Convolution" bottom: "DATA" top: "conv1"
  convolution_param { num_output: 6 kernel_size: 3 pad: 1 bias_term: false } }
layer { name: "bn1" type: "BatchNorm" bottom: "conv1" top: "conv1" batch_norm_param { use_global_stats: true } }
layer { name: "scale1" type: "Scale" bottom: "conv1" top: "conv1" scale_param { bias_term: true } }
layer { name: "prelu1" type: "PReLU" bottom: "conv1" top: "act1" }
layer { name: "up" type: "Deconvolution" bottom: "act1" top: "up"
  convolution_param { num_output: 6 kernel_size: 3 pad: 1 } }
layer { name: "add" type: "Eltwise" bottom: "up" bottom: "conv1" top: "add" }
layer { name: "norm" type: "LRN" bottom: "add" top: "norm" }
layer { name: "conv3" type: "Convolution" bottom: "norm" top: "conv3"
  convolution_param { num_output: 3 kernel_size: 1 } }
layer { name: "both" type: "Concat" bottom: "conv3" bottom: "norm" top: "both" }
layer { name: "pool" type: "Pooling" bottom: "both" top: "pool"
  pooling_param { pool: AVE global_pooling: true } }
layer { name: "ip1" type: "InnerProduct" bottom: "pool" top: "ip1" inner_product_param { num_output: 10 } }
layer { name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2" inner_product_param { num_output: 5 } }
"""
CONCAT = 'layer { name: "concat" type: "Concat" BOTTOMS top: "all" }\n'
SCORES = """
layer { name: "scores" type: "InnerProduct" bottom: "all" top: "scores" inner_product_param { num_output: 7 } }
"""
# Blobs that are read before and after they change in place, or in one branch only; and by layers that stay separate.
STALE = """
layer { name: "conv1" type: "Convolution" bottom: "DATA" top: "c" convolution_param { num_output: 6 kernel_size: 3 } }
layer { name: "norm" type: "LRN" bottom: "c" top: "n" }
layer { name: "relu1" type: "ReLU" bottom: "c" top: "c" }
layer { name: "tanh" type: "TanH" bottom: "n" top: "n" }
layer { name: "norm2" type: "LRN" bottom: "c" top: "m" }
layer { name: "add" type: "Eltwise" bottom: "c" bottom: "n" bottom: "m" top: "s" }
layer { name: "relu2" type: "ReLU" bottom: "s" top: "s" relu_param { negative_slope: OWN } }
layer { name: "conv2" type: "Convolution" bottom: "s" top: "c2" convolution_param { num_output: 4 kernel_size: 3 } }
layer { name: "ip1" type: "InnerProduct" bottom: "c2" top: "ip1" inner_product_param { num_output: 5 } }
"""


def fused(
    branch: str, prefixes: tuple[str, ...], inputs: bool = False, join: str = CONCAT, ends: str = "ip1"
) -> prototxt.Document:
    text = "".join(DATA.replace('"data"', f'"{p}/data"') for p in prefixes) if inputs else DATA
    for prefix in prefixes:
        slope = f"0.{len(text)}"  # another one in each branch
        source = DATA + branch.replace("DATA", "data").replace("OWN", slope)
        own = prototxt.rename(prototxt.parse(source), prefix, freeze=False)
        body = str(own).partition("\n")[2]
        text += body.replace('bottom: "data"', f'bottom: "{prefix}/data"') if inputs else body
    return prototxt.parse(text + join.replace("BOTTOMS", " ".join(f'bottom: "{p}/{ends}"' for p in prefixes)) + SCORES)


def random_weights(document: prototxt.Document) -> Weights:
    net, random = prototxt.load_net(document), np.random.default_rng(0)
    params = prototxt.infer(net).params
    found = {
        layer.name: [random.normal(0, 0.4, [int(dim or 0) for dim in shape]).astype(np.float32) for shape in shapes]
        for layer, shapes in zip(net.layer, params, strict=True)
        if shapes
    }
    for number, (name, blobs) in enumerate(found.items()):
        if "bn" in name:  # positive variances, and factors that differ
            found[name] = [blobs[0], np.abs(blobs[1]) + 0.5, np.array([1.0 + number], np.float32)]
    return found


def outputs(document: prototxt.Document, weights: Weights) -> dict[str, torch.Tensor]:
    net = prototxt.load_net(document)
    built = fusion.build(net)
    fusion.load_weights(built, weights)
    random = torch.Generator().manual_seed(0)
    inputs = {layer.top[0]: torch.randn(2, 4, 12, 12, generator=random) for layer in net.layer if layer.type == "Input"}
    with torch.no_grad():
        found: dict[str, torch.Tensor] = built(inputs)
    return found


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("inputs", [False, True], ids=["one input", "an input each"])
@pytest.mark.parametrize("branch", [LENET, RESNET], ids=["lenet", "resnet"])
@pytest.mark.parametrize("prefixes", [("odd", "even"), ("a", "b", "c")], ids=["two", "three"])
def test_grouped_branches_give_the_same_scores(
    branch: str, prefixes: tuple[str, ...], inputs: bool, dense: bool
) -> None:
    check_same_scores(fused(branch, prefixes, inputs), prefixes, dense)


def check_same_scores(document: prototxt.Document, prefixes: tuple[str, ...], dense: bool) -> None:
    weights = random_weights(document)
    outcome = fuse_horizontally(document, weights, prefixes, dense=dense)
    assert outcome.document is not None
    before, after = outputs(document, weights), outputs(outcome.document, outcome.weights)
    assert set(before) == set(after)
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=1e-5, atol=1e-5 * max(1.0, float(value.abs().max())))


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize(
    ("join", "ends"),
    [
        (CONCAT, "ip1"),
        (CONCAT.replace("Concat", "Eltwise"), "ip1"),
        (CONCAT.replace("BOTTOMS", 'bottom: "b/ip1" bottom: "a/ip1"'), "ip1"),
        (CONCAT.replace("BOTTOMS", 'BOTTOMS bottom: "a/ip1"'), "ip1"),
        (CONCAT, "conv2"),
        (CONCAT.replace('"all" }', '"all" concat_param { axis: 2 } }'), "conv2"),
    ],
)
@pytest.mark.parametrize("branch", [LENET, STALE], ids=["lenet", "stale"])
def test_heads_of_other_kinds(branch: str, join: str, ends: str, dense: bool) -> None:
    if ends == "conv2" and branch == STALE:
        ends = "c2"
    check_same_scores(fused(branch, ("a", "b"), join=join, ends=ends), ("a", "b"), dense)


def test_names_of_joined_layers_and_blobs() -> None:
    document = fused(RESNET, ("p/a", "b"))
    found = prototxt.load_net(fuse_horizontally(document, random_weights(document), ("p/a", "b")).document)
    tops = {layer.name: list(layer.top) for layer in found.layer}
    assert tops["p/a+b/conv1"] == ["p/a+b/conv1"]
    assert tops["p/a+b/prelu1"] == ["p/a+b/act1"]
    assert tops["p/a+b/norm_joined"] == ["p/a+b/norm_joined"]
    plain = prototxt.parse(str(document).replace('"p/a/act1"', '"first"').replace('"b/act1"', '"second"'))
    found = prototxt.load_net(fuse_horizontally(plain, random_weights(document), ("p/a", "b")).document)
    assert {layer.name: list(layer.top) for layer in found.layer}["p/a+b/prelu1"] == ["p/a+b/first"]


SIZES = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 4 dim: 5 dim: 5 } } }\n'
FIRST = """
layer { name: "P/c" type: "Convolution" bottom: "x" top: "P/c" convolution_param { num_output: 4 kernel_size: 1 } }
layer { name: "P/d" type: "Convolution" bottom: "x" top: "P/d" convolution_param { num_output: 4 kernel_size: 1 } }
"""


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        ('type: "Eltwise" bottom: "x" bottom: "P/c"', "only some of the branches read a common blob"),
        ('type: "Eltwise" bottom: "P/c" bottom: "ONE/d"', "only some of the branches read a common blob"),
        ('type: "Eltwise" bottom: "P/c" bottom: "P/odd"', "the branches' shapes differ or are not known"),
        ('type: "TanH" bottom: "P/odd"', "the branches' shapes differ or are not known"),
        ('type: "Concat" bottom: "P/c" bottom: "P/wide"', "the branches' shapes differ or are not known"),
        ('type: "TanH" bottom: "x"', "one TanH layer cannot replace several with these settings"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_why_layers_stay_apart(layer: str, reason: str) -> None:
    text = SIZES
    for prefix, one, width in (("a", "a", 3), ("b", "a", 3), ("e", "e", 2)):
        more = (
            f'layer {{ name: "{prefix}/odd" type: "Strange" bottom: "P/c" top: "P/odd" }}\n' if "odd" in layer else ""
        )
        more += (
            'layer { name: "P/wide" type: "Convolution" bottom: "x" top: "P/wide" '
            f"convolution_param {{ num_output: {width} kernel_size: 1 }} }}\n"
        )
        own = f'layer {{ name: "P/t" {layer} top: "P/t" }}\n'.replace("ONE", one)
        text += (FIRST + more + own).replace("P/", f"{prefix}/")
    names = [f"{prefix}/{name}" for prefix in "abe" for name in ("c", "d", "wide")]
    widths = {"e/wide": 2, "a/wide": 3, "b/wide": 3}
    weights = {name: [np.ones((widths.get(name, 4), 4, 1, 1)), np.ones(widths.get(name, 4))] for name in names}
    outcome = fuse_horizontally(prototxt.parse(text), weights, ("a", "b", "e"))
    assert outcome.mismatched["a/t, b/t, e/t"] == reason
    assert outcome.changed["a+b+e/c"] == "3 Convolution layers"


def test_layers_without_tops_stay_apart() -> None:
    text = SIZES + "".join(
        (FIRST + 'layer { name: "P/s" type: "Silence" bottom: "P/d" }\n').replace("P/", f"{prefix}/") for prefix in "ab"
    )
    weights = {f"{p}/{n}": [np.ones((4, 4, 1, 1)), np.ones(4)] for p in "ab" for n in "cd"}
    outcome = fuse_horizontally(prototxt.parse(text), weights, ("a", "b"))
    assert outcome.mismatched["a/s, b/s"] == "one Silence layer cannot replace several with these settings"


def test_what_is_fused_and_what_is_left() -> None:
    document = fused(RESNET, ("a", "b"))
    outcome = fuse_horizontally(document, random_weights(document), ("a", "b"))
    assert outcome.changed["a+b/conv1"] == "2 Convolution layers"
    assert "a+b/add" in outcome.changed
    assert "cannot replace several" in outcome.mismatched["a/norm, b/norm"]
    layers = {layer.name: layer for layer in prototxt.load_net(outcome.document).layer}
    assert (layers["a+b/conv1"].convolution_param.num_output, layers["a+b/conv1"].convolution_param.group) == (12, 1)
    assert (layers["a+b/conv3"].convolution_param.num_output, layers["a+b/conv3"].convolution_param.group) == (6, 2)


def test_dense_layers_become_convolutions_only_on_request() -> None:
    document = fused(LENET, ("a", "b"))
    weights = random_weights(document)
    plain = fuse_horizontally(document, weights, ("a", "b"))
    assert "dense layers with separate bottoms stay separate without --dense" in plain.mismatched["a/ip1, b/ip1"]
    assert "a/ip1" in plain.kept
    grouped = fuse_horizontally(document, weights, ("a", "b"), dense=True)
    assert grouped.changed["a+b/ip1"] == "2 InnerProduct layers, as grouped convolution"
    assert "a/ip1" in grouped.dropped
    assert "# Branches a, b side by side, as groups.\n" in str(grouped.document)


def test_layers_with_other_settings_stay_apart() -> None:
    text = str(fused(LENET, ("a", "b"))).replace("num_output: 8", "num_output: 4", 1)
    document = prototxt.parse(text)
    weights = random_weights(document)
    outcome = fuse_horizontally(document, weights, ("a", "b"))
    assert "a/conv2" in outcome.weights
    torch.testing.assert_close(
        outputs(outcome.document, outcome.weights)["scores"], outputs(document, weights)["scores"], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    ("prefixes", "says"),
    [
        (("a",), "nothing to fuse side by side"),
        (("a", "z"), "no layer's name begins with 'z/'"),
        (("a", "a"), "nothing"),
    ],
)
def test_branches_that_cannot_be_fused(prefixes: tuple[str, ...], says: str) -> None:
    document = fused(LENET, ("a", "b"))
    with pytest.raises(FusionError, match=says):
        fuse_horizontally(document, random_weights(document), prefixes)


def test_branches_in_a_row_are_refused() -> None:
    text = DATA + "".join(
        f'layer {{ name: "{p}/{n}" type: "ReLU" bottom: "{b}" top: "{t}" }}\n'
        for p, n, b, t in (("a", "x", "data", "1"), ("b", "y", "1", "2"), ("b", "x", "2", "3"), ("a", "y", "3", "4"))
    )
    with pytest.raises(FusionError, match="depend on each other"):
        fuse_horizontally(prototxt.parse(text), {}, ("a", "b"))
