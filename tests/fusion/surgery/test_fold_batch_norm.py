"""Folded nets against the nets they were made of: the same outputs, fewer layers, and reasons for what stays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fusion.errors import FusionError
from fusion.nets.build import build, params
from fusion.nets.weights import load_weights
from fusion.surgery.fold_batch_norm import fold
from fusion.surgery.result import SurgeryResult
from prototxt.schema.load import load_net
from prototxt.shapes import infer
from prototxt.text.parser import parse, parse_file
from prototxt.text.tree import Document

DATA = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 4 dim: 7 dim: 7 } } }\n'
BN = 'layer { name: "bn" type: "BatchNorm" bottom: "c" top: "c" }\n'
SCALE = 'layer { name: "sc" type: "Scale" bottom: "c" top: "c" scale_param { bias_term: true } }\n'
TWO_BOTTOMS = 'layer { name: "sc" type: "Scale" bottom: "c" bottom: "c" top: "d" scale_param { axis: 0 } }\n'
RELU = 'layer { name: "r" type: "ReLU" bottom: "c" top: "c" }\n'


def linear(kind: str, param: str, settings: str) -> str:
    return f'layer {{ name: "c" type: "{kind}" bottom: "data" top: "c" {param} {{ num_output: 6 {settings} }} }}\n'


def conv(settings: str = "kernel_size: 3 bias_term: false", kind: str = "Convolution") -> str:
    return linear(kind, "convolution_param", settings)


def random_weights(document: Document, seed: int = 0) -> dict[str, list[np.ndarray]]:
    random = np.random.default_rng(seed)
    found = {}
    for name, tensors in params(build(document, seed=0)).items():
        blobs = [random.normal(0, 1, tuple(tensor.shape)) for tensor in tensors]
        if len(blobs) in (3, 5) and blobs[2].size == 1:
            blobs[1], blobs[2] = np.abs(blobs[1]) + 0.5, np.full((1,), 3.7)
        found[name] = [blob.astype(np.float32) for blob in blobs]
    return found


def outputs(document: Document, weights: dict) -> list[np.ndarray]:  # type: ignore[type-arg]
    net = build(document, seed=0)
    if params(net):
        load_weights(net, weights, strict=True)
    data = torch.from_numpy(np.random.default_rng(1).normal(0, 1, (2, 4, 7, 7)).astype(np.float32))
    with torch.no_grad():
        return [tensor.numpy() for tensor in net({"data": data}).values()]


@pytest.mark.filterwarnings("ignore::prototxt.schema.decode.UnknownFieldWarning")
def test_batch_norm_with_scale_and_bias_of_its_own() -> None:
    own = BN.replace(" }", " batch_norm_param { scale_filler { value: 1 } } }")
    outcome = folded(DATA + conv() + own + RELU)
    assert outcome.dropped == ("bn",)


def folded(text: str) -> SurgeryResult:
    document = parse(text)
    weights = random_weights(document)
    outcome = fold(document, weights)
    assert outcome.document is not None
    for before, after in zip(outputs(document, weights), outputs(outcome.document, outcome.weights), strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5 * np.abs(before).max())
    return outcome


@pytest.mark.parametrize(
    "layer",
    [
        conv(),
        conv("kernel_size: 3 pad: 1"),
        linear("Convolution", "convolution_param", "kernel_size: 3 group: 2").replace("num_output: 6", "num_output: 6"),
        conv("kernel_size: 3 group: 2 bias_term: false", "Deconvolution"),
        conv("kernel_size: 2 stride: 2", "Deconvolution"),
        conv("kernel_size: 3", "ConvolutionDepthwise").replace("num_output: 6", "num_output: 4"),
        linear("InnerProduct", "inner_product_param", ""),
        linear("InnerProduct", "inner_product_param", "transpose: true bias_term: false"),
    ],
)
def test_every_linear_layer_takes_in_what_follows(layer: str) -> None:
    outcome = folded(DATA + layer + BN + SCALE + 'layer { name: "r" type: "ReLU" bottom: "c" top: "c" }\n')
    assert outcome.changed == {"c": "absorbed bn, sc"}
    assert outcome.dropped == ("bn", "sc")
    assert len(outcome.weights["c"]) == 2
    assert "BatchNorm" not in str(outcome.document)
    assert not outcome.mismatched


def test_tops_with_names_of_their_own_and_comments_stay() -> None:
    text = DATA + "# the only one\n" + conv() + 'layer { name: "bn" type: "BatchNorm" bottom: "c" top: "d" }\n'
    text += (
        'layer { name: "b" type: "Bias" bottom: "d" top: "e" }\nlayer { name: "r" type: "ReLU" bottom: "e" top: "f" }\n'
    )
    outcome = folded(text.replace('"c"', "'c'"))
    assert "top: 'c'" not in str(outcome.document)
    assert "top: 'c'" in str(folded(DATA + (conv() + BN).replace('"c"', "'c'")).document), (
        "a top that stays is not written"
    )
    three = text[: text.index('layer { name: "r"')] + 'layer { name: "s" type: "Scale" bottom: "e" top: "g" }\n'
    assert 'name: "c" type: "Convolution" bottom: "data" top: "g"' in str(folded(three).document)
    outcome = folded(text)
    assert outcome.dropped == ("bn", "b")
    assert "# the only one" in str(outcome.document)
    assert 'top: "e"' in str(outcome.document)


@pytest.mark.parametrize(
    ("text", "name", "reason"),
    [
        (conv() + BN.replace('top: "c"', 'top: "d"') + 'layer { name: "r" type: "TanH" bottom: "c" top: "e" }\n',
         "bn", "other layers read the output of 'c', too"),
        (conv() + RELU + BN, "bn", "no convolution or dense layer"),
        (conv() + SCALE.replace("scale_param {", "scale_param { axis: 2 num_axes: 2"), "sc", "not act per channel"),
        (conv() + BN.replace("BatchNorm\"", 'BatchNorm" batch_norm_param { use_global_stats: false }'), "bn",
         "the statistics of each batch"),
        (conv("kernel_size: 3").replace('top: "c"', 'top: "c" param { name: "w" } param {}') + BN, "bn",
         "it shares its weights"),
    ],
)  # fmt: skip
def test_what_cannot_be_folded_stays_and_is_told(text: str, name: str, reason: str) -> None:
    outcome = folded(DATA + text)
    assert not outcome.changed
    assert reason in outcome.mismatched[name]
    assert f"left alone: {name}: " in outcome.listing()


@pytest.mark.parametrize("factor", [3.7, 1.0, 0.0])
def test_eps_and_the_factor_of_the_statistics(factor: float) -> None:
    document = parse(DATA + conv("kernel_size: 1") + BN.replace('top: "c"', 'top: "c" batch_norm_param { eps: 0.3 }'))
    weights = random_weights(document)
    weights["bn"][2][:] = factor
    outcome = fold(document, weights)
    scale = 1 / np.sqrt((weights["bn"][1] / factor if factor else 0) + 0.3) * np.ones(6)
    mean = weights["bn"][0] / factor if factor else np.zeros(6)
    np.testing.assert_allclose(outcome.weights["c"][0], weights["c"][0] * scale[:, None, None, None], rtol=1e-6)
    np.testing.assert_allclose(outcome.weights["c"][1], (weights["c"][1] - mean) * scale, rtol=1e-5)


@pytest.mark.parametrize(
    ("text", "missing", "name", "reason"),
    [
        (conv() + BN + SCALE, "sc", "sc", "it has no weights"),
        (conv() + BN + SCALE, "bn", "bn", "it has no weights"),
        (conv() + BN, "c", "bn", "'c' before it cannot absorb it: it has no weights"),
        (conv() + TWO_BOTTOMS, "", "sc", "it has several bottoms or tops"),
        (conv("kernel_size: 3 axis: 2") + BN, "", "bn", "'c' before it cannot absorb it: its axis is not 1"),
        (linear("InnerProduct", "inner_product_param", "axis: 2") + BN, "", "bn", "its axis is not 1"),
        (conv() + SCALE.replace("scale_param {", "scale_param { num_axes: 2"), "", "sc", "not act per channel"),
        (BN.replace('bottom: "c"', 'bottom: "data"'), "", "bn", "no convolution or dense layer is directly before it"),
    ],
)
def test_the_reason_of_each_layer_that_stays(text: str, missing: str, name: str, reason: str) -> None:
    document = parse(DATA + text)
    net = infer(load_net(document))
    shapes = dict(zip([layer.name for layer in load_net(document).layer], net.params, strict=True))
    weights = {
        layer: [np.ones(tuple(size or 1 for size in shape), np.float32) for shape in blobs]
        for layer, blobs in shapes.items()
        if blobs and layer != missing
    }
    outcome = fold(document, weights)
    assert reason in outcome.mismatched[name]
    assert name not in outcome.dropped


def test_what_is_kept_and_what_changed() -> None:
    text = DATA + conv() + BN + 'layer { name: "d" type: "InnerProduct" bottom: "c" top: "d" '
    document = parse(text + "inner_product_param { num_output: 2 } }")
    weights = random_weights(document)
    outcome = fold(document, weights)
    assert (outcome.kept, outcome.changed, outcome.dropped) == (("d",), {"c": "absorbed bn"}, ("bn",))
    assert outcome.weights["d"] is weights["d"] or np.array_equal(outcome.weights["d"][0], weights["d"][0])
    assert "bias_term" not in str(outcome.document)


def test_nets_with_phases_are_refused() -> None:
    with pytest.raises(FusionError, match="a net with phases cannot be folded") as caught:
        fold(parse(DATA + conv().replace('top: "c"', 'top: "c" include { phase: TEST }')), {})
    assert "fusion-convert" in str(caught.value)


def test_a_public_resnet(reference: Path) -> None:
    document = parse_file(reference / "corpus" / "deep-residual-networks__ResNet-50-deploy.prototxt")
    with torch.device("meta"):
        shapes = {name: [tuple(t.shape) for t in tensors] for name, tensors in params(build(document)).items()}
    weights = {name: [np.ones(shape, np.float32) for shape in blobs] for name, blobs in shapes.items()}
    outcome = fold(document, weights)
    assert len(outcome.changed) == 53
    assert len(outcome.dropped) == 106
    assert not outcome.mismatched
