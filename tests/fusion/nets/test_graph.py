"""Parts of a net: names of submodules, sub-nets with values given or taken, and what is said where one fails."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prototxt
from fusion.errors import FusionError
from fusion.nets import build as nets
from fusion.nets.graph import Net, needed_inputs, run, submodule_paths, with_outputs
from fusion.nets.weights import dead_sums

CHAIN = """name: "chain"
layer { name: "in" type: "Input" top: "x" top: "y" input_param { shape { dim: 2 } shape { dim: 2 } } }
layer { name: "a" type: "Power" bottom: "x" top: "a" power_param { scale: 2 } }
layer { name: "b" type: "Power" bottom: "a" top: "b" power_param { shift: 1 } }
layer { name: "s" type: "Slice" bottom: "b" top: "s1" top: "s2" slice_param { axis: 0 } }
layer { name: "c" type: "Eltwise" bottom: "s1" bottom: "s2" top: "c" }
layer { name: "d" type: "Power" bottom: "y" top: "d" power_param { scale: 3 } }
"""
X, Y = torch.tensor([1.0, 2.0]), torch.tensor([5.0, 6.0])


def chain() -> Net:
    return nets.build(prototxt.parse(CHAIN))


def names(net: Net) -> list[str]:
    return [call.name for call in net.plan.calls]


@pytest.mark.parametrize(
    ("outputs", "given", "calls", "inputs"),
    [
        (["b"], [], ["a", "b"], ["x"]),
        (["c"], [], ["a", "b", "s", "c"], ["x"]),
        (["c"], ["b"], ["s", "c"], ["b"]),
        (["c"], ["a"], ["b", "s", "c"], ["a"]),
        (["c"], ["s1", "s2"], ["c"], ["s1", "s2"]),
        (["c"], ["s1"], ["a", "b", "s", "c"], ["x", "s1"]),
        (["c", "d"], ["b"], ["s", "c", "d"], ["y", "b"]),
        (["d"], ["b"], ["d"], ["y"]),
        (["x"], [], [], ["x"]),
        (["b"], ["x"], ["a", "b"], ["x"]),
    ],
)
def test_a_part_has_the_calls_that_its_outputs_need(
    outputs: list[str], given: list[str], calls: list[str], inputs: list[str]
) -> None:
    net = chain()
    values = {**run(net, {"x": X, "y": Y})}
    part = with_outputs(net, {name: name for name in outputs}, given)
    assert (names(part), [key for key, _ in part.plan.inputs]) == (calls, inputs)
    found = part({key: values[value] for key, value in part.plan.inputs})
    assert {key: tensor.tolist() for key, tensor in found.items()} == {key: values[key].tolist() for key in outputs}


def test_inputs_that_nobody_reads_are_not_needed() -> None:
    net = chain()
    assert needed_inputs(net.plan) == ("x", "y")
    part = with_outputs(net, {"b": "b"})
    assert needed_inputs(part.plan) == ("x",)
    with pytest.raises(FusionError, match="layer 'd' needs the input 'y'"):
        run(net, {"x": X})
    with pytest.raises(FusionError, match="net 'chain' needs the inputs 'x', 'y'") as caught:
        net({})
    assert caught.value.hint == "it was given none"


class Failing(nn.Module):
    """Fails in a way of its own."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def forward(self, x: Tensor) -> Tensor:
        raise self.error


@pytest.mark.parametrize(
    ("error", "kind"),
    [(KeyError("own"), KeyError), (RuntimeError("size"), FusionError), (IndexError("size"), FusionError),
     (ValueError("size"), FusionError), (torch.OutOfMemoryError("size"), torch.OutOfMemoryError),
     (TypeError("size"), TypeError)],
    ids=str,
)  # fmt: skip
def test_errors_of_layers_name_them(error: Exception, kind: type[Exception]) -> None:
    net = chain()
    net.set_submodule("b", Failing(error))
    with pytest.raises(kind) as caught:
        net({"x": X, "y": Y})
    assert type(caught.value) is kind
    if kind is FusionError:
        assert "layer 'b' (Power) fails on 'a': size" in str(caught.value)


@pytest.mark.parametrize(
    ("layers", "paths"),
    [
        (["conv1", "odd/conv1"], ["conv1", "odd.conv1"]),
        (["a", "a/b"], ["a_", "a.b"]),
        (["a", "a", "a"], ["a", "a_", "a_2"]),
        (["1/x-y", "class", "forward", "plan"], ["_1.x_y", "class_", "forward_", "plan_"]),
        (["", ""], ["power", "power_"]),
        (["é"], ["_"]),
        (["a//b"], ["a._.b"]),
        (["a_", "a", "a/b"], ["a_", "a_2", "a.b"]),
    ],
)
def test_paths_of_submodules(layers: list[str], paths: list[str]) -> None:
    assert submodule_paths([(name, "Power") for name in layers]) == paths


SUMS = """
layer { name: "in" type: "Input" top: "x" top: "y" input_param { shape { dim: 2 } shape { dim: 2 } } }
layer { name: "sum" type: "WeightedSum" bottom: "x" bottom: "y" top: "s" weighted_sum_param { NORM } }
"""


@pytest.mark.parametrize(
    ("norm", "weights", "dead"),
    [("", [1, 1], []), ("", [-1, 1], []), ("", [0, 0], ["sum"]), ("", [-1, -2], ["sum"]),
     ("normalization: SOFTMAX", [-1, -2], [])],
)  # fmt: skip
def test_a_sum_is_dead_where_no_share_is_left(norm: str, weights: list[float], dead: list[str]) -> None:
    net = nets.build(prototxt.parse(SUMS.replace("NORM", norm)))
    with torch.no_grad():
        nets.params(net)["sum"][0].copy_(torch.tensor(weights))
    assert dead_sums(net) == dead


LEARNING = """
layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "a" type: "InnerProduct" bottom: "x" top: "a" inner_product_param { num_output: 3 } A }
layer { name: "bn" type: "BatchNorm" bottom: "a" top: "bn" }
layer { name: "b" type: "InnerProduct" bottom: "bn" top: "b" inner_product_param { num_output: 3 } }
"""


@pytest.mark.parametrize(
    ("params", "frozen", "rates"),
    [
        ("", [], [(1, 1), (1, 1)]),
        ("param { lr_mult: 0 } param { lr_mult: 0 }", ["a"], [(0, 1), (0, 1)]),
        ("param { lr_mult: 0 }", [], [(0, 1), (1, 1)]),
        ("param { lr_mult: 0 decay_mult: 3 } param { lr_mult: 2 decay_mult: 0 }", [], [(0, 3), (2, 0)]),
    ],
)
def test_what_learns_and_at_which_rates(params: str, frozen: list[str], rates: list[Any]) -> None:
    net = nets.build(prototxt.parse(LEARNING.replace("A }", f"{params} }}")), "TRAIN")
    assert nets.frozen_layers(net) == frozen
    found = [(each.lr_mult, each.decay_mult) for each in nets.learnable(net)]
    assert found == [*rates, (0, 1), (0, 1), (0, 1), (1, 1), (1, 1)]
    assert [p.requires_grad for p in net.get_submodule("a").parameters()] == [lr != 0 for lr, _ in rates]


def test_a_loss_is_the_weighted_sum_of_its_tops() -> None:
    text = CHAIN.replace('top: "d"', 'top: "d" loss_weight: 0.5').replace('top: "c" }', 'top: "c" loss_weight: 1 }')
    net = nets.build(prototxt.parse(text))
    assert nets.loss_weights(net) == {"c": 1.0, "d": 0.5}
    out = net({"x": X, "y": Y})
    assert nets.total_loss(net, out).item() == 3 + 5 + 0.5 * (15 + 18)
    with pytest.raises(FusionError, match="net 'chain' has no loss"):
        nets.total_loss(chain(), out)
