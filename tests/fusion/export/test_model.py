"""Whole nets as ONNX: checked with two batch sizes, and every reason why one cannot be exported."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fusion.errors import ExportError, FusionError, WeightsMismatch
from fusion.export import Exported, to_onnx, verify_onnx
from fusion.nets.build import build, params
from fusion.nets.weights import save_weights
from prototxt.edit.deploy import deploy
from prototxt.errors import PrototxtError
from prototxt.schema.load import load_net
from prototxt.text.parser import parse, parse_file

TRAIN = """name: "small"
layer { name: "data" type: "ImageData" top: "data" top: "label" image_data_param { source: "absent" batch_size: 4
  new_height: 9 new_width: 9 is_color: false } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 3 kernel_size: 3
  weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "drop" type: "Dropout" bottom: "conv" top: "conv" }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip" inner_product_param { num_output: 2
  weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
DATA = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 4 dim: 6 dim: 6 } } }\n'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("train_val.prototxt").write_text(TRAIN)
    save_weights(build("train_val.prototxt", shapes={"data": (1, 1, 9, 9), "label": (1,)}, seed=1), "net.caffemodel")
    return tmp_path


def checked(exported: Exported, weights: object, batches: tuple[int, ...] = (1, 3)) -> float:
    found = verify_onnx(exported.net, weights, exported.model.SerializeToString(), batches=batches)  # type: ignore[arg-type]
    assert found.first is None, found.verdict()
    return found.largest


def test_a_train_val_net_becomes_its_deploy_form(folder: Path) -> None:
    exported = to_onnx("train_val.prototxt", "net.caffemodel")
    assert exported.inputs == {"data": (None, 1, 9, 9)}
    assert exported.outputs == ("prob",)
    assert checked(exported, "net.caffemodel") < 1e-5
    exported.save("net.onnx")
    model = onnx.load("net.onnx")
    assert [node.op_type for node in model.graph.node] == ["Conv", "Relu", "Identity", "Flatten", "Gemm", "Softmax"]
    assert model.opset_import[0].version == 17
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"


def test_the_same_net_gives_the_same_bytes(folder: Path) -> None:
    bytes_of = [to_onnx("train_val.prototxt", "net.caffemodel").model.SerializeToString() for _ in range(2)]
    assert bytes_of[0] == bytes_of[1]


def test_outputs_and_shapes_can_be_chosen(folder: Path) -> None:
    exported = to_onnx("train_val.prototxt", "net.caffemodel", outputs=["ip", "conv"])
    assert exported.outputs == ("ip", "conv")
    checked(exported, "net.caffemodel")
    Path("open.prototxt").write_text(TRAIN.replace("new_height: 9 new_width: 9 ", ""))
    exported = to_onnx("open.prototxt", "net.caffemodel", inputs={"data": (1, 1, 9, 9)})
    assert exported.inputs == {"data": (None, 1, 9, 9)}


def test_a_layer_that_fixes_the_batch_is_told(folder: Path) -> None:
    text = DATA.replace("dim: 1 ", "dim: 2 ", 1)
    text += 'layer { name: "r" type: "Reshape" bottom: "data" top: "r" reshape_param { shape { dim: 3 dim: 96 } } }'
    Path("net.prototxt").write_text(text)
    exported = to_onnx("net.prototxt", {})
    assert exported.inputs == {"data": (2, 4, 6, 6)}
    assert "the net fixes it" in exported.notes[-1] or "stays as it is" in exported.notes[-1]
    checked(exported, {})


def test_all_layers_that_cannot_be_exported_are_listed(folder: Path) -> None:
    Path("net.prototxt").write_text(
        DATA + 'layer { name: "p" type: "Pooling" bottom: "data" top: "p" '
        "pooling_param { pool: STOCHASTIC kernel_size: 2 } }\n"
        + 'layer { name: "s" type: "SPP" bottom: "p" top: "s" spp_param { pyramid_height: 2 } }\n'
    )
    with pytest.raises(ExportError) as caught:
        to_onnx("net.prototxt", {})
    lines = str(caught.value).splitlines()
    assert "2:1: layer 'p' (Pooling) cannot be exported: ONNX has no stochastic pooling" in lines[0]
    assert "3:1: layer 's' cannot be exported: there is no exporter for the type 'SPP'" in lines[2]


def test_weights_that_are_missing_or_do_not_fit(folder: Path) -> None:
    with pytest.raises(WeightsMismatch) as caught:
        to_onnx("train_val.prototxt", {"conv1": [np.zeros((3, 1, 3, 3))], "ip": [np.zeros((2, 5)), np.zeros(2)]})
    assert "layer 'conv' has no weights in the weights\n  hint: did you mean 'conv1'?" in str(caught.value)
    assert "layer 'ip' needs blobs of shape [(2, 147), (2,)], but the weights has [(2, 5), (2,)]" in str(caught.value)


@pytest.mark.parametrize("opset", [12, 99])
def test_opsets_out_of_range(folder: Path, opset: int) -> None:
    with pytest.raises(ExportError, match=f"opset {opset} is not one of 13 to"):
        to_onnx("train_val.prototxt", "net.caffemodel", opset=opset)


def test_a_difference_is_found(folder: Path) -> None:
    exported = to_onnx("train_val.prototxt", "net.caffemodel", outputs=["ip"])
    other = build("train_val.prototxt", shapes={"data": (1, 1, 9, 9), "label": (1,)}, seed=2)
    weights = {name: [tensor.detach().numpy() for tensor in tensors] for name, tensors in params(other).items()}
    found = verify_onnx(exported.net, weights, exported.model.SerializeToString())
    assert found.first is not None
    assert found.first.layer == "ip"


def test_files_that_are_no_models_or_of_other_nets(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exported = to_onnx("train_val.prototxt", "net.caffemodel")
    Path("broken.onnx").write_bytes(b"no model")
    with pytest.raises(ExportError, match="ONNX Runtime cannot load the model"):
        verify_onnx(exported.net, "net.caffemodel", "broken.onnx")
    Path("other.prototxt").write_text(TRAIN.replace('"ip"', '"other"'))
    net = load_net(deploy(parse_file("other.prototxt")).document)
    exported = to_onnx("train_val.prototxt", "net.caffemodel", outputs=["ip"])
    with pytest.raises(FusionError, match="the net has no blob 'ip'"):
        verify_onnx(net, "net.caffemodel", exported.model.SerializeToString())
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ExportError, match="needs ONNX Runtime") as caught:
        verify_onnx(exported.net, "net.caffemodel", "broken.onnx")
    assert 'pip install "caffe-fusion[onnxruntime]"' in str(caught.value)


def gated(kind: str, param: str) -> str:
    bottoms = "".join(f' bottom: "{name}"' for name in ("a", "b", "data"))
    parts = "".join(f'layer {{ name: "{n}" type: "{t}" bottom: "data" top: "{n}" }}\n' for n, t in
                    (("a", "AbsVal"), ("b", "TanH")))  # fmt: skip
    return f'{DATA}{parts}layer {{ name: "g" type: "{kind}"{bottoms} top: "g" {param} }}\n'


@pytest.mark.parametrize(
    "text",
    [
        gated("WeightedSum", ""),
        gated("WeightedSum", "weighted_sum_param { normalization: SOFTMAX }"),
        gated("Gate", 'gate_param { filler { type: "gaussian" std: 0.1 } }'),
        DATA + 'layer { name: "d" type: "ConvolutionDepthwise" bottom: "data" top: "d" '
        'convolution_param { num_output: 4 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }',
        DATA + 'layer { name: "c" type: "ReLU6" bottom: "data" top: "c" }',
    ],
)
def test_own_types_and_forks(folder: Path, text: str) -> None:
    Path("net.prototxt").write_text(text)
    net = build("net.prototxt", seed=3)
    weights = {name: [tensor.detach().numpy() for tensor in tensors] for name, tensors in params(net).items()}
    if "g" in weights and weights["g"][0].ndim == 1:
        weights["g"] = [np.array([0.5, -0.2, 2.0], np.float32)]
    checked(to_onnx("net.prototxt", weights), weights)


MODELS = {
    "lenet": "models/lenet/net.prototxt",
    "squeezenet": "corpus/SqueezeNet__train_val.prototxt",
    "mobilenet": "corpus/MobileNet-Caffe__mobilenet_v2_deploy.prototxt",
    "googlenet": "corpus/caffe__train_val.prototxt",
    "resnet50": "corpus/deep-residual-networks__ResNet-50-deploy.prototxt",
    "alexnet": "models/alexnet/net.prototxt",
}
LARGE = ("googlenet", "resnet50", "alexnet", "mobilenet")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in LARGE else []) for name in MODELS]
)
def test_public_nets(name: str, reference: Path, tmp_path: Path) -> None:
    """Logits with random weights of a sane scale; the softmax of such nets hides differences."""
    shapes = {"squeezenet": {"data": (1, 3, 227, 227)}, "googlenet": {"data": (1, 3, 224, 224)}}.get(name, {})
    net = load_net(deploy(parse_file(reference / MODELS[name]), shapes).document)
    types = {layer.name: layer.type for layer in net.layer}
    random = np.random.default_rng(0)
    weights = {
        layer: [_sane(types[layer], index, tuple(tensor.shape), random) for index, tensor in enumerate(tensors)]
        for layer, tensors in params(build(net, seed=0)).items()
    }
    exported = to_onnx(reference / MODELS[name], weights, inputs=shapes, outputs=[net.layer[-1].bottom[0]])
    assert checked(exported, weights, (1, 2)) < 1e-5


def _sane(kind: str, index: int, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    if kind == "BatchNorm":
        made = [random.normal(0, 0.1, shape), random.uniform(0.5, 1.5, shape), np.ones(shape)][index]
    elif len(shape) > 1:
        made = random.standard_normal(shape, np.float32) * np.sqrt(2 / np.prod(shape[1:]))
    else:
        made = random.uniform(0.8, 1.2, shape) if (kind, index) == ("Scale", 0) else random.normal(0, 0.05, shape)
    return made.astype(np.float32)


def test_a_blob_changed_through_shared_memory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    flat = 'layer { name: "flat" type: "Flatten" bottom: "data" top: "y" }\n'
    relu = 'layer { name: "relu" type: "ReLU" bottom: "y" top: "y" }\n'
    after = 'layer { name: "after" type: "Power" bottom: "data" top: "z" power_param { scale: 2 } }\n'
    path.write_text(DATA + flat + relu + after)
    with pytest.raises(PrototxtError, match="'relu' works in place on 'y', which shares its memory with 'data'"):
        to_onnx(path, {})
    path.write_text(DATA + flat + relu)
    assert checked(to_onnx(path, {}), {}) == 0


def test_a_model_that_fits_one_batch_alone_is_our_error() -> None:
    shapes = {"x": ["N", 3], "y": [2, 3]}
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in shapes.items()]
    size = numpy_helper.from_array(np.array([2, 3]), "size")
    graph = helper.make_graph([helper.make_node("Reshape", ["x", "size"], ["y"])], "g", ends[:1], ends[1:], [size])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    net = load_net(
        parse("""layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 3 } } }
    layer { name: "y" type: "Power" bottom: "x" top: "y" }""")
    )
    with pytest.raises(ExportError, match=r"ONNX Runtime cannot run the model: .*Reshape"):
        verify_onnx(net, {}, model.SerializeToString())
