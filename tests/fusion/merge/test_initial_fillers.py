"""How every type of layer starts: its filler, or the constant that is built into Caffe."""

from __future__ import annotations

import numpy as np
import pytest

from fusion.errors import BuildError
from fusion.merge.initial_fillers import initial_filler, initial_text, initial_value
from prototxt.schema.load import load_net
from prototxt.schema.messages import LayerParameter
from prototxt.text.parser import parse

pytestmark = pytest.mark.filterwarnings("ignore::prototxt.schema.decode.UnknownFieldWarning")
TWO = 'weight_filler { type: "gaussian" std: 2 } bias_filler { type: "uniform" min: 1 max: 2 }'
ONE = 'filler { type: "gaussian" }'
BOTH = 'filler { type: "gaussian" } bias_filler { type: "uniform" min: 1 max: 2 }'


def layer(kind: str, text: str = "", name: str = "n") -> LayerParameter:
    return load_net(parse(f'layer {{ name: "{name}" type: "{kind}" {text} }}'), strict=False).layer[0]


@pytest.mark.parametrize(
    ("kind", "text", "starts"),
    [
        ("Convolution", f"convolution_param {{ {TWO} }}", ["gaussian", "uniform"]),
        ("Deconvolution", f"convolution_param {{ {TWO} }}", ["gaussian", "uniform"]),
        ("DepthwiseConvolution", f"convolution_param {{ {TWO} }}", ["gaussian", "uniform"]),
        ("ConvolutionDepthwise", f"convolution_param {{ {TWO} }}", ["gaussian", "uniform"]),
        ("InnerProduct", f"inner_product_param {{ {TWO} }}", ["gaussian", "uniform"]),
        ("Embed", f"embed_param {{ {TWO} }}", ["gaussian", "uniform"]),
        ("Convolution", "", ["constant 0", "constant 0"]),
        ("Scale", "", ["constant 1", "constant 0"]),
        ("Scale", f"scale_param {{ {BOTH} }}", ["gaussian", "uniform"]),
        ("Scale", f'bottom: "a" bottom: "b" scale_param {{ {BOTH} }}', ["uniform"]),
        ("Bias", f"bias_param {{ {ONE} }}", ["gaussian"]),
        ("Bias", "", ["constant 0"]),
        ("PReLU", "", ["constant 0.25"]),
        ("PReLU", f"prelu_param {{ {ONE} }}", ["gaussian"]),
        ("BatchNorm", "", ["constant 0", "constant 0", "constant 0", "constant 1", "constant 0"]),
        ("WeightedSum", "", ["constant 1"]),
        ("WeightedSum", f"weighted_sum_param {{ {ONE} }}", ["gaussian"]),
        ("Gate", f"gate_param {{ {BOTH} }}", ["gaussian", "uniform"]),
        ("Parameter", "", ["constant 0"]),
    ],
)
def test_the_filler_of_each_blob(kind: str, text: str, starts: list[str]) -> None:
    assert [initial_text(layer(kind, text), index, 1) for index in range(len(starts))] == starts


@pytest.mark.parametrize("kind", ["LSTM", "RNN"])
def test_recurrent_layers_tell_weights_from_biases_by_their_axes(kind: str) -> None:
    item = layer(kind, f"recurrent_param {{ {TWO} }}")
    assert [initial_text(item, index, axes) for index, axes in enumerate((2, 1, 2))] == [
        "gaussian", "uniform", "gaussian"
    ]  # fmt: skip


@pytest.mark.parametrize(("index", "name", "value"), [(3, "scale_filler", 7), (4, "bias_filler", 8)])
def test_nvcaffes_scale_and_bias_of_batch_norm_have_fillers(index: int, name: str, value: int) -> None:
    item = layer("BatchNorm", f'batch_norm_param {{ {name} {{ type: "constant" value: {value} }} }}')
    expected = ["constant 0"] * 3 + ["constant 1", "constant 0"]
    expected[index] = f"constant {value}"
    assert [initial_text(item, one, 1) for one in range(5)] == expected


def test_other_types_are_refused() -> None:
    with pytest.raises(BuildError, match="layer 'n': how a new 'Unheard' layer starts is not known"):
        initial_filler(layer("Unheard"), 0, 1)


def test_values() -> None:
    item = layer("InnerProduct", f"inner_product_param {{ {TWO} }}")
    weights, bias = initial_value(item, 0, (200, 50), 1), initial_value(item, 1, (1000,), 1)
    assert (weights.dtype, weights.shape) == (np.float32, (200, 50))
    assert abs(weights.mean()) < 0.1
    assert weights.std() == pytest.approx(2, rel=0.05)
    assert 1 <= bias.min() < 1.1 < 1.9 < bias.max() <= 2
    np.testing.assert_array_equal(initial_value(layer("Scale"), 0, (2, 3), 0), np.ones((2, 3)))


def test_values_depend_on_seed_name_and_index_alone() -> None:
    text = 'inner_product_param { weight_filler { type: "gaussian" } bias_filler { type: "gaussian" } }'
    first = initial_value(layer("InnerProduct", text), 0, (50,), 1)
    np.testing.assert_array_equal(initial_value(layer("InnerProduct", text), 0, (50,), 1), first)
    others = [
        initial_value(layer("InnerProduct", text), 0, (50,), 2),
        initial_value(layer("InnerProduct", text), 1, (50,), 1),
        initial_value(layer("InnerProduct", text, "m"), 0, (50,), 1),
    ]
    for index, other in enumerate(others):
        assert not np.array_equal(other, first), index
    # The seed comes first: layer 1 of seed 0 and layer 0 of seed 1 differ.
    assert not np.array_equal(initial_value(layer("InnerProduct", text), 1, (50,), 0), first)
