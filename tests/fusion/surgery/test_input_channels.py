"""A trained net with another number of input channels: equal scores where there should be, and refusals."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

from fusion.errors import FusionError, WeightsMismatch
from fusion.nets.build import build
from fusion.nets.weights import load_weights
from fusion.surgery import edit_input_channels
from prototxt.text.parser import parse

DATA = 'layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 5 dim: 6 } } }\n'
CONV = """layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 4 kernel_size: 3 pad: 1 } }
"""
NET = DATA + CONV
KERNEL = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
WEIGHTS = {"conv": [KERNEL, np.arange(4, dtype=np.float32)], "other": [np.ones(2)]}
GREY = np.random.default_rng(1).normal(size=(2, 1, 5, 6)).astype(np.float32)
COLOUR = np.random.default_rng(2).normal(size=(2, 3, 5, 6)).astype(np.float32)


def run(text: str, weights: Any, image: Any) -> Any:
    net = build(parse(text), seed=0)
    load_weights(net, {"conv": weights["conv"]}, strict=True)
    with torch.no_grad():
        return net({"data": torch.from_numpy(np.ascontiguousarray(image))})["conv"].numpy()


def changed(channels: int, image: Any, **options: Any) -> Any:
    outcome = edit_input_channels(parse(NET), WEIGHTS, channels, **options)
    assert outcome.changed == {"conv": f"3 to {channels} input channels"}
    assert outcome.kept == ("other",)
    return run(str(outcome.document), outcome.weights, image)


def test_grey_images_give_the_scores_of_equal_channels() -> None:
    np.testing.assert_allclose(changed(1, GREY), run(NET, WEIGHTS, np.repeat(GREY, 3, 1)), rtol=1e-4, atol=1e-5)


def test_a_zero_channel_changes_nothing() -> None:
    wide = np.concatenate([COLOUR, GREY], 1)
    np.testing.assert_allclose(changed(4, wide, fill="zero"), run(NET, WEIGHTS, COLOUR), rtol=1e-4, atol=1e-5)


def test_copies_of_the_channels_give_the_same_scores() -> None:
    twice = np.concatenate([COLOUR, COLOUR], 1)
    np.testing.assert_allclose(changed(6, twice, fill="copy"), run(NET, WEIGHTS, COLOUR), rtol=1e-4, atol=1e-5)


def test_further_channels_start_as_the_mean() -> None:
    weights = edit_input_channels(parse(NET), WEIGHTS, 5).weights["conv"]
    assert np.array_equal(weights[0][:, :3], KERNEL)
    np.testing.assert_allclose(weights[0][:, 3], KERNEL.mean(1), rtol=1e-5, atol=1e-7)
    assert np.array_equal(weights[0][:, 3], weights[0][:, 4])
    assert np.array_equal(weights[1], WEIGHTS["conv"][1])


def test_inputs_in_old_syntax() -> None:
    old = 'input: "data" input_dim: 2 input_dim: 3 input_dim: 5 input_dim: 6\n' + CONV
    outcome = edit_input_channels(parse(old), WEIGHTS, 1)
    assert run(str(outcome.document), outcome.weights, GREY).shape == (2, 4, 5, 6)


def test_image_files_become_grey_and_means_are_named() -> None:
    data = """layer { name: "in" type: "ImageData" top: "data" top: "label"
  transform_param { mean_value: 104 mean_value: 117 mean_value: 123 } image_data_param { source: "list.txt" } }
"""
    outcome = edit_input_channels(parse(data + CONV), WEIGHTS, 1)
    assert "is_color: false" in str(outcome.document)
    assert outcome.mismatched == {"in": "its mean is that of the old channels: give mean_value for 1"}
    wide = edit_input_channels(parse(data.replace("mean_value: 117 mean_value: 123", "") + CONV), WEIGHTS, 4)
    assert wide.mismatched == {"in": "image files have no 4 channels: give it another type, such as HDF5Data"}
    for mean, told in (("mean_value: 104 mean_value: 117", True), ("mean_value: 104", False), ('mean_file: "m"', True)):
        text = data.replace("mean_value: 104 mean_value: 117 mean_value: 123", mean)
        assert bool(edit_input_channels(parse(text + CONV), WEIGHTS, 1).mismatched) is told


TWO = DATA.replace('"in"', '"second"').replace('"data"', '"depth"')
SCALE = 'layer { name: "scale" type: "Scale" bottom: "data" top: "data" }\n'


def test_only_the_named_input_changes() -> None:
    both = NET + TWO + CONV.replace('"data"', '"depth"').replace('"conv"', '"deep"')
    weights = {**WEIGHTS, "deep": WEIGHTS["conv"]}
    with pytest.raises(FusionError, match=r"not certain which input(.|\n)*one of data, depth"):
        edit_input_channels(parse(both), weights, 1)
    outcome = edit_input_channels(parse(both), weights, 1, blob="depth")
    assert list(outcome.changed) == ["deep"]
    assert str(outcome.document).count("dim: 3") == 1


@pytest.mark.parametrize(
    ("text", "channels", "says"),
    [
        (NET, 2, "layer 'conv' reads 3 channels, of which 2 cannot be made"),
        (NET, 3, "of which 3 cannot be made"),
        (NET, 0, "of which 0 cannot be made"),
        (DATA + SCALE + CONV, 1, "layer 'scale' (Scale) reads the input, and depends on its channels"),
        (NET.replace("num_output: 4", "num_output: 3 group: 3"), 1, "is no convolution of one group"),
        (DATA, 1, "it is not certain which input to change"),
    ],
)
def test_channels_that_cannot_be_made(text: str, channels: int, says: str) -> None:
    with pytest.raises(FusionError, match=re.escape(says)):
        edit_input_channels(parse(text), WEIGHTS, channels)


def test_weights_of_another_net() -> None:
    with pytest.raises(WeightsMismatch, match=r"layer 'conv' needs blobs of shape \[\[4, 3, 3, 3\], \[4\]\], not \[\]"):
        edit_input_channels(parse(NET), {}, 1)
    with pytest.raises(WeightsMismatch, match=r"not \[\[5, 3, 3, 3\]\]"):
        edit_input_channels(parse(NET), {"conv": [np.ones((5, 3, 3, 3))]}, 1)
