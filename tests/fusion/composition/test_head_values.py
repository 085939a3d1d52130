"""What each head computes, in numbers: composed from three sources, run, and held to arithmetic by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import fusion
import prototxt
from fusion.composition import Source, compose

Make = Callable[..., Path]
Floats = NDArray[np.float64]
SOURCES = ("a", "b", "c")


def run(
    make: Make, head: str, at: str, weights: dict[str, list[float]]
) -> tuple[list[Floats], Floats, dict[str, Floats]]:
    """The features of the sources, their join, and all blobs; `weights` are values for layers of the head."""
    sources = [Source(prefix, make(prefix), at=at) for prefix in SOURCES]
    composed = compose(sources, head, num_output=3)
    net = fusion.build(prototxt.filter_net(prototxt.load_net(composed.deploy), phase="TEST"), seed=4)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, blobs in fusion.params(net).items():
            for blob in blobs:
                blob.copy_(torch.randn(blob.shape, generator=generator))
            if name in weights:
                flat = torch.tensor(weights[name]).reshape(blobs[0].shape)
                blobs[0].copy_(flat)
        found = fusion.blobs(net, {"data": torch.randn(2, 1, 8, 8, generator=generator)})
    values = {name: blob.detach().double().numpy() for name, blob in found.items()}
    features = [values[f"{prefix}/{at}"] for prefix in SOURCES]
    assert all(np.ptp(one) > 0.1 for one in features)
    joined = f"{at}_fused"
    scores = "classes" if at == "fc" else "fc"  # called after what reads the cut in the sources
    layer = fusion.params(net)[scores]
    rows = values[joined].reshape(2, -1)
    expected = rows @ layer[0].detach().double().numpy().T + layer[1].detach().double().numpy()
    np.testing.assert_allclose(values[scores], expected, rtol=1e-4, atol=1e-4)
    return features, values[joined], values


@pytest.mark.parametrize("at", ["fc", "conv"])
@pytest.mark.parametrize(
    ("head", "rule"),
    [
        ("sum", lambda a, b, c: a + b + c),
        ("mean", lambda a, b, c: (a + b + c) / 3),
        ("max", lambda a, b, c: np.maximum(np.maximum(a, b), c)),
        ("concat-fc", lambda a, b, c: np.concatenate([a, b, c], 1)),
    ],
)
def test_heads_without_weights_of_their_own(make: Make, head: str, rule: Callable[..., Floats], at: str) -> None:
    features, joined, _ = run(make, head, at, {})
    np.testing.assert_allclose(joined, rule(*features), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("at", ["fc", "conv"])
def test_fastnorm(make: Make, at: str) -> None:
    features, joined, _ = run(make, "fastnorm", at, {"join": [2.0, -1.0, 0.5]})
    expected = (2.0 * features[0] + 0.5 * features[2]) / (2.5 + 1e-4)
    np.testing.assert_allclose(joined, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("at", ["fc", "conv"])
def test_softmax(make: Make, at: str) -> None:
    features, joined, _ = run(make, "softmax", at, {"join": [2.0, -1.0, 0.5]})
    powers = np.exp([2.0, -1.0, 0.5])
    expected = sum(share * one for share, one in zip(powers / powers.sum(), features, strict=True))
    np.testing.assert_allclose(joined, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("at", ["fc", "conv"])
def test_gated(make: Make, at: str) -> None:
    features, joined, values = run(make, "gated", at, {})
    powers = np.exp(values["join_gate"] - values["join_gate"].max(1, keepdims=True))
    shares = powers / powers.sum(1, keepdims=True)
    assert np.abs(shares - 1 / 3).max() > 0.05  # each sample has its own
    expected = sum(shares[:, [i]].reshape(2, *[1] * (one.ndim - 1)) * one for i, one in enumerate(features))
    np.testing.assert_allclose(joined, expected, rtol=1e-4, atol=1e-5)


def test_a_gate_reads_all_features(make: Make) -> None:
    sources = [Source(prefix, make(prefix), at="fc") for prefix in SOURCES]
    net = prototxt.load_net(compose(sources, "gated", num_output=3).train_val)
    gate = next(layer for layer in net.layer if layer.name == "join_gate")
    everything = next(layer for layer in net.layer if gate.bottom[0] in layer.top)
    assert list(everything.bottom) == ["a/fc", "b/fc", "c/fc"]


def test_a_hidden_layer_is_rectified(make: Make) -> None:
    sources = [Source(prefix, make(prefix), at="fc") for prefix in SOURCES]
    composed = compose(sources, "concat-mlp", num_output=3, hidden=7)
    net = fusion.build(prototxt.filter_net(prototxt.load_net(composed.deploy), phase="TEST"), seed=4)
    found = fusion.blobs(net, {"data": torch.randn(2, 1, 8, 8, generator=torch.manual_seed(5))})
    params = {name: [blob.detach() for blob in blobs] for name, blobs in fusion.params(net).items()}
    features = torch.cat([found[f"{prefix}/fc"] for prefix in SOURCES], 1)
    hidden = (features @ params["hidden"][0].T + params["hidden"][1]).clamp(min=0)
    torch.testing.assert_close(found["classes"], hidden @ params["classes"][0].T + params["classes"][1])


@pytest.mark.parametrize(
    ("head", "shares", "classes"),
    [
        ("probs", (None, None, None), ((0, 1, 2), (0, 1, 2), (0, 1, 2))),
        ("probs", (2.0, None, 0.5), ((0, 1, 2), (2, 0, 1), (0, 1, 2))),
        ("logits", (2.0, None, 0.5), ((0, 1, 2), (2, 0, 1), (0, 1, 2))),
        ("probs", (3.0, 1.0, 5.0), ((0, 1, 2), (3, 2, 1), (4, 0, 3))),
        ("logits", (3.0, 1.0, 5.0), ((0, 1, 2), (3, 2, 1), (4, 0, 3))),
    ],
)
def test_an_ensemble_is_the_weighted_mean_of_its_members(
    make: Make, head: str, shares: tuple[float | None, ...], classes: tuple[tuple[int, ...], ...]
) -> None:
    members = zip(SOURCES, classes, shares, strict=True)
    sources = [Source(p, make(p), at="fc", classes=known, share=share) for p, known, share in members]
    total = 1 + max(map(max, classes))
    net = fusion.build(prototxt.filter_net(compose_deploy(sources, head, total), phase="TEST"), seed=4)
    image = torch.randn(2, 1, 8, 8, generator=torch.manual_seed(5))
    values = {name: blob.detach().double().numpy() for name, blob in fusion.blobs(net, {"data": image}).items()}
    scores, weights = np.zeros((2, total)), np.zeros(total)
    for prefix, known, share in zip(SOURCES, classes, shares, strict=True):
        powers = np.exp(values[f"{prefix}/classes"])
        answers = powers / powers.sum(1, keepdims=True)
        scores[:, list(known)] += (1 if share is None else share) * (np.log(answers) if head == "logits" else answers)
        weights[list(known)] += 1 if share is None else share
    expected = scores / weights if head == "logits" else np.log(scores / weights)
    np.testing.assert_allclose(values["classes"], expected, rtol=1e-4, atol=1e-5)
    if head == "probs" and total == 3:
        np.testing.assert_allclose(values["prob"], scores / weights, rtol=1e-4, atol=1e-6)


def compose_deploy(sources: list[Source], head: str, total: int) -> prototxt.schema.messages.NetParameter:
    return prototxt.load_net(compose(sources, head, num_output=total).deploy)


@pytest.mark.parametrize(
    ("head", "share", "says"),
    [("sum", 1.0, "head 'sum' takes none"), ("probs", 0.0, "the share 0.0 is not above 0"), ("probs", -1.0, "-1.0 is")],
)
def test_shares_that_make_no_ensemble(make: Make, head: str, share: float, says: str) -> None:
    with pytest.raises(fusion.ComposeError, match=says):
        compose([Source("a", make("a"), at="fc", share=share)], head, num_output=3)
