"""Weights into nets and out: by name, complete or not at all, telling what found no place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import prototxt
from fusion.errors import WeightsMismatch
from fusion.nets import build as nets
from fusion.nets.graph import Net
from fusion.nets.weights import load_weights, save_weights, share_weights

NET = """
name: "small"
layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "a/ip" type: "InnerProduct" bottom: "x" top: "ip" inner_product_param { num_output: 4
  weight_filler { type: "xavier" } } }
layer { name: "bn" type: "BatchNorm" bottom: "ip" top: "ip" }
layer { name: "scale" type: "Scale" bottom: "ip" top: "ip" scale_param { bias_term: true } }
"""


def build(seed: int = 0, phase: str = "TEST", text: str = NET) -> Net:
    return nets.build(prototxt.parse(text), phase, seed=seed)  # type: ignore[arg-type]


def arrays(net: Net) -> dict[str, list[np.ndarray]]:
    return {name: [t.detach().numpy().copy() for t in tensors] for name, tensors in nets.params(net).items()}


@pytest.mark.parametrize("ending", ["caffemodel", "caffemodel.h5", "safetensors"])
@pytest.mark.filterwarnings("ignore:.*Caffe")
def test_what_is_saved_is_loaded(ending: str, tmp_path: Path) -> None:
    net, twin = build(1), build(2)
    nets.params(net)["bn"][0].add_(3)
    save_weights(net, tmp_path / f"w.{ending}")
    report = load_weights(twin, tmp_path / f"w.{ending}", strict=True)
    assert report.loaded == ("a/ip", "bn", "scale")
    assert not report.missing
    assert not report.unused
    for name, tensors in nets.params(net).items():
        assert all(torch.equal(a, b) for a, b in zip(tensors, nets.params(twin)[name], strict=True))


def test_missing_and_unused_layers_are_told() -> None:
    net = build()
    weights = arrays(net)
    weights["other"] = weights.pop("scale")
    report = load_weights(net, weights)
    assert (report.missing, report.unused) == (("scale",), ("other",))
    assert str(report) == "2 layers loaded; missing: scale; unused: other"
    with pytest.raises(WeightsMismatch, match="'scale'"):
        load_weights(net, weights, strict=True)


def test_everything_that_does_not_fit_is_told_and_nothing_is_copied() -> None:
    net = build(1)
    before, wrong = arrays(net), arrays(build(2))
    wrong["a/ip"][0] = np.zeros((4, 5), np.float32)
    wrong["scale"].pop()
    with pytest.raises(WeightsMismatch) as caught:
        load_weights(net, wrong)
    message = str(caught.value)
    assert "layer 'a/ip': blob 0 has the shape (4, 3), given (4, 5)" in message
    assert "layer 'scale': needs 2 blobs, given 1" in message
    for name, tensors in arrays(net).items():
        assert all(np.array_equal(a, b) for a, b in zip(tensors, before[name], strict=True))


def test_weights_of_another_net_are_refused() -> None:
    with pytest.raises(WeightsMismatch, match="none of its 1 layers"):
        load_weights(build(), {"conv9": [np.zeros(3, np.float32)]})


def test_old_four_dimensional_shapes_fit() -> None:
    net = build()
    weights = arrays(net)
    weights["a/ip"] = [np.full((1, 1, 4, 3), 2.0, np.float32), np.full((1, 1, 1, 4), 3.0, np.float32)]
    load_weights(net, weights)
    assert float(nets.params(net)["a/ip"][0].detach().sum()) == 24


def test_recorded_files_load(golden: Path) -> None:
    folder = golden / "layers" / "diamond"
    net = nets.build(folder / "net.prototxt", "TRAIN", seed=0)
    report = load_weights(net, folder / "weights.caffemodel", strict=True)
    with np.load(folder / "io.npz") as file:
        for name in report.loaded:
            for index, tensor in enumerate(nets.params(net)[name]):
                np.testing.assert_array_equal(tensor.detach().numpy(), file[f"param:{name}:{index}"])


def test_weights_load_into_float64() -> None:
    net = build().double()
    load_weights(net, arrays(build(3)))
    assert nets.params(net)["a/ip"][0].dtype == torch.float64
    np.testing.assert_array_equal(nets.params(net)["a/ip"][0].detach().float().numpy(), arrays(build(3))["a/ip"][0])


def test_nets_of_two_phases_share_their_weights() -> None:
    train, test = build(1, "TRAIN"), build(2, "TEST")
    share_weights(test, train)
    train({"x": torch.randn(2, 3)})
    assert float(nets.params(test)["bn"][2]) == 1
    for name, tensors in nets.params(train).items():
        assert all(a is b for a, b in zip(tensors, nets.params(test)[name], strict=True))


def test_sharing_refuses_other_shapes() -> None:
    with pytest.raises(WeightsMismatch, match="'a/ip'"):
        share_weights(build(), build(text=NET.replace("num_output: 4", "num_output: 5")))


def test_published_lenets_load(reference: Path) -> None:
    folder = reference / "tutorial"
    net = nets.build(folder / "lenet_odd_train_val.prototxt", shapes={"data": (1, 1, 28, 28), "label": (1,)}, seed=0)
    report = load_weights(net, folder / "mnist_lenet_odd_iter_30000.caffemodel")
    assert not report.missing


@pytest.mark.parametrize(
    ("case", "message"), [("blob_count_mismatch", "needs 1 blobs, given 2"), ("shape_mismatch", "blob 0 has the shape")]
)
def test_what_caffe_refuses_is_refused(case: str, message: str, golden: Path) -> None:
    folder = golden / "errors" / "weights"
    with pytest.raises(WeightsMismatch, match=f"src.caffemodel: layer 'ip': {message}"):
        load_weights(nets.build(folder / f"{case}.prototxt", seed=0), folder / "src.caffemodel")
