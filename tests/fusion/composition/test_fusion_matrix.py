"""Fusions of many kinds of nets, each proven branch by branch: composed, merged, run beside the sources."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

import prototxt
from fusion.composition import Source, compose
from fusion.merge.merge import apply_merge, plan_merge
from fusion.verification import Feed, verify_branches
from prototxt.edit.deploy import deploy

RTOL = 1e-5
NETS = Path(__file__).parents[3] / "examples" / "mnist_odd_even"
CORPUS = {
    "resnet": "corpus/deep-residual-networks__ResNet-50-deploy.prototxt",
    "googlenet": "models/googlenet/net.prototxt",
    "squeezenet": "corpus/SqueezeNet__train_val.prototxt",
    "mobilenet": "corpus/MobileNet-Caffe__mobilenet_v2_deploy.prototxt",
}


def write_weights(net: Path, path: Path, seed: int) -> None:
    """Weights under which a deep net's values neither vanish nor overflow (He et al. 2015)."""
    message = prototxt.filter_net(prototxt.load_net(net), phase="TEST")
    inputs = {"data": (20, 1, 28, 28)} if net.name.startswith("lenet") else None
    random = np.random.default_rng(seed)
    weights = {}
    for layer, shapes in zip(message.layer, prototxt.infer(message, inputs).params, strict=True):
        sizes = [tuple(int(dim or 1) for dim in shape) for shape in shapes]
        blobs = [random.normal(0, 1 / math.sqrt(max(math.prod(size[1:]), 16)), size) for size in sizes]
        if layer.type == "BatchNorm":
            blobs = [blobs[0], np.abs(blobs[1]) + 1, np.ones(1)]
        elif layer.type == "Scale":
            blobs[0] += 1
        if blobs:
            weights[layer.name] = [blob.astype(np.float32) for blob in blobs]
    prototxt.write_weights(path, weights, net=message)


def proven(folder: Path, sources: Sequence[Source], files: Mapping[str, tuple[Path, Path]], **shapes: int) -> None:
    """Compose, merge, and compare every branch with its source; `files` are the sources' nets and weights."""
    composed = compose(sources, num_output=5, train_list="t.txt", val_list="v.txt",
        input_shape=(1, 28, 28) if shapes.get("gray") else None)  # fmt: skip
    assert composed.deploy is not None
    (folder / "deploy.prototxt").write_text(str(composed.deploy))
    apply_merge(plan_merge(prototxt.load_net(folder / "deploy.prototxt"), files), folder / "init.caffemodel")
    feed = Feed(batch=2 if shapes.get("gray") else 1, shapes={"data": (1, 1, 28, 28)} if shapes.get("gray") else None)
    found = verify_branches(folder / "deploy.prototxt", folder / "init.caffemodel", files, feed, RTOL)
    assert [item.name for item in found] == list(files)
    for item in found:
        assert item.first is None, item.verdict()
        assert len(item.differences) > 3


@pytest.mark.parametrize("count", [2, 3, 5], ids=["LeNet+LeNet", "three LeNets", "five folds"])
def test_lenets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.chdir(tmp_path)
    net = NETS / "lenet_odd_train_val.prototxt"
    (tmp_path / "folds").mkdir()
    for number in range(1, count + 1):
        write_weights(net, tmp_path / f"folds/{number}.caffemodel", number)
    source = Source("fold", net, "ip1", weights="folds")
    files = {f"fold{n}": (net, tmp_path / f"folds/{n}.caffemodel") for n in range(1, count + 1)}
    proven(tmp_path, [source], files, gray=1)


def test_the_published_lenets(reference: Path, tmp_path: Path) -> None:
    folder = reference / "tutorial"
    files = {
        p: (folder / f"lenet_{p}_train_val.prototxt", folder / f"mnist_lenet_{p}_iter_30000.caffemodel")
        for p in ("odd", "even")
    }
    if not all(path.is_file() for pair in files.values() for path in pair):
        pytest.skip("the published weights are not here")
    proven(tmp_path, [Source(p, net, "ip1") for p, (net, _) in files.items()], files, gray=1)


@pytest.mark.slow
@pytest.mark.parametrize("names", [("resnet", "googlenet"), ("squeezenet", "mobilenet")], ids=" x ".join)
def test_different_architectures(reference: Path, tmp_path: Path, names: tuple[str, str]) -> None:
    files = {}
    for seed, name in enumerate(names):
        net = tmp_path / f"{name}.prototxt"
        shape = {"data": (1, 3, 227, 227)} if name == "squeezenet" else None
        net.write_text(str(deploy(prototxt.parse_file(reference / CORPUS[name]), shape).document))
        write_weights(net, tmp_path / f"{name}.caffemodel", seed)
        files[name] = (net, tmp_path / f"{name}.caffemodel")
    proven(tmp_path, [Source(name, net) for name, (net, _) in files.items()], files)
