"""The tutorial's own trained LeNets, fused by the commands: branches as Caffe computes them, either prototxt loads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from caffe_fusion_tools import compose, merge

import fusion
import prototxt


@pytest.fixture(scope="module")
def published(reference: Path) -> Path:
    return reference / "tutorial"


@pytest.fixture(scope="module")
def merged(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compose and merge in a directory without any image list."""
    folder = tmp_path_factory.mktemp("fused")
    nets = {name: published / f"lenet_{name}_train_val.prototxt" for name in ("odd", "even")}
    lists = ["--train-list", "train_all.txt", "--val-list", "val_all.txt", "--train-batch", "50", "--test-batch", "20"]
    sources = [f"--source={name}={net}@ip1" for name, net in nets.items()]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert compose.main([*sources, *lists, "--num-output", "10", "-o", "."]) == 0
        weights = [f"{name}={net}:{published}/mnist_lenet_{name}_iter_30000.caffemodel" for name, net in nets.items()]
        assert merge.main(["train_val.prototxt", *weights, "-o", "init.caffemodel"]) == 0
    return folder


@pytest.mark.parametrize("which", ["composed", "published"])
def test_branches_compute_what_caffe_computed(shared: Path, published: Path, merged: Path, which: str) -> None:
    recorded = np.load(shared / "golden" / "tutorial" / "lenet_fusion_val.npz")
    folder = merged / "train_val.prototxt" if which == "composed" else published / "lenet_fusion_train_val.prototxt"
    inputs = {name: torch.from_numpy(recorded[f"b0:{name}"]) for name in ("data", "label")}
    net = fusion.build(prototxt.load_net(folder), shapes={name: tuple(x.shape) for name, x in inputs.items()})
    fusion.load_weights(net, merged / "init.caffemodel")
    blobs = fusion.blobs(net, inputs)
    for name in ("odd/pool1", "odd/pool2", "odd/ip1", "even/pool1", "even/pool2", "even/ip1", "ip1_fused"):
        want = recorded[f"b0:{name}"]
        np.testing.assert_allclose(blobs[name].detach().numpy(), want, rtol=1e-4, atol=1e-5 * np.abs(want).max())
