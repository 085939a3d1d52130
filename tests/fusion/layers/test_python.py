"""Python layers: a user's class against what BVLC Caffe made of it, permission, and mistakes."""

from __future__ import annotations

import copy
import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import prototxt
from fusion.errors import BuildError, FusionError
from fusion.layers import pycaffe
from fusion.nets import build as nets
from fusion.nets.graph import Net
from fusion.stand_in import stand_in

MODULE = """
import caffe
import numpy as np

class Double(caffe.Layer):
    def setup(self, bottom, top): self.calls = 0
    def reshape(self, bottom, top): top[0].reshape(*bottom[0].shape)
    def forward(self, bottom, top):
        import caffe
        assert caffe.TRAIN == 0
        self.calls += 1
        top[0].data[...] = 2 * bottom[0].data
    def backward(self, top, propagate_down, bottom):
        if propagate_down[0]: bottom[0].diff[...] = 2 * top[0].diff

class Product(Double):
    def backward(self, top, propagate_down, bottom):
        for one, other in ((0, 1), (1, 0)):
            if propagate_down[one]: bottom[one].diff[...] = top[0].diff * bottom[other].data
    def forward(self, bottom, top): top[0].data[...] = bottom[0].data * bottom[1].data

class Counter(caffe.Layer):
    def setup(self, bottom, top): self.blobs.add_blob(1)
    def reshape(self, bottom, top): top[0].reshape(2, 3); top[1].reshape(2)
    def forward(self, bottom, top):
        self.blobs[0].data[0] += 1
        top[0].data[...] = self.blobs[0].data[0]
        top[1].data[...] = [0, 1]
    def backward(self, top, propagate_down, bottom): pass

class Forwards(caffe.Layer):
    def setup(self, bottom, top): pass
    def reshape(self, bottom, top): top[0].reshape(1)
    def forward(self, bottom, top): top[0].data[0] = bottom[0].data.sum()

class Broken(Double):
    def forward(self, bottom, top): raise ValueError("no luck")

class Rows(Double):
    def forward(self, bottom, top):
        chosen = bottom[0].data[bottom[0].data[:, 0] > 0]
        top[0].reshape(*chosen.shape)
        top[0].data[...] = chosen

class Bare(caffe.Layer):
    pass

class NoLayer:
    pass
"""
INPUT = 'layer { name: "x" type: "Input" top: "x" top: "z" input_param { shape { dim: 2 dim: 3 } } }'


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "users_layers.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield
    sys.modules.pop("users_layers", None)


def build(name: str, more: str = 'bottom: "x"', allow_python: bool | None = True) -> Net:
    return nets.build(prototxt.parse(INPUT + python(name, more)), allow_python=allow_python)


def python(name: str, more: str = 'bottom: "x"', module: str = "users_layers") -> str:
    param = f'python_param {{ module: "{module}" layer: "{name}" }}'
    return f'layer {{ name: "own" type: "Python" {more} top: "y" {param} }}'


def test_caffe_s_own_numbers(golden: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = golden / "misc" / "pythonlayer"
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    net = nets.build(folder / "net.prototxt", "TRAIN", allow_python=True)
    with np.load(folder / "io.npz") as file:
        arrays = dict(file)
    x = torch.from_numpy(arrays["data"]).requires_grad_()
    blobs = nets.blobs(net, {"data": x})
    for blob in ("y", "ph", "z"):
        np.testing.assert_allclose(blobs[blob].detach(), arrays[blob], rtol=1e-6)
    blobs["z"].backward(torch.from_numpy(arrays["gout"]))
    np.testing.assert_allclose(x.grad, arrays["grad"], rtol=1e-6)
    np.testing.assert_allclose(nets.params(net)["py"][0].grad, arrays["pgrad"], rtol=1e-5)
    assert [item.layer for item in nets.learnable(net)] == ["py"]
    sys.modules.pop("mylayer")


def test_nothing_runs_without_permission(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FUSION_ALLOW_PYTHON", raising=False)
    for allow in (None, False):
        with pytest.raises(BuildError, match=r"'own' runs Python code of its own, users_layers\.Double") as caught:
            build("Double", allow_python=allow)
        assert "allow_python=True" in str(caught.value)
    assert "users_layers" not in sys.modules


def test_the_environment_may_allow_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSION_ALLOW_PYTHON", "1")
    assert float(build("Double", allow_python=None)({"x": torch.ones(2, 3)})["y"].sum()) == 12
    with pytest.raises(BuildError, match="not allowed"):
        build("Double", allow_python=False)


def test_a_layer_without_bottoms_is_data_unless_it_may_run() -> None:
    text = (
        'layer { name: "d" type: "Python" top: "x" top: "l" python_param { module: "users_layers" layer: "Counter" } }'
        'layer { name: "r" type: "ReLU" bottom: "x" top: "y" }'
    )
    fed = nets.build(prototxt.parse(text), shapes={"x": (2, 3)}, allow_python=False)
    assert float(fed({"x": torch.ones(2, 3)})["y"].sum()) == 6
    runs = nets.build(prototxt.parse(text), allow_python=True)
    assert [float(runs({})["y"][0, 0].detach()) for _ in range(3)] == [1, 2, 3]
    assert float(nets.params(runs)["d"][0].detach()) == 3


def test_the_tops_shapes_reach_the_layers_behind() -> None:
    text = INPUT + python("Double")
    text += 'layer { name: "ip" type: "InnerProduct" bottom: "y" top: "o" inner_product_param { num_output: 4 } }'
    assert nets.build(prototxt.parse(text), allow_python=True)({"x": torch.ones(5, 3)})["o"].shape == (5, 4)


def test_gradients_are_derivatives_and_belong_to_their_own_forward() -> None:
    net = build("Product", 'bottom: "x" bottom: "z"')
    a, b = (torch.randn(2, 3).double().requires_grad_() for _ in range(2))
    assert torch.autograd.gradcheck(lambda x, z: net({"x": x, "z": z})["y"], (a, b))
    first = net({"x": a, "z": b})["y"].sum()
    net({"x": torch.zeros(2, 3), "z": torch.zeros(2, 3)})
    first.backward()
    torch.testing.assert_close(a.grad, b.detach())


def test_propagate_down_is_told_and_unneeded_gradients_are_not_asked_for() -> None:
    net = build("Product", 'bottom: "x" bottom: "z" propagate_down: true propagate_down: false')
    a, b = (torch.randn(2, 3).requires_grad_() for _ in range(2))
    net({"x": a, "z": b})["y"].sum().backward()
    assert a.grad is not None
    assert b.grad is None


def test_a_top_may_get_its_shape_in_forward() -> None:
    net = build("Rows")
    assert net({"x": torch.tensor([[1.0, 2], [-1, 3], [4, 5]])})["y"].tolist() == [[1, 2], [4, 5]]


def test_a_class_without_backward_says_so_only_when_it_is_needed() -> None:
    net = build("Forwards")
    out = net({"x": torch.ones(2, 3).requires_grad_()})["y"]
    assert float(out.detach()) == 6
    with pytest.raises(FusionError, match="no backward"):
        out.backward()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Missing", "no class 'Missing'"),
        ("NoLayer", r"derives from caffe\.Layer"),
        ("Bare", "no setup and no reshape and no forward"),
    ],
)
def test_mistakes_of_the_class_are_told_with_the_layer(name: str, message: str) -> None:
    with pytest.raises(prototxt.ShapeError, match=message) as caught:
        build(name)
    assert "own" in str(caught.value)


def test_a_module_that_is_not_there_hints_at_the_path() -> None:
    with pytest.raises(prototxt.ShapeError, match="PYTHONPATH"):
        nets.build(prototxt.parse(INPUT + python("A", module="nowhere_at_all")), allow_python=True)


def test_what_the_user_s_code_raises_names_the_layer() -> None:
    with pytest.raises(FusionError, match="layer 'own': forward: ValueError: no luck"):
        build("Broken")({"x": torch.ones(2, 3)})


def test_unknown_bottoms_ask_for_shapes() -> None:
    text = 'layer { name: "d" type: "ImageData" top: "x" top: "l" image_data_param { source: "none" } }' + python(
        "Double"
    )
    with pytest.raises(prototxt.ShapeError, match="shapes="):
        nets.build(prototxt.parse(text), allow_python=True)
    known = INPUT.replace('"x"', '"k"')
    with pytest.raises(prototxt.ShapeError, match="shapes="):
        nets.build(prototxt.parse(known + text.replace('bottom: "x"', 'bottom: "k" bottom: "x"')), allow_python=True)


def test_copies_have_objects_of_their_own() -> None:
    net = build("Double")
    twin = copy.deepcopy(net)
    twin({"x": torch.ones(2, 3)})
    assert [n.get_submodule("own").instance.user.calls for n in (net, twin)] == [0, 1]


def test_caffe_is_there_on_use_only() -> None:
    before = sys.modules.get("caffe")
    with stand_in():
        caffe = importlib.import_module("caffe")
        assert caffe.Layer is pycaffe.Layer
        assert caffe.__name__ == "fusion.pycaffe"
        assert (caffe.TRAIN, caffe.TEST) == (pycaffe.TRAIN, pycaffe.TEST) == (0, 1)  # as in caffe.proto
    assert sys.modules.get("caffe") is before


def test_blobs_look_like_pycaffe_s() -> None:
    blob = pycaffe.Blob(2, 3, 4)
    assert (blob.num, blob.channels, blob.height, blob.width, blob.count) == (2, 3, 4, 1, 24)
    blob.data[...] = 1
    blob.reshape(4, 6)
    assert float(blob.data.sum()) == 24
    blob.reshape(5)
    assert blob.shape == blob.diff.shape == (5,)
    assert float(blob.data.sum()) == 5  # the memory stays, as in Caffe
    blob.reshape(5, 5)
    assert float(blob.data.sum()) == 0


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_commands_have_a_switch(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSION_ALLOW_PYTHON", "0")
    parser = importlib.import_module(f"caffe_fusion_tools.{command}").parser()
    given = {"train": ["--solver", "s"], "evaluate": ["--model", "m", "--weights", "w"]}[command]
    parser.parse_args([*given, "--allow-python"])
    assert os.environ["FUSION_ALLOW_PYTHON"] == "1"
