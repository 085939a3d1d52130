"""Nets of torchvision by both exporters of torch at their default opset, converted and fused; weights seeded."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from fusion.composition import Source, compose
from fusion.export import to_onnx, verify_onnx
from fusion.merge.merge import apply_merge, plan_merge
from fusion.nets.build import build, params
from fusion.nets.graph import Net
from fusion.nets.weights import load_weights, save_weights
from fusion.onnx.graphs import load_graph, support
from fusion.onnx.runtime import run_file
from fusion.onnx.to_torch import OnnxNet
from fusion.verification import Feed, verify_branches
from fusion.verification.comparison import compare_arrays
from prototxt.schema.load import load_net

pytestmark = pytest.mark.slow
NETS = ("resnet18", "mobilenet_v2", "efficientnet_b0", "squeezenet1_1", "densenet121")
SIZE = 224


def write(name: str, path: str, *, dynamo: bool) -> None:
    """Export the net with seeded weights, its statistics those of noise, so that values stay in range."""
    models = pytest.importorskip("torchvision").models
    if dynamo:
        pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    net = getattr(models, name)(weights=None).train()
    if name == "vit_b_32":
        torch.nn.init.normal_(net.heads.head.weight, std=0.05)  # torchvision starts with zeros
    with torch.no_grad():
        for _ in range(2):
            net(torch.randn(4, 3, SIZE, SIZE))
    with warnings.catch_warnings():  # with gradients, without which torch's attention is one operator
        warnings.simplefilter("ignore")
        torch.onnx.export(net.eval(), (torch.zeros(1, 3, SIZE, SIZE),), path, dynamo=dynamo, verbose=False)


@pytest.mark.parametrize("dynamo", [False, True], ids=["torchscript", "dynamo"])
@pytest.mark.parametrize("name", [*NETS, "vit_b_32"])
def test_nets_of_torchvision(name: str, dynamo: bool, tmp_path: Path) -> None:
    path = str(tmp_path / f"{name}.onnx")
    write(name, path, dynamo=dynamo)
    graph = load_graph(path)
    assert support(graph).unsupported == ()
    assert graph.batch is None
    x = np.random.default_rng(0).standard_normal((3, 3, SIZE, SIZE)).astype(np.float32)
    with torch.no_grad():
        found = OnnxNet(graph, frozen=True)(torch.from_numpy(x)).numpy()
    expected = run_file(path, graph.outputs, {next(iter(graph.inputs)): x})[graph.outputs[0]]
    compared = compare_arrays(name, "scores", expected, found)
    print(f"{name} {'dynamo' if dynamo else 'torchscript'}: {compared.relative:.1e}")
    assert compared.relative <= 1e-5


def settle(net: Net) -> None:
    """Weights that keep values in range, seeded: the description has no fillers."""
    draw = torch.Generator().manual_seed(2)
    types = {call.name: call.type for call in net.plan.calls}
    for name, tensors in params(net).items():
        if types[name] in ("Convolution", "InnerProduct"):
            tensors[0].data.normal_(0, (1 / tensors[0][0].numel()) ** 0.5, generator=draw)
        elif types[name] == "BatchNorm":
            for tensor, value in zip(tensors, (0.1, 1.0, 1.0), strict=True):
                tensor.data.fill_(value)
        elif types[name] == "Scale":
            tensors[0].data.uniform_(0.5, 1, generator=draw)


@pytest.mark.filterwarnings("ignore::prototxt.schema.decode.UnknownFieldWarning")
@pytest.mark.parametrize("name", NETS)
def test_densenet_of_caffe_with_an_onnx_net(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    described = next((reference / "corpus").glob("*DenseNet_201*.prototxt"), None)
    if described is None:
        pytest.skip("the corpus has no DenseNet")
    write(name, "net.onnx", dynamo=False)
    caffe = build(described, shapes={"data": (2, 3, SIZE, SIZE)}, seed=1)
    settle(caffe)
    save_weights(caffe, "caffe.caffemodel")
    sources = [Source("a", described), Source("b", "net.onnx")]
    compose(sources, num_output=10, train_list="t", val_list="v", input_shape=(3, SIZE, SIZE)).write("fused")
    apply_merge(plan_merge(load_net("fused/deploy.prototxt"), {"a": "caffe.caffemodel"}), "init.caffemodel")
    found = verify_branches(
        "fused/deploy.prototxt",
        "init.caffemodel",
        {"a": (described, "caffe.caffemodel"), "b": "net.onnx"},
        Feed(batch=2),
    )
    for comparison in found:
        print(comparison.verdict())
        assert comparison.first is None
    net = build("fused/deploy.prototxt", shapes={"data": (2, 3, SIZE, SIZE)})
    assert load_weights(net, "init.caffemodel").missing == ()
    exported = to_onnx("fused/deploy.prototxt", "init.caffemodel")
    checked = verify_onnx(exported.net, "init.caffemodel", exported.model.SerializeToString(), batches=(1, 2))
    assert checked.first is None, checked.verdict()


def test_se_resnet_agrees_blob_by_blob(reference: Path, tmp_path: Path) -> None:
    """With small weights: with larger ones its gates, sigmoids of sums in the hundreds, magnify any rounding.

    ONNX Runtime sums the 3136 positions of a map in another order than torch, which its mean shows.
    """
    described = reference / "corpus" / "SENet__SE-ResNet-50.prototxt"
    net = build(described, shapes={"data": (1, 3, SIZE, SIZE)}, seed=1)
    draw = torch.Generator().manual_seed(2)
    for tensors in params(net).values():
        for tensor, spread in zip(tensors, (0.01 if tensors[0].dim() > 1 else 0.1, 0.1, 0.0), strict=False):
            tensor.data.normal_(0, spread, generator=draw)
    for call in net.plan.calls:
        if call.type in ("BatchNorm", "Scale"):
            tensors = params(net)[call.name]
            tensors[call.type == "BatchNorm"].data.uniform_(0.5, 1.5, generator=draw)
            if call.type == "BatchNorm":
                tensors[2].data.fill_(1)
    weights = str(tmp_path / "w.caffemodel")
    save_weights(net, weights)
    names = [blob for blob, _ in net.plan.blobs if blob != "data"]
    exported = to_onnx(described, weights, outputs=names)
    checked = verify_onnx(exported.net, weights, exported.model.SerializeToString(), batches=(1,), rtol=1e-4)
    print(checked.verdict())
    assert checked.first is None, checked.verdict()
