"""Blobs that share memory in Caffe: values and gradients after an in-place layer on one of them."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor

import prototxt
from fusion.composition.branches import ancestors
from fusion.composition.net_text import read_net
from fusion.errors import BuildError
from fusion.nets import build as nets
from fusion.nets.graph import Net
from fusion.nets.weights import save_weights
from fusion.surgery import fuse_horizontally
from fusion.surgery.fold_batch_norm import fold
from prototxt.errors import PrototxtError

INPUT = 'layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 2 dim: 3 } } }\n'
SAME = 'layer { name: "same" type: "Power" bottom: "x" top: "a" }\n'
RELU = 'layer { name: "relu" type: "ReLU" bottom: "y" top: "y" }\n'
AFTER = 'layer { name: "after" type: "Power" bottom: "a" top: "z" power_param { scale: 2 } }\n'
SHARING = {
    "Flatten": 'layer { name: "share" type: "Flatten" bottom: "a" top: "y" }\n',
    "Reshape": 'layer { name: "share" type: "Reshape" bottom: "a" top: "y" '
    "reshape_param { shape { dim: 3 dim: -1 } } }\n",
    "Split": 'layer { name: "share" type: "Split" bottom: "a" top: "y" top: "free" }\n',
    "Concat": 'layer { name: "share" type: "Concat" bottom: "a" top: "y" }\n',
    "Slice": 'layer { name: "share" type: "Slice" bottom: "a" top: "y" }\n',
}


def build(text: str) -> Net:
    return nets.build(prototxt.parse(text), "TRAIN", seed=0)


def pixels() -> Tensor:
    return torch.tensor([[[-1.0, 2, -3], [4, -5, 6]], [[7, -8, 9], [-10, 11, -12]]])


@pytest.mark.parametrize("kind", SHARING)
def test_a_later_reader_of_the_bottom_sees_what_is_written_in_place_into_the_top(kind: str) -> None:
    found = build(INPUT + SAME + SHARING[kind] + RELU + AFTER)({"x": pixels()})
    assert torch.equal(found["z"], 2 * pixels().relu())
    assert torch.equal(found["y"].flatten(), pixels().relu().flatten())


def test_an_earlier_reader_sees_the_value_before_and_a_copy_shares_nothing() -> None:
    early = 'layer { name: "early" type: "Power" bottom: "a" top: "e" power_param { scale: 3 } }\n'
    found = build(INPUT + SAME + SHARING["Flatten"] + early + RELU + AFTER)({"x": pixels()})
    assert torch.equal(found["e"], 3 * pixels())
    copied = 'layer { name: "share" type: "Power" bottom: "a" top: "y" }\n'
    assert torch.equal(build(INPUT + SAME + copied + RELU + AFTER)({"x": pixels()})["z"], 2 * pixels())
    two = 'layer { name: "share" type: "Concat" bottom: "a" bottom: "a" top: "y" }\n'
    assert torch.equal(build(INPUT + SAME + two + RELU + AFTER)({"x": pixels()})["z"], 2 * pixels())
    half = 'layer { name: "share" type: "Slice" bottom: "a" top: "y" top: "rest" }\n'
    assert torch.equal(build(INPUT + SAME + half + RELU + AFTER)({"x": pixels()})["z"], 2 * pixels())


def test_the_bottom_changed_in_place_changes_the_top() -> None:
    """Caffe itself refuses the split that this needs."""
    text = 'layer { name: "relu" type: "ReLU" bottom: "a" top: "a" }\n' + AFTER.replace('"a"', '"y"')
    found = build(INPUT + SAME + SHARING["Flatten"] + text)({"x": pixels()})
    assert torch.equal(found["z"], 2 * pixels().relu().flatten(1))


def test_the_change_reaches_every_blob_of_a_chain_the_inputs_and_the_outputs() -> None:
    chain = """layer { name: "f" type: "Flatten" bottom: "x" top: "f" }
    layer { name: "free" type: "Flatten" bottom: "x" top: "free" }
    layer { name: "y" type: "Reshape" bottom: "f" top: "y" reshape_param { shape { dim: 0 dim: 3 dim: 2 } } }
    layer { name: "relu" type: "ReLU" bottom: "y" top: "y" }
    layer { name: "twice" type: "Power" bottom: "y" top: "y" power_param { scale: 2 } }
    """
    net = build(chain.replace("layer", INPUT + "layer", 1) + AFTER.replace('"a"', '"x"'))
    changed = 2 * pixels().relu()
    found = net({"x": pixels()})
    assert list(found) == ["y", "free", "z"], "x and f are read, so they are no outputs"
    assert torch.equal(found["free"], changed.flatten(1))
    assert torch.equal(found["y"], changed.view(2, 3, 2))
    assert torch.equal(found["z"], 2 * changed)
    blobs = nets.blobs(net, {"x": pixels()})
    assert torch.equal(blobs["x"], changed)
    assert torch.equal(blobs["f"], changed.flatten(1))


def test_gradients_go_as_through_caffes_splits() -> None:
    """The later reader's goes to the bottom as if nothing had been changed; that of the in-place layer as always."""
    weights = " loss_weight: 1 }\n"
    net = build(
        INPUT
        + SAME
        + SHARING["Flatten"]
        + RELU
        + AFTER.replace(" }\n", weights)
        + """
    layer { name: "end" type: "Power" bottom: "y" top: "end" power_param { scale: 10 } loss_weight: 1 }"""
    )
    x = pixels().requires_grad_()
    nets.total_loss(net, net({"x": x})).backward()
    assert x.grad is not None
    assert torch.equal(x.grad, 2 + 10 * (pixels() > 0).float())


def test_such_nets_are_copied_and_pickled() -> None:
    net = build(INPUT + SAME + SHARING["Flatten"] + RELU + AFTER)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(other({"x": pixels()})["z"], net({"x": pixels()})["z"])


NET = """name: "net"
layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 1 dim: 4 } } }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "a" inner_product_param { num_output: 2 } }
layer { name: "flat" type: "Flatten" bottom: "a" top: "y" }
layer { name: "relu" type: "ReLU" bottom: "y" top: "y" }
layer { name: "other" type: "Power" bottom: "x" top: "other" }
layer { name: "after" type: "Power" bottom: "a" top: "z" }
"""


def test_a_branch_holds_the_layer_that_changes_its_blob_through_another() -> None:
    assert ancestors(read_net(prototxt.parse(NET)), ("z",)).layers == {1, 2, 3, 5}
    assert ancestors(read_net(prototxt.parse(NET)), ("other",)).layers == {4}


def test_surgery_that_moves_layers_refuses() -> None:
    with pytest.raises(PrototxtError, match="'a' changes as well: folding cannot keep that"):
        fold(prototxt.parse(NET), {})
    with pytest.raises(PrototxtError, match="fusing horizontally cannot keep that"):
        fuse_horizontally(prototxt.parse(NET), {}, ["p", "q"])


def test_weights_are_saved_without_such_calls_and_references_are_checked_across_them(tmp_path: Path) -> None:
    learns = """layer { name: "ip" type: "InnerProduct" bottom: "x" top: "a"
    inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
    """
    loss = """layer { name: "kd" type: "KDLoss" bottom: "a" bottom: "fixed" bottom: "label" top: "kd" }
    """
    fixed = """layer { name: "fixed" type: "Input" top: "fixed" top: "label"
    input_param { shape { dim: 2 dim: 3 } shape { dim: 2 } } }
    """
    net = build(INPUT + fixed + learns + SHARING["Flatten"] + RELU + loss)
    save_weights(net, tmp_path / "net.caffemodel")
    assert b"SharedMemory" not in (tmp_path / "net.caffemodel").read_bytes()
    swapped = loss.replace('"a" bottom: "fixed"', '"fixed" bottom: "a"')
    with pytest.raises(BuildError, match="kd"):
        build(INPUT + fixed + learns + SHARING["Flatten"] + RELU + swapped)
