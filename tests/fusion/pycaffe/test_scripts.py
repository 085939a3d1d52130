"""Whole scripts as people write them: a LeNet trained by a loop with tests of its own, and two nets fused by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fusion.pycaffe as caffe
import prototxt
from fusion.merge.merge import apply_merge, plan_merge

Write = Callable[..., str]

LENET = """
layer { name: "data" type: "HDF5Data" top: "data" top: "label" include { phase: TRAIN }
  hdf5_data_param { source: "train.txt" batch_size: 16 } }
layer { name: "data" type: "HDF5Data" top: "data" top: "label" include { phase: TEST }
  hdf5_data_param { source: "test.txt" batch_size: 25 } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param { num_output: 6 kernel_size: 5 weight_filler { type: "xavier" } } }
layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1"
  pooling_param { kernel_size: 2 stride: 2 pool: MAX } }
layer { name: "fc1" type: "InnerProduct" bottom: "pool1" top: "fc1"
  inner_product_param { num_output: 16 weight_filler { type: "xavier" } } }
layer { name: "relu1" type: "ReLU" bottom: "fc1" top: "fc1" }
layer { name: "score" type: "InnerProduct" bottom: "fc1" top: "score"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "score" bottom: "label" top: "loss" }
"""


def write_images(name: str, count: int, seed: int) -> None:
    """Noisy images with a bright row, column or corner, as an HDF5 file and its list."""
    h5py = pytest.importorskip("h5py")
    random = np.random.default_rng(seed)
    images, labels = random.standard_normal((count, 1, 12, 12)).astype(np.float32), np.arange(count) % 3
    for image, label in zip(images, labels, strict=True):
        image[0][((slice(None), 5), (5, slice(None)), (slice(5), slice(5)))[label]] += 2
    with h5py.File(f"{name}.h5", "w") as file:
        file["data"], file["label"] = images, labels.astype(np.float32)
    Path(f"{name}.txt").write_text(f"{name}.h5\n")


def test_lenet_learns_in_a_loop_with_its_own_tests(
    prototxt_file: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_images("train", 64, 1)
    write_images("test", 75, 2)
    settings = 'base_lr: 0.02 momentum: 0.9 lr_policy: "inv" gamma: 0.0001 power: 0.75 random_seed: 1 max_iter: 90'
    text = f'train_net: "{prototxt_file(LENET)}" test_net: "net.prototxt" test_iter: 3 test_interval: 500 {settings}'
    solver = caffe.SGDSolver(prototxt_file(text, "solver.prototxt"))
    losses, accuracies = np.zeros(60), []
    scores = np.zeros((3, 8, 3))
    solver.net.forward()
    solver.test_nets[0].forward()
    for it in range(60):
        solver.step(1)
        losses[it] = solver.net.blobs["loss"].data
        if it % 20 == 19:
            solver.test_nets[0].forward(start="conv1")
            scores[it // 20] = solver.test_nets[0].blobs["score"].data[:8]
            correct = 0
            for _ in range(3):
                solver.test_nets[0].forward()
                predicted = solver.test_nets[0].blobs["score"].data.argmax(1)
                correct += sum(predicted == solver.test_nets[0].blobs["label"].data)
            accuracies.append(correct / 75)
    assert losses[:5].mean() > 0.9
    assert losses[-5:].mean() < 0.2
    assert accuracies[-1] > 0.9
    # the last test read the same records each time, with other parameters
    assert (scores[0] != scores[2]).all()
    filters = solver.net.params["conv1"][0].diff[:, 0].reshape(2, 3, 5, 5).transpose(0, 2, 1, 3).reshape(10, 15)
    assert np.abs(filters).max() > 0


def test_two_nets_are_fused_by_copying_parameters_with_the_bytes_of_a_merge(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the tutorial does: every parameter of a source goes to the layer of that name below the source's prefix."""
    tutorial = reference / "tutorial"
    weights = {prefix: str(tutorial / f"mnist_lenet_{prefix}_iter_30000.caffemodel") for prefix in ("odd", "even")}
    monkeypatch.chdir(tmp_path)
    Image.new("L", (28, 28), 77).save("image.png")
    for name in ("odd", "even", "all"):
        for part in ("train", "val"):
            Path(f"{part}_{name}.txt").write_text("image.png 1\n")
    fused = caffe.Net(str(tutorial / "lenet_fusion_train_val.prototxt"), caffe.TRAIN)
    copied = []
    for prefix, file in weights.items():
        source = caffe.Net(str(tutorial / f"lenet_{prefix}_train_val.prototxt"), file, caffe.TRAIN)
        for name, blobs in source.params.items():
            target = f"{prefix}/{name}"
            if target in fused.params:
                for index, blob in enumerate(blobs):
                    fused.params[target][index].data[...] = blob.data
                    copied.append((target, index))
    fused.save("by_hand.caffemodel")
    net = prototxt.load_net(str(tutorial / "lenet_fusion_train_val.prototxt"))
    apply_merge(plan_merge(net, weights, seed=1), "merged.caffemodel")
    own, merged = prototxt.read_weights("by_hand.caffemodel"), prototxt.read_weights("merged.caffemodel")
    assert len(copied) == 12
    for name, index in copied:
        assert own[name][index].tobytes() == merged[name][index].tobytes()
    assert list(own) == list(merged)
