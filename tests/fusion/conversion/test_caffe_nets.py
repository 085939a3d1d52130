"""PyTorch nets as Caffe nets, and back: layers, answers, gradients, and the user's own keys."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
import torch
from caffe_fusion_tools import compose, convert, merge, verify
from caffe_fusion_tools.run import _plan
from small_net import Small
from torch.nn import functional as F

import fusion
from fusion.conversion import caffe_nets
from fusion.conversion.caffe_nets import to_caffe
from fusion.conversion.state_dicts import to_state_dict, write_state_dict
from fusion.errors import ComposeError, OnnxError, WeightsMismatch
from fusion.nets.build import build, params
from fusion.nets.weights import load_weights
from fusion.onnx.graphs.graph import Graph
from fusion.onnx.to_caffe import CaffeNet, convert_graph
from fusion.verification.comparison import Comparison, Difference
from prototxt.formats.weights import read_weights, write_weights
from prototxt.schema.encode import to_text
from prototxt.schema.load import load_net
from prototxt.text.parser import parse

sys.path.insert(0, str(Path(__file__).parents[1] / "onnx" / "graphs"))  # the other room's helper
from graphs import model, node

pytest.importorskip("onnxruntime")
NOISE = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
SHAPES = {"data": (1, 3, 8, 8)}
OWN = """name: "own"
layer { name: "data" type: "DummyData" top: "data" top: "label"
  dummy_data_param { shape { dim: 2 dim: 3 dim: 8 dim: 8 } shape { dim: 2 } } }
layer { name: "f" type: "InnerProduct" bottom: "data" top: "f" inner_product_param { num_output: 3
  weight_filler { type: "xavier" } } }
layer { name: "fc" type: "InnerProduct" bottom: "f" top: "fc" inner_product_param { num_output: 5
  weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }
"""


@pytest.mark.parametrize("way", ["name", pytest.param("module", marks=pytest.mark.slow)])
def test_a_module_as_caffe_layers(way: str, small: Small) -> None:
    made = (
        to_caffe("nets.py:Small:small.pth", shapes=SHAPES)
        if way == "name"
        else fusion.to_caffe(small, example=torch.zeros(1, 3, 8, 8))
    )
    assert [(layer.name, layer.type) for layer in made.net.layer] == [
        ("data", "Input"), ("stem/0", "Convolution"), ("stem/1", "BatchNorm"), ("stem/1/scale", "Scale"),
        ("stem/2", "ReLU"), ("conv", "Convolution"), ("act", "PReLU"), ("add", "Eltwise"), ("mean/pool", "Pooling"),
        ("mean", "Flatten"), ("fc", "InnerProduct"),
    ]  # fmt: skip
    assert made.notes[0].endswith("of ONNX Runtime's largest output")
    state = small.state_dict()
    np.testing.assert_array_equal(made.weights["stem/0"][0], state["stem.0.weight"])
    assert len(made.weights["stem/0"]) == 1
    np.testing.assert_array_equal(made.weights["act"][0], state["act.weight"])
    net = build(made.net, "TEST", shapes={"data": (3, 3, 8, 8)})
    load_weights(net, made.weights, strict=True)
    (scores,) = net({"data": NOISE}).values()
    torch.testing.assert_close(scores, small(NOISE), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_gradients_of_training_are_those_of_the_module(small: Small) -> None:
    """In float64, since the gradient of the scores with respect to the first weights goes through batch statistics."""
    made = to_caffe(small, example=torch.zeros(1, 3, 8, 8))
    net = build(made.net, "TRAIN", shapes={"data": (3, 3, 8, 8)})
    load_weights(net, made.weights)
    labels = torch.tensor([0, 4, 2])
    small.double().train()
    F.cross_entropy(small(NOISE.double()), labels).backward()
    (scores,) = net.double()({"data": NOISE.double()}).values()
    F.cross_entropy(scores, labels).backward()
    found = params(net)
    for layer, index, own in (
        ("stem/0", 0, small.stem[0].weight), ("stem/1/scale", 0, small.stem[1].weight),
        ("stem/1/scale", 1, small.stem[1].bias), ("conv", 0, small.conv.weight), ("conv", 1, small.conv.bias),
        ("act", 0, small.act.weight), ("fc", 0, small.fc.weight),
    ):  # fmt: skip
        torch.testing.assert_close(found[layer][index].grad, own.grad, rtol=1e-6, atol=1e-9)


class Twice(torch.nn.Module):
    """Applies one convolution and its BatchNorm to two values."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = torch.nn.Conv2d(3, 3, 1), torch.nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [N, 3, H, W]."""
        return self.bn(self.conv(self.bn(self.conv(x)).relu()))


@pytest.mark.parametrize(
    ("shift", "found", "agrees"),
    [(0, 9e-5, True), (0, 2e-4, False), (1e4, 2e-3, True), (1e4, 9e-3, False), (1e6, 9e-3, True), (1e6, 1.1e-2, False)],
)
def test_a_converted_net_may_differ_by_ten_times_its_rounding(
    shift: float, found: float, agrees: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adding and subtracting 1e4 changes the last digits of values up to 4 by 1e-4 to 5e-4 of the largest."""
    path = tmp_path / "net.onnx"
    text = '<ir_version: 8, opset_import: ["" : 17]> net (float[1,3] x) => (float[1,3] y) <float[1] k = {%s}> {%s}'
    onnx.save(onnx.parser.parse_model(text % (float(shift), "h = Add (x, k) y = Sub (h, k)")), path)
    rows = (Difference("l", "y", (1, 3), found, found),)
    monkeypatch.setattr(
        "fusion.export.verify.verify_onnx", lambda *given, rtol, inputs: Comparison("n", "two", rows, rtol=rtol)
    )
    with nullcontext() if agrees else pytest.raises(OnnxError, match=f"differs from it by {found:.1e} of its largest"):
        said = to_caffe(path).notes[0]
        assert said.startswith(f"within {found:.1e} of ONNX Runtime's largest output")
        assert (" (rounding to float32 alone changes it by " in said) is (found > 1e-4)


def test_a_module_that_is_called_twice_has_one_set_of_parameters(small: Small) -> None:
    module = Twice().eval()
    made = to_caffe(module, example=torch.zeros(1, 3, 8, 8))
    names = {layer.name: [param.name for param in layer.param] for layer in made.net.layer if len(layer.param)}
    assert names == {
        "conv": ["conv.0", "conv.1"], "conv_2": ["conv.0", "conv.1"], "bn": ["bn.0", "bn.1", "bn.2"],
        "bn_2": ["bn.0", "bn.1", "bn.2"], "bn/scale": ["bn.scale.0", "bn.scale.1"],
        "bn_2/scale": ["bn.scale.0", "bn.scale.1"],
    }  # fmt: skip
    net = build(made.net, "TEST", shapes={"data": (3, 3, 8, 8)})
    load_weights(net, made.weights)
    (found,) = net({"data": NOISE}).values()
    found.square().sum().backward()
    module(NOISE).square().sum().backward()
    assert len({id(tensor) for tensors in params(net).values() for tensor in tensors}) == 7
    torch.testing.assert_close(params(net)["conv"][0].grad, module.conv.weight.grad, rtol=1e-4, atol=1e-5)
    assert to_state_dict(parse(to_text(made.net)), made.weights).keys() == module.state_dict().keys()


def test_weights_return_under_the_modules_keys(small: Small, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["nets.py:Small:small.pth", "net.prototxt", "net.caffemodel", "--input-shape", "data=1,3,8,8"]
    assert convert.main(words) == 0
    assert "net.prototxt, net.caffemodel: 11 layers, within" in capsys.readouterr().out
    assert convert.main(["net.caffemodel", "back.pth", "--model", "net.prototxt"]) == 0
    state = torch.load("back.pth", weights_only=True)
    expected = small.state_dict()
    assert state.keys() == expected.keys()
    for key, value in expected.items():
        assert (state[key].shape, state[key].dtype) == (value.shape, value.dtype)
        assert "num_batches" in key or torch.equal(state[key], value)
    Small().load_state_dict(state, strict=True)
    load_file = pytest.importorskip("safetensors.torch").load_file
    assert convert.main(["net.caffemodel", "b.safetensors", "--model", "net.prototxt", "--state-dict"]) == 0
    again = load_file("b.safetensors")
    assert again.keys() == state.keys()
    assert all(torch.equal(again[key], value) for key, value in state.items())


def test_statistics_are_divided_by_their_factor() -> None:
    text = """layer { name: "b" type: "BatchNorm" bottom: "x" top: "b" }
    layer { name: "b/scale" type: "Scale" bottom: "b" top: "b" scale_param { bias_term: true } }
    layer { name: "s/scale" type: "Scale" bottom: "b" top: "s" }
    layer { name: "ip" type: "InnerProduct" bottom: "s" top: "y" inner_product_param { num_output: 2 transpose: true } }
    layer { name: "e" type: "Embed" bottom: "l" top: "e" }"""
    arrays = {
        "b": [np.float32([2, 4]), np.float32([6, 8]), np.float32([0.5])],
        "b/scale": [np.float32([1, 2]), np.float32([3, 4])],
        "s/scale": [np.float32([5, 6])],
        "ip": [np.float32([[1, 2], [3, 4], [5, 6]])],
        "e": [np.float32([[7, 8]])],
    }
    found = to_state_dict(parse(text), arrays)
    assert {key: value.tolist() for key, value in found.items()} == {
        "b.running_mean": [4, 8], "b.running_var": [12, 16], "b.num_batches_tracked": 0, "b.weight": [1, 2],
        "b.bias": [3, 4], "s.scale.weight": [5, 6], "ip.weight": [[1, 3, 5], [2, 4, 6]], "e.weight": [[7, 8]],
    }  # fmt: skip
    unused = to_state_dict(parse(text), {"b": [np.ones(2), np.ones(2), np.zeros(1)]})  # as Caffe begins
    assert unused["b.running_var"].tolist() == [0, 0]


def test_shared_parameters_have_the_first_layers_key() -> None:
    text = """layer { name: "a" type: "InnerProduct" bottom: "x" top: "a" param { name: "w" } }
    layer { name: "b" type: "InnerProduct" bottom: "y" top: "b" param { name: "w" } }"""
    found = to_state_dict(parse(text), {"a": [np.ones((1, 2))], "b": [np.ones((1, 2))]})
    assert list(found) == ["a.weight"]


def test_state_dicts_that_cannot_be_made(tmp_path: Path) -> None:
    net = parse('layer { name: "l" type: "LSTM" bottom: "x" bottom: "c" top: "y" recurrent_param { num_output: 2 } }')
    with pytest.raises(WeightsMismatch, match=r"'l' \(LSTM\) have no names in PyTorch"):
        to_state_dict(net, {"l": [np.ones((8, 3)), np.ones(8), np.ones((8, 2))]})
    with pytest.raises(WeightsMismatch, match="no layer of the net has weights here") as raised:
        to_state_dict(net, {"other": [np.ones(1)]}, prefix="net")
    assert "'net/...'" in str(raised.value.hint)
    write_state_dict(tmp_path / "a.pth", {"w": torch.ones(2)})
    assert torch.load(tmp_path / "a.pth", weights_only=True)["w"].tolist() == [1, 1]


@pytest.mark.parametrize("as_caffe", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_branch_end_to_end(as_caffe: bool, small: Small, capsys: pytest.CaptureFixture[str]) -> None:
    """Composed by name, merged and verified from what composing wrote, and its weights taken out again."""
    Path("own.prototxt").write_text(OWN)
    own = build(load_net("own.prototxt"), "TEST", seed=1)
    fusion.save_weights(own, "own.caffemodel")
    words = ["--source", "own=own.prototxt@f", "--source", "net=nets.py:Small:small.pth", "--input-shape", "3,8,8"]
    words += ["--references", "--num-output", "5", "-o", "fused"]
    assert compose.main([*words, *(["--as-caffe"] if as_caffe else [])]) == 0
    out = capsys.readouterr().out
    layers = {layer.name: layer for layer in load_net("fused/train_val.prototxt").layer}
    files = sorted(path.name for path in Path("fused").iterdir() if path.name.startswith("net."))
    if as_caffe:
        assert "within" in out
        assert files == ["net.caffemodel", "net.prototxt"]
        assert [param.lr_mult for param in layers["net/conv"].param] == [0, 0]
        source = "net=fused/net.prototxt:fused/net.caffemodel"
    else:
        assert files == ["net.onnx"]
        assert layers["net/onnx"].onnx_param.file == "fused/net.onnx"
        source = "net=fused/net.onnx"
    sources = ["own=own.prototxt:own.caffemodel", source]
    assert merge.main(["fused/train_val.prototxt", *sources, "-o", "init.caffemodel", "-q"]) == 0
    assert verify.main(["fused/train_val.prototxt", "init.caffemodel", *sources]) == 0
    assert convert.main(["init.caffemodel", "b.pth", "--model", "fused/train_val.prototxt", "--prefix", "net"]) == 0
    state = torch.load("b.pth", weights_only=True)
    assert state.keys() == small.state_dict().keys()
    assert all(torch.equal(value, small.state_dict()[key]) for key, value in state.items() if "num" not in key)
    capsys.readouterr()
    by_name = ["fused/train_val.prototxt", sources[0], "net=nets.py:Small:small.pth", "-o", "x.caffemodel"]
    assert merge.main(by_name) == 1
    assert "net=FOLDER/net.onnx" in capsys.readouterr().err


@pytest.mark.slow
def test_a_fusion_file_and_a_module_in_python(small: Small) -> None:
    Path("own.prototxt").write_text(OWN)
    fusion.save_weights(build(load_net("own.prototxt"), "TEST", seed=1), "own.caffemodel")
    Path("fusion.toml").write_text("""num_output = 5
input_shape = [3, 8, 8]
[[source]]
prefix = "own"
net = "own.prototxt"
weights = "own.caffemodel"
at = "f"
[[source]]
prefix = "net"
net = "nets.py:Small:small.pth"
as_caffe = true
""")
    assert compose.main(["fusion.toml", "-o", "fused", "-q"]) == 0
    assert merge.main(["fused/train_val.prototxt", "fusion.toml", "-o", "init.caffemodel", "-q"]) == 0
    merged = read_weights("init.caffemodel")["net/conv"]
    np.testing.assert_array_equal(merged[0], small.conv.weight.detach())
    module = fusion.Source("net", module=small, example=torch.zeros(1, 3, 8, 8), as_caffe=True)
    composed = fusion.compose([fusion.Source("own", "own.prototxt", at="f"), module], num_output=5)
    composed.write("again")
    assert Path("again/train_val.prototxt").read_text() == Path("fused/train_val.prototxt").read_text()
    both = fusion.Source("net", "own.prototxt", module=small, example=torch.zeros(1, 3, 8, 8))
    with pytest.raises(ComposeError, match="source 'net' has both a module and a file"):
        fusion.compose([both], num_output=5)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"prototxt": "own.prototxt", "as_caffe": True}, "as_caffe is for ONNX files and PyTorch nets"),
        ({"prototxt": "nets.py:Small:small.pth", "weights": "small.pth"}, "source 'net' holds its weights"),
        ({"prototxt": "nets.py:Smal:small.pth"}, "source 'net': it has no class or function 'Smal'"),
        ({"prototxt": "nets.py:Small:nix.pth"}, "source 'net': there is no file nix.pth"),
        pytest.param(
            {"prototxt": "nets.py:Small:small.pth", "at": "nix"},
            "^nets.py:Small:small.pth: source 'net': cut blob 'nix'",
            marks=pytest.mark.slow,
        ),
        ({"module": torch.nn.ReLU()}, "source 'net': a module is converted with an example of its input"),
    ],
)
def test_sources_that_are_refused(options: dict[str, object], says: str, small: Small) -> None:
    Path("own.prototxt").write_text(OWN)
    with pytest.raises(ComposeError, match=says):
        fusion.compose([fusion.Source("net", **options)], num_output=5)  # type: ignore[arg-type]


def test_a_pytorch_net_as_an_onnx_file(small: Small, capsys: pytest.CaptureFixture[str]) -> None:
    assert convert.main(["nets.py:Small:small.pth", "net.onnx", "--input-shape", "data=1,3,8,8"]) == 0
    made = to_caffe("net.onnx")
    np.testing.assert_array_equal(made.weights["fc"][1], small.fc.bias.detach())
    write_weights("net.caffemodel", made.weights, net=made.net)
    assert "fc" in to_text(made.net)
    with pytest.raises(OnnxError, match="an example of its input"):
        to_caffe(small)
    with pytest.raises(OnnxError, match=r"nets\.py:Small:small\.pth: a PyTorch net is converted for one size"):
        to_caffe("nets.py:Small:small.pth", shapes={"data": (1, 3, None, 8)})


def test_a_conversion_is_compared_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes that the file leaves open are given; a net that answers otherwise is not handed out."""
    nodes = [node("Transpose", "x", "t", perm=[0, 2, 1, 3]), node("Mul", "t f", "y")]
    path = tmp_path / "net.onnx"
    onnx.save(model(nodes, {"f": 3.0}, shape=("N", 2, "h", "w")), path)
    shapes = {"x": (None, 2, 3, 4)}
    made = to_caffe(path, shapes=shapes)
    assert made.notes[0] == "within 0.0e+00 of ONNX Runtime's largest output"
    assert [(layer.name, layer.type) for layer in made.net.layer] == [("x", "Input"), ("t", "Permute"), ("y", "Power")]
    with pytest.raises(OnnxError, match=r"only forks of Caffe have: Permute"):
        to_caffe(path, shapes=shapes, only_bvlc=True)

    def wrongly(graph: Graph, **settings: bool) -> CaffeNet:
        found = convert_graph(graph, **settings)
        found.net.layer[-1].power_param.scale = 3.001
        return found

    monkeypatch.setattr(caffe_nets, "convert_graph", wrongly)
    with pytest.raises(OnnxError, match=r"net\.onnx: the converted net differs from it by 3\.3e-04 of its largest"):
        to_caffe(path, shapes=shapes)
    monkeypatch.setattr(caffe_nets, "find_spec", lambda name: None)
    made = to_caffe(path, shapes=shapes)
    assert made.notes == (
        "not checked, since onnxruntime is not installed",
        "BVLC Caffe has no Permute; forks have it: SSD",
    )


def test_a_job_converts_once_and_hands_on_what_it_wrote(small: Small) -> None:
    Path("own.prototxt").write_text(OWN)
    fusion.save_weights(build(load_net("own.prototxt"), "TEST", seed=1), "own.caffemodel")
    Path("job.toml").write_text("""output = "out"
num_output = 5
input_shape = [3, 8, 8]
[[source]]
prefix = "own"
net = "own.prototxt"
weights = "own.caffemodel"
at = "f"
[[source]]
prefix = "net"
net = "nets.py:Small:small.pth"
""")
    job = _plan("job.toml")
    steps = {step.name: step for step in job.steps}
    assert "out/plain/net.onnx" in steps["compose-plain"].outputs
    assert steps["compose-plain"].inputs == ("nets.py", "small.pth")
    assert {"nets.py", "small.pth", "own.caffemodel"} <= set(steps["merge"].inputs)
    assert "fusion-" not in steps["compose-plain"].depends  # the temporary file has another name in each process
