"""How layers act together in Caffe: splits, in-place, sharing, losses, gradients that stop, state, phases, sizes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import prototxt
from fusion.layers.recurrent import reset
from fusion.nets import build as nets
from fusion.nets.graph import Net
from fusion.nets.weights import share_weights

IP = (
    'layer {{ name: "{0}" type: "InnerProduct" bottom: "{1}" top: "{0}" {3} inner_product_param {{ '
    'num_output: {2} weight_filler {{ type: "xavier" }} bias_term: {4} }} }}\n'
)


def source(*shapes: tuple[int, ...], tops: str = "xl") -> str:
    names = " ".join(f'top: "{top}"' for top in tops[: len(shapes)])
    sizes = " ".join("shape { " + " ".join(f"dim: {dim}" for dim in shape) + " }" for shape in shapes)
    return f'layer {{ name: "in" type: "Input" {names} input_param {{ {sizes} }} }}\n'


def ip(name: str, bottom: str, outputs: int, more: str = "", bias: str = "true") -> str:
    return IP.format(name, bottom, outputs, more, bias)


def layer(kind: str, bottom: str, top: str, more: str = "") -> str:
    return f'layer {{ name: "{kind}-{top}" type: "{kind}" bottom: "{bottom}" top: "{top}" {more} }}\n'


def build(text: str, phase: Any = "TRAIN") -> Net:
    return nets.build(prototxt.parse(text), phase, seed=0)


def test_a_blob_used_twice_is_split_and_its_gradients_add_up() -> None:
    net = build(
        source((2, 3))
        + layer("Power", "x", "a", "power_param { scale: 3 } loss_weight: 1")
        + layer("Power", "x", "b", "power_param { scale: 4 } loss_weight: 1")
    )
    x = torch.randn(2, 3).requires_grad_()
    nets.total_loss(net, net({"x": x})).backward()
    assert x.grad is not None
    assert bool((x.grad == 7).all())


def test_explicit_and_implicit_splits_are_the_same() -> None:
    tail = ip("p", "{0}", 2, "loss_weight: 1") + ip("q", "{1}", 2, "loss_weight: 1")
    split = 'layer { name: "s" type: "Split" bottom: "x" top: "a" top: "b" }\n'
    grads = []
    for text in (
        source((2, 3)) + split + tail.replace("{0}", "a").replace("{1}", "b"),
        source((2, 3)) + tail.replace("{0}", "x").replace("{1}", "x"),
    ):
        net, x = build(text), torch.ones(2, 3).requires_grad_()
        nets.total_loss(net, net({"x": x})).backward()
        grads.append(x.grad)
    torch.testing.assert_close(grads[0], grads[1])


def test_a_chain_in_place_rebinds_one_blob() -> None:
    net = build(
        source((2, 3))
        + ip("a", "x", 3)
        + layer("ReLU", "a", "a")
        + layer("Power", "a", "a", "power_param { scale: -1 }")
        + layer("ReLU", "a", "a", "relu_param { negative_slope: 0.5 } loss_weight: 1")
    )
    x = torch.randn(2, 3)
    weight, bias = nets.params(net)["a"]
    expected = -0.5 * F.linear(x, weight, bias).relu()
    torch.testing.assert_close(nets.blobs(net, {"x": x})["a"], expected)
    nets.total_loss(net, net({"x": x})).backward()
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, torch.autograd.grad(expected.sum(), weight)[0])


def test_a_branch_taken_before_an_in_place_layer_keeps_the_older_version() -> None:
    net = build(
        source((1, 2))
        + layer("Power", "x", "before", "power_param { scale: 1 }")
        + layer("ReLU", "x", "x")
        + layer("Power", "x", "after")
    )
    out = nets.blobs(net, {"x": torch.tensor([[-1.0, 2.0]])})
    assert out["before"].tolist() == [[-1, 2]]
    assert out["after"].tolist() == [[0, 2]]


def test_an_autoencoder_shares_its_weights_transposed() -> None:
    name = 'param { name: "w" }'
    decoder = ip("d", "e", 6, name, "false").replace("num_output: 6", "num_output: 6 transpose: true")
    loss = 'layer { name: "loss" type: "EuclideanLoss" bottom: "d" bottom: "x" top: "loss" }'
    net = build(source((5, 6)) + ip("e", "x", 4, name, "false") + decoder + loss)
    first, second = nets.params(net)["e"][0], nets.params(net)["d"][0]
    assert first is second
    assert first.shape == (4, 6)
    x = torch.randn(5, 6)
    out = nets.blobs(net, {"x": x})
    torch.testing.assert_close(out["d"], x @ first.T @ first)
    nets.total_loss(net, net({"x": x})).backward()
    twin = first.detach().clone().requires_grad_()
    ((x @ twin.T @ twin - x).square().sum() / 10).backward()
    torch.testing.assert_close(first.grad, twin.grad)
    assert len(nets.learnable(net)) == 1


@pytest.mark.parametrize("weight", [0.25, -2.0])
def test_loss_weight_counts_on_any_top(weight: float) -> None:
    net = build(
        source((3, 2))
        + 'layer { name: "s" type: "Slice" bottom: "x" top: "a" top: "b" slice_param { axis: 1 } '
        + f"loss_weight: 0 loss_weight: {weight} }}"
    )
    x = torch.randn(3, 2).requires_grad_()
    total = nets.total_loss(net, net({"x": x}))
    torch.testing.assert_close(total, weight * x[:, 1].sum())
    total.backward()
    assert x.grad is not None
    assert x.grad[0].tolist() == [0, weight]


def test_a_loss_of_weight_0_counts_not() -> None:
    text = source((3, 2), (3,)) + ip("a", "x", 2)
    text += 'layer { name: "l0" type: "SoftmaxWithLoss" bottom: "a" bottom: "l" top: "l0" loss_weight: 0 }'
    text += 'layer { name: "l1" type: "SoftmaxWithLoss" bottom: "a" bottom: "l" top: "l1" }'
    net = build(text)
    out = net({"x": torch.randn(3, 2), "l": torch.zeros(3)})
    assert set(out) == {"l0", "l1"}
    torch.testing.assert_close(nets.total_loss(net, out), out["l1"])


def test_propagate_down_stops_one_bottom_alone() -> None:
    text = source((2, 3)) + ip("a", "x", 2) + ip("b", "x", 2)
    text += 'layer { name: "e" type: "Eltwise" bottom: "a" bottom: "b" top: "e" loss_weight: 1 '
    text += "propagate_down: true propagate_down: false }"
    net = build(text)
    nets.total_loss(net, net({"x": torch.ones(2, 3)})).backward()
    assert nets.params(net)["a"][0].grad is not None
    assert nets.params(net)["b"][0].grad is None


def test_a_frozen_trunk_gets_no_gradient_and_backward_stops_there() -> None:
    frozen = "param { lr_mult: 0 } param { lr_mult: 0 }"
    net = build(source((2, 3)) + ip("a", "x", 4, frozen) + ip("b", "a", 2, "loss_weight: 1"))
    values = nets.blobs(net, {"x": torch.ones(2, 3)})
    assert not values["a"].requires_grad
    nets.total_loss(net, net({"x": torch.ones(2, 3)})).backward()
    assert all(p.grad is None for p in nets.params(net)["a"])
    assert all(p.grad is not None for p in nets.params(net)["b"])


def test_force_backward_reaches_the_data_past_a_frozen_trunk() -> None:
    frozen = "param { lr_mult: 0 } param { lr_mult: 0 }"
    text = source((2, 3)) + ip("a", "x", 4, frozen) + ip("b", "a", 2, "propagate_down: false loss_weight: 1")
    grads: list[Tensor | None] = []
    for force in ("", "force_backward: true\n"):
        net, x = build(force + text), torch.ones(2, 3).requires_grad_()
        nets.total_loss(net, net({"x": x})).backward()
        grads.append(x.grad)
    assert grads[0] is None
    assert grads[1] is not None


LSTM = (
    source((3, 2, 4), (3, 2), tops="xc")
    + 'layer { name: "h" type: "LSTM" bottom: "x" bottom: "c" top: "h" '
    + 'recurrent_param { num_output: 5 weight_filler { type: "xavier" } } }'
)


def test_recurrent_state_goes_on_between_calls_where_the_marker_says_so() -> None:
    net = build(LSTM, "TEST")
    x = torch.randn(6, 2, 4)
    start = torch.ones(6, 2)
    start[0] = 0
    with torch.no_grad():
        whole = net({"x": x, "c": start})["h"]
        reset(net)
        halves = [net({"x": x[i : i + 3], "c": start[i : i + 3]})["h"] for i in (0, 3)]
        torch.testing.assert_close(torch.cat(halves), whole)
        again = torch.zeros(3, 2)
        reset(net)
        fresh = net({"x": x[3:], "c": again})["h"]
        net({"x": x[:3], "c": start[:3]})
        torch.testing.assert_close(net({"x": x[3:], "c": again})["h"], fresh)


def test_recurrent_state_passes_no_gradient_between_calls() -> None:
    net = build(LSTM)
    x = torch.randn(3, 2, 4).requires_grad_()
    net({"x": x, "c": torch.ones(3, 2)})
    net({"x": torch.randn(3, 2, 4), "c": torch.ones(3, 2)})["h"].sum().backward()
    assert x.grad is None


def test_several_heads_learn_from_their_own_losses() -> None:
    text = source((4, 3), (4,)) + ip("trunk", "x", 5)
    for head, weight in (("a", 1.0), ("b", 0.5)):
        text += ip(head, "trunk", 2)
        text += f'layer {{ name: "loss-{head}" type: "SoftmaxWithLoss" bottom: "{head}" bottom: "l" top: "loss-{head}" '
        text += f"loss_weight: {weight} }}\n"
    net = build(text)
    out = net({"x": torch.randn(4, 3), "l": torch.tensor([0.0, 1, 1, 0])})
    assert list(out) == ["loss-a", "loss-b"]
    total = nets.total_loss(net, out)
    torch.testing.assert_close(total, out["loss-a"] + 0.5 * out["loss-b"])
    alone = torch.autograd.grad(out["loss-b"], nets.params(net)["b"][0], retain_graph=True)[0]
    total.backward()
    torch.testing.assert_close(nets.params(net)["b"][0].grad, 0.5 * alone)


PHASES = (
    source((4, 3), (4,))
    + ip("a", "x", 3)
    + layer("BatchNorm", "a", "n")
    + layer("Dropout", "n", "n")
    + ip("b", "n", 2)
    + 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "b" bottom: "l" top: "loss" }\n'
    + 'layer { name: "acc" type: "Accuracy" bottom: "b" bottom: "l" top: "acc" include { phase: TEST } }\n'
)


def test_nets_of_both_phases_share_weights_and_statistics() -> None:
    train, test = build(PHASES), build(PHASES, "TEST")
    share_weights(test, train)
    inputs = {"x": torch.randn(4, 3), "l": torch.zeros(4)}
    before = test(inputs)["loss"].detach()
    nets.total_loss(train, train(inputs)).backward()
    with torch.no_grad():
        for item in nets.learnable(train):
            if item.lr_mult and item.tensor.grad is not None:
                item.tensor.sub_(0.5 * item.tensor.grad)
    assert nets.params(test)["b"][0] is nets.params(train)["b"][0]
    assert float(nets.params(test)["BatchNorm-n"][2].detach()) == 1
    assert not torch.equal(test(inputs)["loss"].detach(), before)


@pytest.mark.parametrize(("batch", "height", "width"), [(1, 12, 12), (3, 12, 12), (2, 17, 23)])
def test_batch_and_image_size_change_where_no_layer_fixes_them(batch: int, height: int, width: int) -> None:
    text = source((1, 3, 12, 12))
    text += layer("Convolution", "x", "c", "convolution_param { num_output: 4 kernel_size: 3 pad: 1 }")
    text += layer("Pooling", "c", "p", "pooling_param { kernel_size: 3 stride: 2 }")
    text += layer("Pooling", "p", "g", "pooling_param { pool: AVE global_pooling: true }")
    text += ip("f", "g", 2)
    out = nets.blobs(build(text, "TEST"), {"x": torch.randn(batch, 3, height, width)})
    assert out["p"].shape == (batch, 4, -(-(height - 3) // 2) + 1, -(-(width - 3) // 2) + 1)
    assert out["f"].shape == (batch, 2)


def test_a_size_that_does_not_fit_names_the_layer() -> None:
    net = build(source((1, 3, 4, 4)) + ip("f", "x", 2), "TEST")
    with pytest.raises(nets.FusionError, match="layer 'f'"):
        net({"x": torch.zeros(1, 3, 5, 5)})
