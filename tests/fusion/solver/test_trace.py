"""The first 100 iterations of the tutorial's odd LeNet, on the pictures that Caffe saw."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusion.nets.build import params
from fusion.solver import Solver
from fusion.solver.logging.console import Silent

NET = """
name: "LeNet"
layer { name: "mnist" type: "ImageData" top: "data" top: "label" transform_param { mean_value: 128 scale: 0.00390625 }
  image_data_param { source: "odd.txt" is_color: false batch_size: 25 } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1" param { lr_mult: 1 } param { lr_mult: 2 }
  convolution_param { num_output: 20 kernel_size: 5 } }
layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1" pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "conv2" type: "Convolution" bottom: "pool1" top: "conv2" param { lr_mult: 1 } param { lr_mult: 2 }
  convolution_param { num_output: 50 kernel_size: 5 } }
layer { name: "pool2" type: "Pooling" bottom: "conv2" top: "pool2" pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "ip1" type: "InnerProduct" bottom: "pool2" top: "ip1" param { lr_mult: 1 } param { lr_mult: 2 }
  inner_product_param { num_output: 500 } }
layer { name: "relu1" type: "ReLU" bottom: "ip1" top: "ip1" }
layer { name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2" param { lr_mult: 1 } param { lr_mult: 2 }
  inner_product_param { num_output: 5 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }
"""
SOLVER = """
net: "net.prototxt" base_lr: 0.01 momentum: 0.9 weight_decay: 0.0005 lr_policy: "step" gamma: 0.707 stepsize: 1000
max_iter: 100 random_seed: 5
"""


def write_pictures(golden: Path) -> None:
    """The odd digits among the first 5000 training pictures, label // 2, as gray PNGs named by a list."""
    with np.load(golden / "tutorial" / "decoded_train_all_first5000.npz") as archive:
        images, labels = archive["images"], archive["labels"]
    with Path("odd.txt").open("w") as file:
        for index in np.flatnonzero(labels % 2).tolist():
            Image.fromarray(images[index]).save(f"{index}.png", compress_level=0)
            file.write(f"{index}.png {labels[index] // 2}\n")


def test_losses_and_weights(golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_pictures(golden)
    Path("net.prototxt").write_text(NET)
    Path("solver.prototxt").write_text(SOLVER)
    with np.load(golden / "tutorial" / "trace_odd.npz") as archive:
        trace = dict(archive)
    start = golden / "tutorial" / "trace_odd_init.caffemodel"
    solver = Solver("solver.prototxt", weights=start, device="cpu", display=Silent())
    first = next(solver.nets[0].batches)
    np.testing.assert_array_equal(first["data"].numpy(), trace["first_data"])
    np.testing.assert_array_equal(first["label"].numpy(), trace["first_label"])
    solver.nets[0].batches.position = 0
    losses = []
    for iteration in range(1, 101):
        losses.append(solver.step())
        if iteration in (1, 10, 100):
            compare(solver, trace, f"w{iteration}:")
    np.testing.assert_allclose(losses, trace["losses"], rtol=0, atol=3e-7)  # the README says 2.4e-7


def compare(solver: Solver, trace: dict[str, np.ndarray], prefix: str) -> None:
    own = params(solver.net)
    for key in (key for key in trace if key.startswith(prefix)):
        layer, index, *rows = key.removeprefix(prefix).split(":")
        values = own[layer][int(index)].detach().numpy()
        np.testing.assert_allclose(values[:5] if rows else values, trace[key], rtol=1e-5, atol=1e-6, err_msg=key)
