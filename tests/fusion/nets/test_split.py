"""The split of a net: the halves together are the net, and the trunk holds all that is frozen and steady."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

import prototxt
from fusion.nets import build as nets
from fusion.nets.graph import Net
from fusion.nets.split import TrunkAndHead, split_trunk

FROZEN = "param { lr_mult: 0 } param { lr_mult: 0 }"
DATA = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 4 dim: 2 dim: 6 dim: 6 } } }
layer { name: "label" type: "Input" top: "label" input_param { shape { dim: 4 } } }
"""


def branch(name: str, extra: str = "", features: str = "") -> str:
    """A frozen branch with in-place layers and a classifier of its own, `name/logits`."""
    return f"""
layer {{ name: "{name}/conv" type: "Convolution" bottom: "data" top: "{name}/conv" {FROZEN}
  convolution_param {{ num_output: 3 kernel_size: 3 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "{name}/bn" type: "BatchNorm" bottom: "{name}/conv" top: "{name}/conv"
  batch_norm_param {{ use_global_stats: true }} }}
layer {{ name: "{name}/relu" type: "ReLU" bottom: "{name}/conv" top: "{name}/conv" }}
{extra}
layer {{ name: "{name}/ip" type: "InnerProduct" bottom: "{features or name + "/conv"}" top: "{name}/ip" {FROZEN}
  inner_product_param {{ num_output: 5 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "{name}/logits" type: "InnerProduct" bottom: "{name}/ip" top: "{name}/logits" {FROZEN}
  inner_product_param {{ num_output: 3 weight_filler {{ type: "xavier" }} }} }}
"""


HEAD = """
layer { name: "cat" type: "Concat" bottom: "odd/ip" bottom: "even/ip" top: "cat" }
layer { name: "drop" type: "Dropout" bottom: "cat" top: "cat" dropout_param { dropout_ratio: 0 } }
layer { name: "fc" type: "InnerProduct" bottom: "cat" top: "fc"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }
layer { name: "keep" type: "EuclideanLoss" bottom: "fc" bottom: "odd/logits" top: "keep" loss_weight: 0.1 }
"""
NET = DATA + branch("odd") + branch("even") + HEAD


def build(text: str, phase: str = "TRAIN") -> Net:
    net = nets.build(prototxt.parse(text), phase, seed=0)  # type: ignore[arg-type]
    for name, tensors in nets.params(net).items():
        if name.endswith("bn"):
            tensors[1].fill_(2)
            tensors[2].fill_(1)
    return net


def inputs() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {"data": torch.randn(4, 2, 6, 6, generator=generator), "label": torch.tensor([0, 1, 2, 1])}


def halves(net: Net) -> TrunkAndHead:
    found = split_trunk(net)
    assert found is not None
    return found


def names(net: Net) -> list[str]:
    return [call.name for call in net.plan.calls]


def test_the_trunk_ends_where_layers_learn() -> None:
    found = halves(build(NET))
    assert names(found.head) == ["fc", "loss", "keep"]
    assert set(found.boundary) == {"cat", "odd/logits"}
    assert [key for key, _ in found.trunk.plan.inputs] == ["data"]
    assert {key for key, _ in found.head.plan.inputs} == {"cat", "odd/logits", "label"}


def test_an_unused_reference_is_a_side_output_of_the_trunk() -> None:
    found = halves(build(NET))
    assert set(found.trunk(inputs())) == {"cat", "odd/logits", "even/logits"}
    assert set(found.head.plan.outputs) == {("loss", "loss"), ("keep", "keep")}


def test_trunk_and_head_give_the_net_s_numbers_and_gradients() -> None:
    net = build(NET)
    twin = halves(copy.deepcopy(net))
    whole = net(inputs())
    nets.total_loss(net, whole).backward()
    with torch.no_grad():
        features = twin.trunk(inputs())
    parts = twin.head({**inputs(), **features})
    nets.total_loss(twin.head, parts).backward()
    for key, tensor in whole.items():
        assert torch.equal(tensor, {**features, **parts}[key]), key
    for ours, theirs in zip(net.fc.parameters(), twin.head.fc.parameters(), strict=True):  # type: ignore[union-attr]
        assert torch.equal(ours.grad, theirs.grad)  # type: ignore[arg-type]


def test_the_head_trains_the_net_s_own_parameters() -> None:
    net = build(NET)
    found = halves(net)
    assert found.head.fc.weight is net.fc.weight  # type: ignore[union-attr]
    assert [item.layer for item in nets.learnable(found.head)] == ["fc", "fc"]


def test_training_leaves_the_trunk_bit_identical() -> None:
    net = build(NET)
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        nets.total_loss(net, net(inputs())).backward()
        optimizer.step()
    changed = {key for key, tensor in net.state_dict().items() if not torch.equal(tensor, before[key])}
    assert changed == {"fc.weight", "fc.bias"}


@pytest.mark.parametrize(
    ("layer", "stays"),
    [
        ('type: "Dropout"', False),
        ('type: "Dropout" dropout_param { dropout_ratio: 0 }', True),
        ('type: "BatchNorm"', False),
        ('type: "BatchNorm" batch_norm_param { use_global_stats: true }', True),
        ('type: "Scale"', False),
        ('type: "Scale" param { lr_mult: 0 }', True),
        ('type: "Scale" param { lr_mult: 0 } scale_param { axis: 0 }', False),
        ('type: "Softmax" softmax_param { axis: 0 }', False),
        ('type: "Pooling" pooling_param { pool: MAX kernel_size: 1 }', True),
        ('type: "LRN"', True),
        ('type: "Reshape" reshape_param { shape { dim: 0 dim: -1 dim: 2 dim: 2 } }', True),
        ('type: "Reshape" reshape_param { shape { dim: 4 dim: -1 dim: 2 dim: 2 } }', False),
    ],
)
def test_what_is_random_moving_learning_or_mixes_samples_stops_the_trunk(layer: str, stays: bool) -> None:
    extra = f'layer {{ name: "x" bottom: "odd/conv" top: "x" {layer} }}'
    found = halves(build(DATA + branch("odd", extra, "x") + branch("even") + HEAD))
    assert ("x" in names(found.trunk)) == stays
    assert ("odd/ip" in names(found.trunk)) == stays
    assert "even/ip" in names(found.trunk)


def test_in_test_the_trunk_is_as_large() -> None:
    extra = 'layer { name: "x" bottom: "odd/conv" top: "odd/conv" type: "Dropout" }'
    assert "x" in names(halves(build(DATA + branch("odd", extra) + branch("even") + HEAD, "TEST")).trunk)


def test_versions_of_one_blob_on_the_boundary_have_keys_of_their_own() -> None:
    text = (
        DATA
        + branch("odd")
        + (
            'layer { name: "e" type: "InnerProduct" bottom: "odd/conv" top: "e" inner_product_param { num_output: 2 } }'
            'layer { name: "late" type: "ReLU" bottom: "odd/conv" top: "odd/conv" relu_param { negative_slope: 2 } }'
            'layer { name: "p" type: "InnerProduct" bottom: "odd/conv" top: "p" inner_product_param { num_output: 2 } }'
            'layer { name: "in place" type: "Power" bottom: "data" top: "data" power_param { shift: 1 } }'
            'layer { name: "q" type: "InnerProduct" bottom: "data" top: "q" inner_product_param { num_output: 2 } }'
        )
    )
    net = build(text)
    found = halves(net)
    assert len(set(found.boundary)) == 3
    assert not set(found.boundary) & set(inputs())
    features = found.trunk(inputs())
    for key, tensor in net(inputs()).items():
        assert torch.equal(tensor, {**features, **found.head({**inputs(), **features})}[key])


def test_a_net_without_frozen_layers_has_no_trunk() -> None:
    assert split_trunk(build(NET.replace("lr_mult: 0", "lr_mult: 1"))) is None


def test_a_wholly_frozen_net_has_a_head_for_its_losses() -> None:
    text = (
        DATA
        + branch("odd")
        + 'layer { name: "l" type: "SoftmaxWithLoss" bottom: "odd/logits" bottom: "label" top: "l" }'
    )
    found = halves(build(text))
    assert found.boundary == ("odd/logits",)
    assert names(found.head) == ["l"]


def test_halves_can_be_copied() -> None:
    found = copy.deepcopy(halves(build(NET)))
    assert set(found.head({**inputs(), **found.trunk(inputs())})) == {"loss", "keep"}
