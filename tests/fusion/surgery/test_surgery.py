"""Heads replaced, layers reshaped, weights stripped, restored and averaged; what is listed, and what is refused."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

from fusion.errors import BuildError, FusionError, WeightsMismatch
from fusion.nets.build import build, params
from fusion.nets.weights import load_weights
from fusion.surgery import (
    average,
    greedy_soup,
    interpolate,
    parse_filler,
    replace_head,
    restore,
    strip,
    to_convolution,
    to_dense,
)
from fusion.surgery.result import SurgeryResult
from prototxt.schema.load import load_net
from prototxt.text.parser import parse
from prototxt.text.tree import Document

DATA = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 6 dim: 8 } } }\n'
CONV = 'layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" %s convolution_param { num_output: 4 ' \
    'kernel_size: 3 } }\n'  # fmt: skip
BODY = """layer { name: "fc" type: "InnerProduct" bottom: "conv" top: "fc"
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "fc" top: "fc" }
layer { name: "score" type: "InnerProduct" bottom: "fc" top: "score"
  inner_product_param { num_output: 3 weight_filler { type: "gaussian" std: 0.1 } } }
"""
NET = DATA + CONV % "" + BODY
FROZEN = DATA + CONV % "param { lr_mult: 0 } param { lr_mult: 0 }" + BODY
Arrays = dict[str, Any]


def weights_of(text: str, seed: int = 0) -> Arrays:
    random = np.random.default_rng(seed)
    return {
        name: [random.normal(0, 1, tuple(tensor.shape)).astype(np.float32) for tensor in tensors]
        for name, tensors in params(build(parse(text), seed=0)).items()
    }


def output(document: Document, weights: Arrays) -> np.ndarray:
    net = build(document, seed=0)
    load_weights(net, weights, strict=True)
    data = torch.from_numpy(np.random.default_rng(1).normal(0, 1, (2, 3, 6, 8)).astype(np.float32))
    with torch.no_grad():
        return net({"data": data})["score"].numpy()


def document_of(outcome: SurgeryResult) -> Document:
    assert outcome.document is not None
    return outcome.document


def test_a_head_with_other_outputs() -> None:
    outcome = replace_head(parse(NET), weights_of(NET), "score", num_output=7, reinit="constant,value=2", seed=1)
    assert "num_output: 7" in str(outcome.document)
    assert outcome.kept == ("conv", "fc")
    assert outcome.dropped == ("score",)
    assert outcome.changed == {"score": "filled again, 7x5 and 7"}
    assert (outcome.weights["score"][0] == 2).all()
    assert output(document_of(outcome), outcome.weights).shape == (2, 7)
    again = replace_head(parse(NET), weights_of(NET), "score", num_output=7, seed=1)
    same = replace_head(parse(NET), weights_of(NET), "score", num_output=7, seed=1)
    assert np.array_equal(again.weights["score"][0], same.weights["score"][0])


@pytest.mark.parametrize(
    ("drop", "options", "says"),
    [
        ("scores", {}, "no layer's name matches 'scores'"),
        ("scores", {}, "the layers are conv, fc, relu, score"),
        ("(", {}, "is no regular expression"),
        ("score", {"num_output": 0}, "num_output must be at least 1"),
        ("relu", {"num_output": 3}, "has num_output"),
        ("relu", {"reinit": "xavier"}, "has num_output"),
        ("score", {"reinit": "xavier,value"}, "'value' is none of value"),
        ("score", {"reinit": "xavier,sdt=1"}, "is none of value, min, max, mean, std"),
        ("score", {"reinit": "gaussian,std=much"}, "'much' is no number"),
        ("score", {"reinit": "xaver"}, "xaver"),
        ("fc", {"num_output": 9}, "layer 'score' needs blobs of shape [(3, 9), (3,)] after the change"),
    ],
)
def test_heads_that_cannot_be_replaced(drop: str, options: Arrays, says: str) -> None:
    with pytest.raises((FusionError, BuildError), match=re.escape(says)):
        replace_head(parse(NET), weights_of(NET), drop, **options)


def test_layers_without_weights_or_of_a_size_that_is_not_known() -> None:
    data = 'layer { name: "data" type: "HDF5Data" top: "data" hdf5_data_param { source: "no.txt" batch_size: 2 } }\n'
    outcome = replace_head(parse(data + BODY.replace('"conv"', '"data"')), weights_of(NET), "fc|relu")
    assert outcome.changed == {"fc": "dropped; its size depends on data that is not here, and training will fill it"}
    assert (outcome.kept, outcome.dropped, list(outcome.weights)) == (("score",), ("conv", "fc"), ["score"])


def test_one_layer_of_a_head_may_have_weights_of_a_size_that_is_known() -> None:
    outcome = replace_head(parse(NET), weights_of(NET), "score", num_output=1)
    assert outcome.changed == {"score": "filled again, 1x5 and 1"}


def test_fillers() -> None:
    filler = parse_filler("uniform, min=-1,max=1")
    assert (filler.type, filler.min, filler.max) == ("uniform", -1.0, 1.0)


@pytest.mark.parametrize("transpose", [False, True])
def test_dense_layers_as_convolutions_and_back(transpose: bool) -> None:
    text = NET.replace("num_output: 5", "num_output: 5 transpose: true") if transpose else NET
    weights = weights_of(text)
    before = output(parse(text), weights)
    outcome = to_convolution(parse(text), weights)
    assert outcome.changed == {
        "fc": "InnerProduct to Convolution, kernel 4x6",
        "score": "InnerProduct to Convolution, kernel 1x1",
    }
    assert outcome.weights["fc"][0].shape == (5, 4, 4, 6)
    full = output(document_of(outcome), outcome.weights)
    np.testing.assert_allclose(full[:, :, 0, 0], before, rtol=1e-4, atol=1e-4)
    back = to_dense(document_of(outcome), outcome.weights, "fc|score")
    assert back.kept == ("conv",)
    np.testing.assert_allclose(output(document_of(back), back.weights), before, rtol=1e-4, atol=1e-4)


def test_convolutions_that_do_not_cover_their_bottom_stay() -> None:
    outcome = to_dense(parse(NET), weights_of(NET))
    assert outcome.mismatched == {"conv": "its kernel does not cover its bottom exactly"}
    with pytest.raises(FusionError, match="no Convolution layer matches 'fc'"):
        to_dense(parse(NET), weights_of(NET), "fc")
    assert to_convolution(parse(NET), {}).mismatched["fc"] == "it has no weights"


def test_what_would_not_fit_together_is_refused() -> None:
    text = DATA + CONV % "" + BODY[: BODY.index('layer { name: "score"')]
    text += 'layer { name: "other" type: "Convolution" bottom: "data" top: "other" convolution_param { num_output: 5 '
    text += "kernel_h: 6 kernel_w: 8 } }\n"
    flat = 'layer { name: "flat" type: "Flatten" bottom: "other" top: "flat" }\n'
    both = text + flat + 'layer { name: "both" type: "Concat" bottom: "fc" bottom: "flat" top: "both" }'
    with pytest.raises(
        FusionError, match=r"after the change layer 'both' \(Concat\)(.|\n)*choose layers with --layers"
    ):
        to_convolution(parse(both), weights_of(both))


TWO = DATA + "".join(
    f"""layer {{ name: "{p}/fc" type: "InnerProduct" bottom: "data" top: "{p}/fc"
  inner_product_param {{ num_output: 4 }} }}
layer {{ name: "{p}/relu" type: "ReLU" bottom: "{p}/fc" top: "{p}/out" }}
"""
    for p in "ab"
)
CONCAT = """layer { name: "both" type: "Concat" bottom: "a/out" bottom: "b/out" top: "both" }
layer { name: "drop" type: "Dropout" bottom: "both" top: "dropped" }
layer { name: "score" type: "InnerProduct" bottom: "dropped" top: "score" inner_product_param { num_output: 3 } }
"""


def test_convolutions_pass_a_concat() -> None:
    weights = weights_of(TWO + CONCAT)
    outcome = to_convolution(parse(TWO + CONCAT), weights)
    assert sorted(outcome.changed) == ["a/fc", "b/fc", "score"]
    assert outcome.mismatched == {}
    assert outcome.weights["score"][0].shape == (3, 8, 1, 1)
    full = output(document_of(outcome), outcome.weights)
    assert full.shape == (2, 3, 1, 1)
    np.testing.assert_allclose(full[:, :, 0, 0], output(parse(TWO + CONCAT), weights), rtol=1e-4, atol=1e-4)
    larger = build(parse(str(document_of(outcome)).replace("dim: 6 dim: 8", "dim: 7 dim: 10")), seed=0)
    assert larger({"data": torch.zeros(2, 3, 7, 10)})["score"].shape == (2, 3, 2, 3)


def test_an_axis_from_the_back_is_refused_above_a_convolution() -> None:
    text = TWO + CONCAT.replace('top: "both" }', 'top: "both" concat_param { axis: -1 } }')
    with pytest.raises(FusionError, match="layer 'both' counts its axis from the end"):
        to_convolution(parse(text), weights_of(text))


def test_strip_and_restore() -> None:
    weights = weights_of(FROZEN)
    net = load_net(parse(FROZEN))
    head = strip(net, weights)
    assert head.kept == ("fc", "score")
    assert head.dropped == ("conv",)
    base = {**weights_of(FROZEN, 1), "conv": weights["conv"]}
    whole = restore(net, head.weights, base)
    assert whole.changed == {"conv": "from the base", "fc": "from the snapshot", "score": "from the snapshot"}
    assert all(
        np.array_equal(a, b) for name in weights for a, b in zip(whole.weights[name], weights[name], strict=True)
    )


def test_what_cannot_be_stripped_or_restored() -> None:
    with pytest.raises(FusionError, match="nothing in net '' is frozen"):
        strip(load_net(parse(NET)), weights_of(NET))
    frozen = re.sub(r'top: "(fc|score)"\n', r'top: "\1" param { lr_mult: 0 } param { lr_mult: 0 }\n', FROZEN)
    with pytest.raises(FusionError, match="nothing would be left"):
        strip(load_net(parse(frozen)), weights_of(frozen))
    with pytest.raises(WeightsMismatch) as caught:
        restore(load_net(parse(FROZEN)), {"fc": [np.zeros((2, 2))]}, {"conv": weights_of(NET)["conv"]})
    assert len(caught.value.errors) == 2
    other = {"ip": [np.zeros(2)]}
    with pytest.raises(
        WeightsMismatch, match=r"no layer of the weights is one of net ''(.|\n)*those of the weights with ip"
    ):
        strip(load_net(parse(FROZEN)), other)
    with pytest.raises(WeightsMismatch, match="no layer of the snapshot is one of net ''"):
        restore(load_net(parse(FROZEN)), other, weights_of(FROZEN))


def test_means() -> None:
    nets = [weights_of(NET, seed) for seed in range(3)]
    mean = average(nets)
    np.testing.assert_allclose(mean.weights["fc"][0], np.mean([net["fc"][0] for net in nets], 0), rtol=1e-5, atol=1e-6)
    half = interpolate(nets[0], nets[1], 0.25)
    np.testing.assert_allclose(
        half.weights["fc"][1], 0.75 * nets[0]["fc"][1] + 0.25 * nets[1]["fc"][1], rtol=1e-5, atol=1e-6
    )
    for share in (0, 1):
        assert np.array_equal(interpolate(nets[0], nets[1], share).weights["conv"][0], nets[share]["conv"][0])
    assert average([nets[0], {**nets[1], "more": [np.ones(1)]}]).dropped == ("more",)
    assert average([{**nets[0], "more": [np.ones(1)]}, nets[1]]).dropped == ("more",)
    assert next(iter(average(nets).changed.items())) == ("conv", "mean of 3")


def test_statistics_are_divided_by_their_factors() -> None:
    one = {"bn": [np.full(2, 4.0), np.full(2, 8.0), np.full(1, 2.0)]}
    other = {"bn": [np.full(2, 40.0), np.full(2, 80.0), np.full(1, 10.0)]}
    mean, variance, factor = average([one, other]).weights["bn"]
    assert (mean.tolist(), variance.tolist(), factor.tolist()) == ([3.0, 3.0], [6.0, 6.0], [1.0])
    assert [blob.tolist() for blob in average([one]).weights["bn"]] == [[4, 4], [8, 8], [2]], "one net is not changed"
    fresh, plain = ({"bn": [np.full(2, 6.0), np.full(2, 6.0), np.full(1, factor)]} for factor in (0.0, 1.0))
    assert [blob.tolist() for blob in average([fresh, plain]).weights["bn"]] == [[3, 3], [3, 3], [1]]
    own = {"bn": [*plain["bn"], np.full(2, 10.0), np.full(2, 20.0)]}
    other = {"bn": [*one["bn"], np.full(2, 30.0), np.full(2, 40.0)]}
    assert [blob.tolist() for blob in average([own, other]).weights["bn"]] == [[4, 4], [5, 5], [1], [20, 20], [30, 30]]


@pytest.mark.parametrize(
    ("shapes", "found"),
    [
        (((2,), (2,), (1,)), True),
        (((2,), (2,), (1,), (2,), (2,)), True),
        (((2,), (2,), ()), True),
        (((2,), (2,)), False),
        (((2,), (2,), (1,), (2,)), False),
        (((2,), (2,), (1,), (2,), (2,), (2,)), False),
        (((2,), (3,), (1,)), False),
        (((2,), (1,), (1,)), False),
        (((2, 2), (2, 2), (1,)), False),
        (((2,), (2,), (2,)), False),
        (((2,), (2,), (2,), (1,), (2,)), False),
    ],
)
def test_which_blobs_are_statistics(shapes: tuple[tuple[int, ...], ...], found: bool) -> None:
    """Of three or five blobs, the first two of one shape with one axis, and one number."""
    one = [np.full(shape, 8.0) for shape in shapes]
    divided = average([{"a": one}, {"a": one}]).weights["a"]
    assert (float(divided[0].ravel()[0]) == 1.0) is found


def test_a_greedy_soup_takes_what_helps() -> None:
    nets = [{"a": [np.array([value])]} for value in (1.0, 9.0, 3.0)]
    best, chosen = greedy_soup(nets, lambda weights: -abs(float(weights["a"][0][0]) - 2.0))
    assert chosen == (0, 2)
    assert best.weights["a"][0].tolist() == [2.0]
    alone, chosen = greedy_soup(nets[:2], lambda weights: -abs(float(weights["a"][0][0]) - 1.0))
    assert (chosen, alone.weights["a"][0].tolist()) == ((0,), [1.0])
    equal, chosen = greedy_soup([nets[0], nets[0], nets[1]], lambda weights: -float(weights["a"][0][0]))
    assert (chosen, equal.weights["a"][0].tolist()) == ((0, 1), [1.0]), "what makes it no worse is taken"


@pytest.mark.parametrize(
    ("nets", "shares", "says"),
    [
        ([], None, "nothing to average"),
        ([{"a": [np.ones(1)]}, {"b": [np.ones(1)]}], None, "no layer in common"),
        ([{"a": [np.ones(1)]}, {"a": [np.ones(2)]}], None, "net 1 has blobs [(1,)], net 2 [(2,)]"),
        ([{"a": [np.ones(1)]}], [1, 2], "shares [1.0, 2.0] for 1 nets"),
        ([{"a": [np.ones(1)]}], [-1], "shares [-1.0]"),
        ([{"a": [np.ones(1)]}, {"a": [np.ones(1)]}], [0, 0], "shares [0.0, 0.0]"),
        ([{"a": [np.ones(1)]}, {"a": [np.ones(1)]}], [2, -1], "shares [2.0, -1.0]"),
        ([{"a": [np.ones(1)]}, {"a": [np.ones(1)]}], [float("nan"), 1], "shares [nan, 1.0]"),
        ([{"a": [np.ones(1)]}, {"a": [np.ones(1)]}, {"a": [np.ones(2)]}], None, "net 3 [(2,)]"),
    ],
)
def test_what_cannot_be_averaged(nets: list[Arrays], shares: list[float] | None, says: str) -> None:
    with pytest.raises(FusionError, match=re.escape(says)):
        average(nets, shares)


@pytest.mark.parametrize("share", [-0.5, 1.5])
def test_a_point_lies_between_two_nets(share: float) -> None:
    with pytest.raises(FusionError, match="is not between 0 and 1"):
        interpolate({"a": [np.ones(1)]}, {"a": [np.ones(1)]}, share)
