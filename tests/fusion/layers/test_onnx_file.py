"""ONNX files fused with Caffe nets: composed, merged, built, trained, resumed, verified and exported."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from torch import nn

import fusion
import prototxt
from fusion.composition import Source, compose
from fusion.errors import ComposeError, FusionError, MergeError, OnnxError, WeightsMismatch
from fusion.export import to_onnx, verify_onnx
from fusion.merge.merge import apply_merge, plan_merge
from fusion.nets.build import blobs, build, params
from fusion.nets.weights import load_weights, save_weights
from fusion.solver import Solver
from fusion.verification import verify_branches
from prototxt.schema.load import load_net

CAFFE = """name: "lenet"
layer { name: "data" type: "ImageData" top: "data" top: "label" include { phase: TRAIN }
  transform_param { scale: 0.0125 }
  image_data_param { source: "train.txt" batch_size: 4 is_color: false } }
layer { name: "data" type: "ImageData" top: "data" top: "label" include { phase: TEST }
  transform_param { scale: 0.0125 }
  image_data_param { source: "train.txt" batch_size: 4 is_color: false } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param { num_output: 4 kernel_size: 5 weight_filler { type: "xavier" } } }
layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1" pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "ip1" type: "InnerProduct" bottom: "pool1" top: "ip1"
  inner_product_param { num_output: 10 weight_filler { type: "xavier" } } }
layer { name: "relu1" type: "ReLU" bottom: "ip1" top: "ip1" }
layer { name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }
"""
SOLVER = """net: "fused/train_val.prototxt" base_lr: 0.05 lr_policy: "fixed" momentum: 0.9 max_iter: 4 display: 0
snapshot_prefix: "run" random_seed: 1 solver_mode: CPU
"""


class LeNet(nn.Module):
    """A net as people write it in torch, with BatchNorm in its body."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5)
        self.norm = nn.BatchNorm2d(6)
        self.ip1 = nn.Linear(6 * 12 * 12, 8)
        self.ip2 = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float [N, 1, 28, 28] to float [N, 3]."""
        x = torch.max_pool2d(torch.relu(self.norm(self.conv1(x))), 2)
        scores: torch.Tensor = self.ip2(torch.relu(self.ip1(x.view(x.size(0), -1))))
        return scores


def export(path: str, *, dynamo: bool = False, training: bool = False, seed: int = 0) -> LeNet:
    torch.manual_seed(seed)
    net = LeNet()
    for name in ("running_mean", "bias"):
        nn.init.normal_(getattr(net.norm, name))
    mode = torch.onnx.TrainingMode.TRAINING if training else torch.onnx.TrainingMode.EVAL
    options: dict[str, Any] = {} if dynamo else {"training": mode, "do_constant_folding": not training}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net.train(training), (torch.zeros(1, 1, 28, 28),), path, dynamo=dynamo, verbose=False, **options
        )
    return net.eval()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Caffe LeNet, a torch LeNet as ONNX, and a list of pictures, in the working directory."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for index in range(12):
        Image.fromarray(rng.integers(0, 255, (28, 28)).astype(np.uint8)).save(f"{index}.png")
    Path("train.txt").write_text("".join(f"{index}.png {index % 3}\n" for index in range(12)))
    Path("lenet.prototxt").write_text(CAFFE)
    save_weights(build("lenet.prototxt", shapes={"data": (1, 1, 28, 28), "label": (1,)}, seed=1), "lenet.caffemodel")
    export("lenet.onnx")
    return tmp_path


def fuse(**options: object) -> fusion.Composition:
    sources = [Source("a", "lenet.prototxt"), Source("b", "lenet.onnx")]
    composed = compose(sources, num_output=3, **options)  # type: ignore[arg-type]
    composed.write("fused")
    Path("solver.prototxt").write_text(SOLVER)
    return composed


def merge(target: str = "fused/init.caffemodel", **sources: str) -> None:
    net = load_net("fused/train_val.prototxt")
    apply_merge(plan_merge(net, {"a": "lenet.caffemodel", **sources}), target)


def test_lenet_and_an_onnx_lenet_fused(folder: Path) -> None:
    composed = fuse(references=True)
    assert any("source 'b': cut at 'Relu_1_output_0', which its classifier reads" in note for note in composed.notes)
    merge()
    assert Path("fused/init.onnx.safetensors").is_file()
    found = verify_branches(
        "fused/train_val.prototxt",
        "fused/init.caffemodel",
        {"a": ("lenet.prototxt", "lenet.caffemodel"), "b": "lenet.onnx"},
    )
    assert [comparison.name for comparison in found] == ["a", "b"]
    for comparison in found:
        assert comparison.first is None, comparison.verdict()
        assert comparison.largest < 1e-5
    exported = to_onnx("fused/deploy.prototxt", "fused/init.caffemodel", outputs=["scores", "b/ip1", "b/19"][:1])
    checked = verify_onnx(exported.net, "fused/init.caffemodel", exported.model.SerializeToString())
    assert checked.first is None, checked.verdict()


@pytest.mark.parametrize("dynamo", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_both_exporters_of_torch(folder: Path, dynamo: bool) -> None:
    if dynamo:
        pytest.importorskip("onnxscript")
    torch_net = export("lenet.onnx", dynamo=dynamo, seed=3)
    fuse(head="zero-init", references=True)
    merge("fused/init.safetensors")
    net = build("fused/deploy.prototxt", shapes={"data": (5, 1, 28, 28)})
    assert load_weights(net, "fused/init.safetensors").missing == ()
    x = torch.randn(5, 1, 28, 28)
    with torch.no_grad():
        found = blobs(net, {"data": x})
        expected = torch_net(x)
    (scores,) = (call.tops[0] for call in net.plan.calls if call.name == "b/classifier")
    torch.testing.assert_close(found[scores], expected, rtol=1e-5, atol=1e-6)


def test_weights_travel_beside_the_caffemodel(folder: Path) -> None:
    fuse()
    merge()
    net = build("fused/train_val.prototxt", "TRAIN", shapes={"data": (4, 1, 28, 28), "label": (4,)}, seed=5)
    for tensor in params(net)["b/onnx"]:
        tensor.data.add_(1)
    before = [tensor.clone() for tensor in params(net)["b/onnx"]]
    save_weights(net, "later.caffemodel")
    load_weights(net, "fused/init.caffemodel")
    assert not torch.equal(params(net)["b/onnx"][0], before[0])
    load_weights(net, "later.caffemodel", strict=True)
    assert all(map(torch.equal, params(net)["b/onnx"], before))
    Path("later.onnx.safetensors").unlink()
    with pytest.raises(WeightsMismatch, match=r"are in later\.onnx\.safetensors, which does not exist"):
        load_weights(net, "later.caffemodel")
    load_weights(
        build("lenet.prototxt", shapes={"data": (1, 1, 28, 28), "label": (1,)}), "lenet.caffemodel", strict=True
    )


@pytest.mark.parametrize("ending", [".caffemodel", ".caffemodel.h5", ".safetensors"])
def test_every_format_holds_the_pair(folder: Path, ending: str) -> None:
    fuse()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # HDF5 and slashes in names
        merge(f"init{ending}")
    net = build("fused/deploy.prototxt")
    for tensor in params(net)["b/onnx"]:
        tensor.data.zero_()
    load_weights(net, f"init{ending}", strict=True)
    assert all(tensor.abs().sum() > 0 for tensor in params(net)["b/onnx"])
    assert Path("init.onnx.safetensors").exists() == (ending != ".safetensors")


def thaw() -> None:
    path = Path("fused/train_val.prototxt")
    path.write_text(path.read_text().replace("frozen: true", "frozen: false"))


@pytest.mark.parametrize("frozen", [True, False])
def test_training_and_resuming_in_exact_state(folder: Path, frozen: bool) -> None:
    export("lenet.onnx", training=True)
    fuse()
    if not frozen:
        thaw()
    merge()
    whole = Solver("solver.prototxt", weights="fused/init.caffemodel", device="cpu")
    start = [tensor.clone() for tensor in params(whole.net)["b/onnx"]]
    whole.step(2)
    whole.snapshot()
    assert Path("run_iter_2.onnx.safetensors").is_file()
    whole.step(2)
    ended = params(whole.net)["b/onnx"]
    changed = [not torch.equal(one, other) for one, other in zip(start, ended, strict=True)]
    del changed[1]  # a bias in front of BatchNorm has no gradient
    assert not any(changed) if frozen else all(changed)  # BatchNorm's statistics too
    resumed = Solver("solver.prototxt", weights="fused/init.caffemodel", device="cpu")
    resumed.restore("run_iter_2.solverstate")
    resumed.step(2)
    for one, other in zip(ended, params(resumed.net)["b/onnx"], strict=True):
        assert torch.equal(one, other)


def test_weights_of_another_file_of_the_same_graph(folder: Path) -> None:
    fuse()
    export("other.onnx", seed=9)
    plan = plan_merge(load_net("fused/train_val.prototxt"), {"a": "lenet.caffemodel", "b": "other.onnx"})
    assert "b/onnx" in plan.table()
    assert "other.onnx" in plan.table()
    assert '"onnx": "other.onnx"' in plan.to_json()
    apply_merge(plan, "fused/init.caffemodel")
    (found,) = verify_branches("fused/train_val.prototxt", "fused/init.caffemodel", {"b": "other.onnx"})
    assert found.first is None
    (found,) = verify_branches("fused/train_val.prototxt", "fused/init.caffemodel", {"b": "lenet.onnx"})
    assert found.first is not None


def test_weights_of_another_graph_are_refused(folder: Path) -> None:
    fuse()
    model = onnx.load("lenet.onnx")
    for tensor in model.graph.initializer:
        if tensor.dims == [8, 864]:
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.zeros((7, 864), np.float32), tensor.name))
        elif tensor.dims == [8]:
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.zeros(7, np.float32), tensor.name))
    onnx.save(model, "other.onnx")
    with pytest.raises(MergeError, match=r"other\.onnx does not have the graph of lenet\.onnx"):
        plan_merge(load_net("fused/train_val.prototxt"), {"a": "lenet.caffemodel", "b": "other.onnx"})


@pytest.mark.parametrize(
    ("at", "message"),
    [
        ("relu_2", r"there is no value 'relu_2'[\s\S]*values are: "),
        ("input.1", "is an input of the net"),
        ("onnx::nothing", "there is no value"),
    ],
)
def test_a_wrong_cut_lists_where_the_net_can_be_cut(folder: Path, at: str, message: str) -> None:
    with pytest.raises(ComposeError, match=message) as caught:
        compose([Source("a", "lenet.prototxt"), Source("b", "lenet.onnx", at)], num_output=3)
    assert "MaxPool_output_0 (6x12x12)" in str(caught.value)


def test_a_net_that_cannot_be_run_is_refused_before_anything_is_written(folder: Path) -> None:
    model = onnx.load("lenet.onnx")
    for node in model.graph.node:
        if node.op_type == "Relu":
            node.op_type, node.domain = "Rectifier", "com.example"
    model.opset_import.append(onnx.helper.make_opsetid("com.example", 1))
    onnx.save(model, "strange.onnx")
    with pytest.raises(ComposeError, match=r"com\.example::Rectifier \(2x, first .*is not ONNX's own"):
        compose(
            [
                Source("a", "lenet.prototxt"),
                Source("b", "strange.onnx", onnx.load("strange.onnx").graph.output[0].name),
            ],
            num_output=3,
        )


def test_files_that_are_no_nets(folder: Path) -> None:
    Path("broken.onnx").write_bytes(b"\xff\xfe nothing")
    with pytest.raises(ComposeError, match=r"source 'b': this is no readable ONNX file"):
        compose([Source("a", "lenet.prototxt"), Source("b", "broken.onnx")], num_output=3)
    with pytest.raises(ComposeError, match=r"source 'b': there is no file none\.onnx"):
        compose([Source("a", "lenet.prototxt"), Source("b", "none.onnx")], num_output=3)


def test_pictures_of_another_size_are_told(folder: Path) -> None:
    Path("lenet.prototxt").write_text(CAFFE.replace("is_color: false", "is_color: true"))
    with pytest.raises(ComposeError, match="takes images of 1x28x28"):
        fuse()


def test_a_layer_without_its_file_says_so(folder: Path) -> None:
    fuse()
    Path("lenet.onnx").unlink()
    with pytest.raises(FusionError, match=r"lenet\.onnx: layer 'b/onnx': No such file"):
        build("fused/deploy.prototxt")
    with pytest.raises(MergeError, match=r"lenet\.onnx: layer 'b/onnx': No such file"):
        plan_merge(load_net("fused/train_val.prototxt"), {"a": "lenet.caffemodel"})


def test_counts_of_bottoms_and_tops_are_checked(folder: Path) -> None:
    text = 'layer { name: "d" type: "Input" top: "d" input_param { shape { dim: 2 dim: 1 dim: 28 dim: 28 } } }\n'
    text += 'layer { name: "o" type: "Onnx" bottom: "d" top: "o" onnx_param { file: "lenet.onnx" output: "none" } }'
    with pytest.raises(FusionError, match="there is no value 'none'"):
        build(prototxt.parse(text))
    with pytest.raises(OnnxError):
        build(prototxt.parse(text))


def test_composing_and_merging_never_import_torch(folder: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys\nfrom fusion.composition import Source, compose\nfrom fusion.merge.merge import *\n"
        "from prototxt.schema.load import load_net\n"
        "compose([Source('a', 'lenet.prototxt'), Source('b', 'lenet.onnx')], num_output=3).write('fused')\n"
        "apply_merge(plan_merge(load_net('fused/train_val.prototxt'), {'a': 'lenet.caffemodel'}), 'i.caffemodel')\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_net_of_tensorflow_takes_channels_last(folder: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "k": rng.standard_normal((3, 3, 1, 4)), "dense": rng.standard_normal((4, 3)), "bias": rng.standard_normal(3),
    }  # fmt: skip
    made = onnx.helper.make_node
    nodes = [
        made("Transpose", ["images:0"], ["first:0"], perm=[0, 3, 1, 2]),
        made("Transpose", ["k"], ["kernel:0"], perm=[3, 2, 0, 1]),
        made("Conv", ["first:0", "kernel:0"], ["conv:0"], auto_pad="SAME_UPPER", strides=[2, 2]),
        made("Transpose", ["conv:0"], ["last:0"], perm=[0, 2, 3, 1]),
        made("Relu", ["last:0"], ["relu:0"]),
        made("ReduceMean", ["relu:0", "axes"], ["mean:0"], keepdims=0),
        made("MatMul", ["mean:0", "dense"], ["mul:0"]),
        made("Add", ["mul:0", "bias"], ["Identity:0"]),
    ]
    held = [onnx.numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()]
    held.append(onnx.numpy_helper.from_array(np.array([1, 2]), "axes"))
    values = [onnx.helper.make_tensor_value_info("images:0", 1, ["unk__1", 28, 28, 1]),
              onnx.helper.make_tensor_value_info("Identity:0", 1, ["unk__2", 3])]  # fmt: skip
    graph = onnx.helper.make_graph(nodes, "tf", values[:1], values[1:], held)
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9), "lenet.onnx"
    )
    composed = fuse(references=True)
    assert "source 'b': cut at 'mean:0', which its classifier reads" in composed.notes
    merge()
    (found,) = verify_branches("fused/train_val.prototxt", "fused/init.caffemodel", {"b": "lenet.onnx"})
    assert found.first is None, found.verdict()
    assert [item.blob for item in found.differences] == ["b/mean:0", "b/Identity:0"]
