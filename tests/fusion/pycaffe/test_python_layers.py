"""Python layers in pycaffe's nets: they work on the blobs themselves."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from pycaffe_nets import DATA

import fusion.pycaffe as caffe

Write = Callable[..., str]

MODULE = """
import caffe
import numpy as np

class Scaled(caffe.Layer):
    def setup(self, bottom, top):
        self.factor = float(self.param_str or 2)
        self.blobs.add_blob(3)
        self.blobs[0].data[...] = 1
    def reshape(self, bottom, top): top[0].reshape(*bottom[0].shape)
    def forward(self, bottom, top):
        self.blobs[0].data[1] += 1
        self.held = bottom[0].data
        top[0].data[...] = self.factor * bottom[0].data
    def backward(self, top, propagate_down, bottom):
        self.asked = propagate_down
        if propagate_down[0]: bottom[0].diff[...] = self.factor * top[0].diff
        self.blobs[0].diff[0] += 1

class Rows(caffe.Layer):
    def setup(self, bottom, top): pass
    def reshape(self, bottom, top): top[0].reshape(4, 5); top[1].reshape(4)
    def forward(self, bottom, top):
        top[0].data[...] = np.eye(4, 5)
        top[1].data[...] = [0, 1, 0, 1]
    def backward(self, top, propagate_down, bottom): pass

class Broken(Scaled):
    def forward(self, bottom, top): raise LookupError("no luck")
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "script_layers.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield
    sys.modules.pop("script_layers", None)


def layer(name: str, kind: str, ends: str, param_str: str = "") -> str:
    param = f'python_param {{ module: "script_layers" layer: "{kind}" param_str: "{param_str}" }}'
    return f'layer {{ name: "{name}" type: "Python" {ends} {param} }}\n'


def test_a_layer_s_object_blobs_and_arrays_are_the_net_s(prototxt_file: Write, tmp_path: Path, memory: str) -> None:
    text = "force_backward: true " + DATA + layer("own", "Scaled", 'bottom: "data" top: "y"', "3")
    net = caffe.Net(prototxt_file(text), caffe.TEST)
    own = net.layer_dict["own"]
    assert (own.type, own.phase, own.factor) == ("Python", caffe.TEST, 3)
    assert own.blobs[0] is net.params["own"][0]
    net.forward(data=np.ones((2, 2, 3, 3)))
    assert (net.blobs["y"].data == 3).all()
    assert memory == "two copies" or np.shares_memory(own.held, net.blobs["data"].data)
    net.backward(y=np.full((2, 2, 3, 3), 2.0))
    net.backward()
    assert (net.blobs["data"].diff == 6).all()
    assert own.asked == [True]
    assert net.params["own"][0].diff.tolist() == [2, 0, 0]
    net.save(str(tmp_path / "w.caffemodel"))
    own.blobs[0].data[...] = 0
    net.copy_from(str(tmp_path / "w.caffemodel"))
    assert own.blobs[0].data.tolist() == [1, 2, 1]


def test_gradients_of_several_readers_are_added(prototxt_file: Write, memory: str) -> None:
    text = "force_backward: true " + DATA
    text += layer("a", "Scaled", 'bottom: "data" top: "a"', "3") + layer("b", "Scaled", 'bottom: "data" top: "b"', "5")
    net = caffe.Net(prototxt_file(text), caffe.TRAIN)
    net.forward()
    shape = (2, 2, 3, 3)
    for _ in range(2):
        net.backward(a=np.ones(shape), b=np.full(shape, 10.0))
        assert (net.blobs["data"].diff == 53).all()


def test_a_data_layer_s_shapes_and_values_train(prototxt_file: Write) -> None:
    text = layer("data", "Rows", 'top: "x" top: "label"')
    text += """
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip" inner_product_param { num_output: 2 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }"""
    settings = f'net: "{prototxt_file(text)}" base_lr: 1 lr_policy: "fixed" max_iter: 1 random_seed: 1'
    solver = caffe.SGDSolver(prototxt_file(settings, "solver.prototxt"))
    solver.step(1)
    expected = 0.125 * np.array([[1, -1, 1, -1, 0], [-1, 1, -1, 1, 0]])
    np.testing.assert_allclose(solver.net.params["ip"][0].data, expected, rtol=1e-6, atol=1e-7)


def test_a_user_s_error_is_raised_as_it_is(prototxt_file: Write) -> None:
    with pytest.raises(ValueError, match="could not convert string to float: 'two'"):
        caffe.Net(prototxt_file(DATA + layer("own", "Scaled", 'bottom: "data" top: "y"', "two")), caffe.TEST)
    net = caffe.Net(prototxt_file(DATA + layer("own", "Broken", 'bottom: "data" top: "y"')), caffe.TEST)
    with pytest.raises(LookupError, match="no luck"):
        net.forward()
    with pytest.raises(RuntimeError, match="no class 'Missing'"):
        caffe.Net(prototxt_file(DATA + layer("own", "Missing", 'bottom: "data" top: "y"')), caffe.TEST)
