"""Nets one after another: the second computes on the cut of the first, through merging and verifying."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import fusion
import prototxt
from fusion.composition import Source, compose
from fusion.verification import verify_branches

Make = Callable[..., Path]
SECOND = """name: "second"
layer { name: "images" type: "ImageData" top: "data" top: "label"
  transform_param { scale: 0.5 mean_value: 9 } image_data_param { source: "other.txt" batch_size: 4 } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 3 kernel_size: 3 } }
layer { name: "tanh" type: "TanH" bottom: "conv" top: "conv" }
layer { name: "classes" type: "InnerProduct" bottom: "conv" top: "classes" inner_product_param { num_output: 4 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "classes" bottom: "label" top: "loss" }
"""


@pytest.fixture
def chain(make: Make, tmp_path: Path) -> list[Source]:
    (tmp_path / "second.prototxt").write_text(SECOND)
    return [Source("a", make("one"), at="conv"), Source("b", tmp_path / "second.prototxt", at="conv", reads="a")]


def random_weights(net: fusion.Net) -> None:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for blobs in fusion.params(net).values():
            for blob in blobs:
                blob.copy_(torch.randn(blob.shape, generator=generator))


def deployed(sources: list[Source], head: str, **options: Any) -> fusion.Net:
    net = prototxt.filter_net(prototxt.load_net(compose(sources, head, **options).deploy), phase="TEST")
    built = fusion.build(net, seed=4)
    random_weights(built)
    return built


def test_the_second_net_computes_on_the_cut_of_the_first(chain: list[Source]) -> None:
    net = deployed(chain, "logits", num_output=4)
    values = fusion.blobs(net, {"data": torch.randn(2, 1, 8, 8, generator=torch.manual_seed(1))})
    params = fusion.params(net)
    first = values["a/conv"]
    assert first.min() == 0 < first.max()  # after its ReLU
    expected = torch.nn.functional.conv2d(first, *params["b/conv"]).tanh()
    torch.testing.assert_close(values["b/conv"], expected)
    weight, bias = params["b/classes"]
    scores = expected.flatten(1) @ weight.T + bias
    torch.testing.assert_close(values["prob"], scores.softmax(1))


def test_only_the_last_net_feeds_the_head(chain: list[Source]) -> None:
    composed = compose(chain, num_output=5)
    (head,) = (layer for layer in prototxt.load_net(composed.deploy).layer if layer.type == "Concat")
    assert list(head.bottom) == ["b/conv"]
    assert any(note == "data: source 'b' reads 'a/conv' as it is, without the mean_value, scale of its own data layer"
               for note in composed.notes)  # fmt: skip
    data = [layer for layer in prototxt.load_net(composed.train_val).layer if layer.type == "ImageData"]
    assert {layer.image_data_param.source for layer in data} == {"train_all.txt", "val_all.txt"}


def test_a_third_net_and_a_net_beside(chain: list[Source], make: Make) -> None:
    third = Source("c", chain[1].prototxt, at="conv", reads="b")
    beside = Source("d", make("one"), at="fc")
    net = prototxt.load_net(compose([*chain, third, beside], num_output=5).deploy)
    layers = {layer.name: layer for layer in net.layer}
    assert list(layers["c/conv"].bottom) == ["b/conv"]
    assert list(layers["concat"].bottom) == ["c_flat", "d/fc"]
    assert [layer.name for layer in net.layer if layer.type == "Input"] == ["data"]


def test_merged_and_verified(chain: list[Source], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    composed = compose(chain, num_output=5)
    composed.write("fused")
    for prefix, source in zip("ab", chain, strict=True):
        document = prototxt.load_net(source.prototxt)
        shapes = {"data": (1, 1, 8, 8) if prefix == "a" else (1, 2, 6, 6), "label": (1,)}
        net = fusion.build(prototxt.filter_net(document, phase="TEST"), shapes=shapes, seed=2)
        random_weights(net)
        blobs = {name: [blob.detach().numpy() for blob in each] for name, each in fusion.params(net).items()}
        prototxt.write_weights(f"{prefix}.caffemodel", blobs)
    plan = fusion.plan_merge(prototxt.load_net("fused/train_val.prototxt"), {p: f"{p}.caffemodel" for p in "ab"})
    fusion.apply_merge(plan, "init.caffemodel")
    sources = {prefix: (source.prototxt, f"{prefix}.caffemodel") for prefix, source in zip("ab", chain, strict=True)}
    for found in verify_branches("fused/deploy.prototxt", "init.caffemodel", sources):
        assert found.first is None, found.verdict()
        assert {row.layer.partition("/")[2] for row in found.differences} == (
            {"conv", "relu"} if found.name == "a" else {"conv", "tanh"}
        )
    assert list(prototxt.read_weights("init.caffemodel")) == ["a/conv", "b/conv", "classes"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"reads": "x"}, "source 'b' reads source 'x', which is not named before it"),
        ({"reads": "b"}, "source 'b' reads source 'b', which is not named before it"),
    ],
)
def test_chains_that_cannot_be(chain: list[Source], change: dict[str, str], says: str) -> None:
    second = Source("b", chain[1].prototxt, at="conv", **change)
    with pytest.raises(fusion.ComposeError, match=re.escape(says)):
        compose([chain[0], second], num_output=4)


def test_a_chain_passes_one_blob(chain: list[Source], make: Make) -> None:
    first = Source("a", make("one"), at=("conv", "fc"))
    with pytest.raises(
        fusion.ComposeError, match="source 'b' reads source 'a' by one blob, and source 'a' has several"
    ):
        compose([first, chain[1]], num_output=4)
