"""BVLC's model zoo and public nets: Caffe's shapes and the published costs."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest

import prototxt
from prototxt.schema.messages import NetParameter
from prototxt.schema.params import param_count
from prototxt.shapes import infer
from prototxt.shapes.costs import layer_costs, net_cost, peak_activations

UNDECODABLE = {
    "MobileNet-SSD__MobileNetSSD_train_template.prototxt",  # a template with placeholders
    "caffe-googlenet-bn__deploy.prototxt",  # V1 and V2 syntax in one layer
    "net-archive__base_model.prototxt",  # a template with placeholders
    "net-archive__poolmean.prototxt",  # a missing quote
    "net-archive__yearbook_train_val.prototxt",  # a missing quote
    "netscope__fcn-16s.prototxt",  # a missing brace
}
NEEDS_STAGES = {"caffe__mnist_autoencoder.prototxt", "net-archive__s2vt.prototxt"}

LENET = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 1 dim: 28 dim: 28 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 20 kernel_size: 5 }}
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "a" type: "InnerProduct" bottom: "conv" top: "a" param { name: "w" } inner_product_param { num_output: 5}}
layer { name: "b" type: "InnerProduct" bottom: "conv" top: "b" param { name: "w" } inner_product_param { num_output: 5}}
"""


def load(path: Path, phase: str = "TEST") -> NetParameter:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return prototxt.filter_net(prototxt.load_net(path), phase=phase)


def test_models_have_caffes_shapes(reference: Path) -> None:
    folders = sorted(path.parent for path in reference.glob("models/*/meta.json"))
    assert len(folders) >= 16
    for folder in folders:
        meta = json.loads((folder / "meta.json").read_text())
        net = load(folder / "net.prototxt", meta["phase"])
        shapes = infer(net, meta["shapes"])
        recorded = {name: tuple(shape) for name, shape in meta["net"]["blobs"].items() if name in shapes.blobs}
        assert recorded == shapes.blobs, folder.name
        params = {
            layer.name: [list(s) for s in shape] for layer, shape in zip(net.layer, shapes.params, strict=True) if shape
        }
        assert params == dict(meta["params"]), folder.name


@pytest.mark.parametrize("phase", ["TRAIN", "TEST"])
def test_public_nets_infer(reference: Path, phase: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refused = {}
    paths = [
        path for path in sorted((reference / "corpus").iterdir()) if path.suffix != ".tsv" and "solver" not in path.name
    ]
    for path in paths:
        if path.name in UNDECODABLE | NEEDS_STAGES:
            continue
        try:
            net = load(path, phase)
            shapes = infer(net)
        except prototxt.PrototxtError as error:
            refused[path.name] = str(error)
            continue
        for layer, params in zip(net.layer, shapes.params, strict=True):
            assert param_count(layer.type, layer) in (None, len(params)), f"{path.name}: {layer.name} ({layer.type})"
    assert not refused, "\n".join(refused.values())


@pytest.mark.parametrize(
    ("path", "macs", "params"),
    [
        ("models/alexnet/net.prototxt", 724_406_816, 60_965_224),
        ("models/googlenet/net.prototxt", 1_582_671_872, 6_998_552),
        ("models/lenet/net.prototxt", 2_293_000, 431_080),
        ("corpus/deep-residual-networks__ResNet-50-deploy.prototxt", 3_857_973_248, 25_557_096),
        ("corpus/net-archive__VGG_ILSVRC_16_layers_deploy.prototxt", 15_470_264_320, 138_357_544),
    ],
)
def test_costs_are_the_published_ones(reference: Path, path: str, macs: int, params: int) -> None:
    net = load(reference / path)
    one = (1, *infer(net).tops[0][0][1:])
    cost = net_cost(net, infer(net, {net.layer[0].top[0]: one}))
    assert (cost.macs, cost.params) == (macs, params)


def test_costs_of_layers() -> None:
    net = prototxt.load_net(prototxt.parse(LENET))
    shapes = infer(net)
    costs = layer_costs(net, shapes)
    assert [cost.macs for cost in costs] == [0, 20 * 24 * 24 * 25, 0, 5 * 11520, 5 * 11520]
    assert [cost.params for cost in costs] == [0, 520, 0, 57605, 57605]
    assert [cost.activations for cost in costs] == [784, 11520, 0, 5, 5]
    assert net_cost(net, shapes).params == 520 + 57605 + 5
    assert peak_activations(net, shapes) == 784 + 11520


def test_costs_of_unknown_sizes_are_unknown() -> None:
    net = prototxt.load_net(prototxt.parse(LENET))
    shapes = infer(net, {"data": (None, 1, 28, 28)})
    cost = net_cost(net, shapes)
    assert (cost.macs, cost.params, cost.activations) == (None, 58130, None)
    assert peak_activations(net, shapes) is None
