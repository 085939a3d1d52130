"""Cuts at maps: of several sizes, at several places, projected and normalised."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import fusion
import prototxt
from fusion import ComposeError
from fusion.composition import Source, compose
from fusion.composition.heads import HEADS

Make = Callable[..., Path]


@pytest.fixture
def two(make: Make) -> list[Source]:
    """Maps of 6x6 with 2 channels and, strided, of 3x3 with 3."""
    first, second = make("one", maps=2), make("two", maps=3)
    second.write_text(second.read_text().replace("kernel_size: 3 }", "kernel_size: 3 stride: 2 }"))
    return [Source("a", first, at="conv"), Source("b", second, at="conv")]


def shapes(composed: object) -> dict[str, tuple[int | None, ...]]:
    net = prototxt.load_net(composed.train_val)  # type: ignore[attr-defined]
    return prototxt.infer_shapes(prototxt.filter_net(net, phase="TEST"))


def test_maps_are_upsampled_as_by_bilinear_interpolation(two: list[Source]) -> None:
    composed = compose(two, num_output=3, maps="upsample")
    assert shapes(composed)["conv_fused"] == (4, 5, 6, 6)
    assert "head: 'b/conv' 4x3x3x3 is upsampled 2 times" in composed.notes
    net = fusion.build(prototxt.load_net(composed.deploy), seed=0)
    found = fusion.blobs(net, {"data": torch.rand(2, 1, 8, 8)})
    wanted = torch.nn.functional.interpolate(found["b/conv"], scale_factor=2, mode="bilinear")
    inner = (..., slice(1, -1), slice(1, -1))  # Caffe's recipe fades at the border
    torch.testing.assert_close(found["b_upsampled"][inner], wanted[inner])


@pytest.mark.parametrize("maps", ["pool", "upsample"])
@pytest.mark.parametrize("head", sorted(set(HEADS) - {"logits", "probs", "zero-init"}))
def test_every_head_takes_maps(two: list[Source], head: str, maps: str) -> None:
    composed = compose(two, head, num_output=3, maps=maps, batch_norm=True)
    net = fusion.build(prototxt.load_net(composed.deploy), seed=0)
    assert net({"data": torch.rand(2, 1, 8, 8)})["prob"].shape == (2, 3)


def test_maps_of_other_widths_are_projected_position_by_position(two: list[Source]) -> None:
    found = shapes(compose(two, "sum", num_output=3, maps="upsample"))
    assert found["a_projection"] == found["conv_fused"] == (4, 3, 6, 6)


@pytest.mark.parametrize("head", ["concat-fc", "sum", "gated", "fastnorm"])
def test_level_by_level(make: Make, head: str) -> None:
    sources = [Source(name, make(name), at=("conv", "fc")) for name in ("a", "b")]
    composed = compose(sources, head, num_output=3, maps="levels")
    found = shapes(composed)
    width = 4 + 12 if head == "concat-fc" else 2 + 6
    assert found["features"] == (4, width)
    assert "head: level 1 is a/conv, b/conv" in composed.notes
    net = fusion.build(prototxt.load_net(composed.deploy), seed=0)
    assert np.isfinite(net({"data": torch.rand(2, 1, 8, 8)})["prob"].detach().numpy()).all()


def test_several_maps_of_one_source_get_names_of_their_own(make: Make) -> None:
    path = make("one")
    more = '''name: "more" type: "Convolution" bottom: "conv" top: "more"
      convolution_param { num_output: 4 kernel_size: 3 } }
      layer { name: "fc"'''
    text = path.read_text().replace('name: "fc"', more, 1)
    path.write_text(text)
    composed = compose([Source("a", path, at=("conv", "more"))], num_output=3)
    assert shapes(composed)["features"] == (4, 2 + 4)
    assert {"a_conv_flat", "a_more_flat"} <= set(shapes(composed))


@pytest.mark.parametrize(
    ("at", "options", "says"),
    [
        (("fc", "conv"), {"maps": "upsample"}, "is no map"),
        (("conv", "conv"), {"maps": "sideways"}, "maps cannot be joined by 'sideways'"),
        (("conv", ("conv", "fc")), {"maps": "levels"}, "the levels have 2, 1 cuts"),
        (("fc", "fc"), {"project": 0}, "project is a width, not 0"),
    ],
)
def test_maps_that_cannot_be_joined(make: Make, at: tuple[str, str], options: dict[str, object], says: str) -> None:
    sources = [Source("a", make("one"), at=at[0]), Source("b", make("two"), at=at[1])]
    with pytest.raises(ComposeError, match=says):
        compose(sources, num_output=3, **options)  # type: ignore[arg-type]


def test_sizes_that_are_no_multiples_cannot_be_upsampled(make: Make) -> None:
    path = make("two")
    path.write_text(path.read_text().replace("kernel_size: 3 }", "kernel_size: 5 }"))
    sources = [Source("a", make("one"), at="conv"), Source("b", path, at="conv")]
    with pytest.raises(ComposeError, match=r"maps of 4x4 \('b/conv'\) cannot be brought to 6x6 by a whole factor"):
        compose(sources, num_output=3, maps="upsample")


def test_a_head_that_trains_nothing_has_no_projection(make: Make) -> None:
    with pytest.raises(ComposeError, match="trains nothing"):
        compose([Source("a", make("one"), at="fc")], "logits", num_output=3, project=4)
