"""Parameters of nets: loading, saving, sharing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pycaffe_nets import SMALL

import fusion.pycaffe as caffe
import prototxt

Write = Callable[..., str]


def test_saved_parameters_are_those_that_a_script_wrote(prototxt_file: Write, tmp_path: Path) -> None:
    path, saved = prototxt_file(SMALL), str(tmp_path / "weights")  # a name without an ending is a caffemodel
    net = caffe.Net(path, caffe.TEST)
    net.params["left"][0].data[1, 2] = 7
    net.save(saved)
    assert prototxt.read_weights(saved)["left"][0][1, 2] == 7
    for other in (
        caffe.Net(path, saved, caffe.TEST),
        caffe.Net(path, caffe.TRAIN, weights=saved),
        caffe.Net(path, phase=caffe.TEST, weights=saved),
    ):
        for name, blobs in net.params.items():
            for own, loaded in zip(blobs, other.params[name], strict=True):
                np.testing.assert_array_equal(own.data, loaded.data)


def test_loading_writes_into_the_arrays_that_a_script_holds(prototxt_file: Write, tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    path, saved = prototxt_file(SMALL), str(tmp_path / "weights")
    one, two = caffe.Net(path, caffe.TEST), caffe.Net(path, caffe.TEST)
    held = two.params["conv"][0].data
    one.save_hdf5(saved)
    assert Path(saved).read_bytes()[1:4] == b"HDF"
    two.load_hdf5(saved)
    np.testing.assert_array_equal(held, one.params["conv"][0].data)


def test_weights_of_another_shape_are_refused_and_nothing_changes(prototxt_file: Write, tmp_path: Path) -> None:
    saved = str(tmp_path / "w.caffemodel")
    caffe.Net(prototxt_file(SMALL.replace("num_output: 4", "num_output: 5"), "other.prototxt"), caffe.TEST).save(saved)
    net = caffe.Net(prototxt_file(SMALL), caffe.TEST)
    before = net.params["conv"][0].data.copy()
    with pytest.raises(RuntimeError, match=r"'left': blob 0 has the shape \(4, 12\), given \(5, 12\)"):
        net.copy_from(saved)
    np.testing.assert_array_equal(net.params["conv"][0].data, before)


def test_shared_parameters_are_one_memory_with_diffs_of_their_own(prototxt_file: Write) -> None:
    path = prototxt_file(SMALL)
    one, two = caffe.Net(path, caffe.TEST), caffe.Net(path, caffe.TEST)
    held = two.params["left"][1]
    two.share_with(one)
    one.params["left"][1].data[...] = [1, 2, 3, 4]
    assert held.data.tolist() == [1, 2, 3, 4]
    two.blobs["left"].diff[...] = 1
    two.backward(start="left", end="left")
    assert held.diff.tolist() == [2, 2, 2, 2]
    assert not one.params["left"][1].diff.any()
    two.blobs["conv"].data[...] = 0
    two.forward(start="left", end="left")
    assert two.blobs["left"].data[0].tolist() == [1, 2, 3, 4]


def test_a_reshaped_parameter_is_the_net_s(prototxt_file: Write, tmp_path: Path) -> None:
    net = caffe.Net(prototxt_file(SMALL), caffe.TEST)
    blob = net.params["left"][0]
    blob.reshape(5, 12)
    blob.data[...] = 1
    net.params["left"][1].reshape(5)
    net.blobs["conv"].data[...] = 2
    assert net.forward(start="left", end="left")["left"].tolist() == [[24] * 5] * 2
    net.save(str(tmp_path / "w.caffemodel"))
    assert [array.shape for array in prototxt.read_weights(tmp_path / "w.caffemodel")["left"]] == [(5, 12), (5,)]


def test_layers_of_one_parameter_show_it_twice(prototxt_file: Write) -> None:
    text = SMALL.replace('top: "left"', 'top: "left" param { name: "w" }').replace(
        'top: "right"', 'top: "right" param { name: "w" }'
    )
    net = caffe.Net(prototxt_file(text), caffe.TEST)
    net.params["right"][0].data[...] = 3
    assert (net.params["left"][0].data == 3).all()
    net.forward(data=np.ones((2, 2, 3, 3)))
    net.backward(prob=np.eye(2, 4))
    scores = net.blobs["sum"].diff.sum(0)
    np.testing.assert_allclose(net.params["left"][1].diff, scores, rtol=1e-5)
    both = 2 * np.einsum("nk,nd->kd", net.blobs["sum"].diff, net.blobs["conv"].data.reshape(2, -1))
    np.testing.assert_allclose(net.params["left"][0].diff, both, rtol=1e-4, atol=1e-6)


def test_fully_connected_layers_become_convolutions_by_flat_copies(prototxt_file: Write) -> None:
    """Net surgery as in BVLC's notebook: the same scores at one place, and a map of scores for a larger image."""
    layers = """
layer {{ name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param {{
  num_output: 4 kernel_size: 3 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "relu" type: "ReLU" bottom: "conv" top: "conv" }}
layer {{ name: "fc{0}" type: "{1}" bottom: "conv" top: "fc{0}"
  {2} {{ num_output: 6 {3} weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "score{0}" type: "{1}" bottom: "fc{0}" top: "score{0}" {2} {{ num_output: 2 {4} }} }}
"""
    data = """layer {{ name: "data" type: "Input" top: "data"
  input_param {{ shape {{ dim: 1 dim: 1 dim: {0} dim: {0} }} }} }}"""
    dense = data.format(7) + layers.format("", "InnerProduct", "inner_product_param", "", "")
    whole = data.format(9) + layers.format(
        "-conv", "Convolution", "convolution_param", "kernel_size: 5", "kernel_size: 1"
    )
    caffe.set_random_seed(2)
    small = caffe.Net(prototxt_file(dense, "dense.prototxt"), caffe.TEST)
    small.params["score"][0].data[...] = np.random.default_rng(0).standard_normal((2, 6))
    small.params["score"][1].data[...] = [0.5, -0.5]
    large = caffe.Net(prototxt_file(whole, "whole.prototxt"), caffe.TEST)
    for name in ("fc", "score"):
        large.params[f"{name}-conv"][0].data.flat = small.params[name][0].data.flat
        large.params[f"{name}-conv"][1].data[...] = small.params[name][1].data
    for own, other in zip(large.params["conv"], small.params["conv"], strict=True):
        own.data[...] = other.data
    image = np.random.default_rng(1).standard_normal((1, 1, 9, 9))
    scores = large.forward(data=image)["score-conv"]
    assert scores.shape == (1, 2, 3, 3)
    for row in range(3):
        for column in range(3):
            part = small.forward(data=image[:, :, row : row + 7, column : column + 7])["score"]
            np.testing.assert_allclose(scores[0, :, row, column], part[0], rtol=1e-4, atol=1e-5)
