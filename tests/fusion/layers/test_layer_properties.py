"""Every layer type beyond Caffe's numbers: true gradients, one graph to compile or export, number types."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fusion.distributed import process_group
from fusion.errors import BuildError
from fusion.layers.concat_eltwise import ArgMax
from fusion.layers.losses import SoftmaxWithLoss, divide
from fusion.layers.measures import TopKAccuracy
from fusion.layers.recurrent import reset
from fusion.layers.registry import Context, find_layer_type, known_types
from fusion.nets import build as nets, graph
from fusion.nets.graph import Net
from prototxt import load_net, parse
from prototxt.schema.messages import BlobProto, LayerParameter
from prototxt.shapes import LAYER_TYPES

LAYERS = Path(__file__).parents[2] / "golden" / "layers"

# One recorded case per type, away from kinks and ties.
REPRESENTATIVE = {
    "AbsVal": "absval",
    "Accuracy": "accuracy",
    "ArgMax": "argmax_val_top2",
    "BatchNorm": "bn_train_from_stats",
    "BatchReindex": "batch_reindex",
    "Bias": "bias_default",
    "BNLL": "bnll",
    "Clip": "clip",
    "Concat": "concat",
    "ContrastiveLoss": "contrastive",
    "Convolution": "conv_group2",
    "Crop": "crop_offset1",
    "Deconvolution": "deconv_group",
    "Dropout": "dropout_train_random",
    "ELU": "elu",
    "Eltwise": "eltwise_coeff",
    "Embed": "embed",
    "EuclideanLoss": "euclidean",
    "Exp": "exp_base2",
    "Filter": "filter",
    "Flatten": "flatten",
    "HingeLoss": "hinge_l1",
    "Im2col": "im2col_dil_hw",
    "InfogainLoss": "infogain_H",
    "InnerProduct": "ip_axis2_transpose",
    "LRN": "lrn_default",
    "LSTM": "lstm_expose_hidden",
    "LSTMUnit": "lstm_unit",
    "Log": "log_base10",
    "MVN": "mvn",
    "MultinomialLogisticLoss": "multinomial",
    "PReLU": "prelu",
    "Parameter": "parameter",
    "Pooling": "pool_ave_3s2_pad1",
    "Power": "power_3_noshift",
    "RNN": "rnn_expose_hidden",
    "ReLU": "relu_slope",
    "Reduction": "reduction_sumsq_axis1_coeff",
    "Reshape": "reshape_0_neg1",
    "SPP": "spp3_max",
    "Scale": "scale_bias",
    "Sigmoid": "sigmoid",
    "SigmoidCrossEntropyLoss": "sigce",
    "Silence": "silence",
    "Slice": "slice_points",
    "Softmax": "softmax",
    "SoftmaxWithLoss": "smloss_spatial_ignore_valid",
    "Split": "split_explicit",
    "Swish": "swish_beta",
    "TanH": "tanh",
    "Threshold": "threshold",
    "Tile": "tile",
}
DYNAMIC = {"Filter": "how many samples it gives depends on the data"}
RANDOM = {"Dropout": "a new mask at each call"}
# Exposed states lose their gradients, in Caffe too, so derivatives are checked without them.
STEADY = {"LSTM": "lstm_basic", "RNN": "rnn_basic"}


def load(name: str, dtype: torch.dtype = torch.float32) -> tuple[Net, dict[str, Tensor]]:
    folder = LAYERS / name
    meta: dict[str, Any] = json.loads((folder / "meta.json").read_text())
    net = nets.build(folder / "net.prototxt", meta["phase"], seed=0)
    with np.load(folder / "io.npz") as file:
        arrays = dict(file)
    for layer, tensors in nets.params(net).items():
        for index, tensor in enumerate(tensors):
            with torch.no_grad():
                tensor.copy_(torch.from_numpy(arrays[f"param:{layer}:{index}"]))
    start = "s0:in:" if any(key.startswith("s0:") for key in arrays) else "in:"
    inputs = {key.removeprefix(start): torch.from_numpy(a) for key, a in arrays.items() if key.startswith(start)}
    return net.to(dtype), {key: x.to(dtype) for key, x in inputs.items()}


def test_every_caffe_type_with_a_builder_has_a_case() -> None:
    caffes = {name for name, kind in LAYER_TYPES.items() if not kind.source} & set(known_types())
    assert set(REPRESENTATIVE) <= caffes
    families = {"activation", "concat_eltwise", "convolution", "dense", "distances", "dropout", "losses", "measures"}
    families |= {"normalization", "pooling", "recurrent", "reshape", "scale", "slice_select"}
    built = {name for name in caffes if _family(name) in families}
    assert built == set(REPRESENTATIVE)


def _family(name: str) -> str:
    kind = find_layer_type(name)
    assert kind is not None
    return kind.build.__module__.removeprefix("fusion.layers.")


@pytest.mark.parametrize("kind", sorted(set(REPRESENTATIVE) - set(RANDOM)))
def test_gradients_are_derivatives(kind: str) -> None:
    net, inputs = load({**REPRESENTATIVE, **STEADY}[kind], torch.float64)
    values = graph.run(net, inputs)
    labels = {key for key in inputs if key in ("l", "label", "idx", "sel", "s", "cont", "H", "ref", "t")}
    free = [key for key in inputs if key not in labels and kind != "Embed"]
    parameters = {key: p.detach() for key, p in net.named_parameters()}
    ends = [value for _, value in net.plan.outputs if values[value].is_floating_point()]

    def outputs(*tensors: Tensor) -> tuple[Tensor, ...]:
        reset(net)
        given = {**inputs, **dict(zip(free, tensors[: len(free)], strict=True))}
        own = dict(zip(parameters, tensors[len(free) :], strict=True))
        out = torch.func.functional_call(net, own, (given,))
        return tuple(out[end] for end in ends if out[end].requires_grad)

    tensors = [inputs[key].clone().requires_grad_() for key in free]
    tensors += [p.clone().requires_grad_() for p in parameters.values()]
    if tensors and outputs(*tensors):
        assert torch.autograd.gradcheck(
            outputs, tensors, atol=1e-4 if kind == "ContrastiveLoss" else 1e-5, fast_mode=True
        )


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(set(REPRESENTATIVE) - set(DYNAMIC) - set(RANDOM)))
def test_compile_takes_the_layer_as_one_graph(kind: str) -> None:
    net, inputs = load(REPRESENTATIVE[kind])
    expected = net(inputs)
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
        found = compiled(inputs)
    for key, tensor in expected.items():
        torch.testing.assert_close(found[key], tensor, equal_nan=True)


@pytest.mark.parametrize("kind", sorted(set(REPRESENTATIVE) - set(DYNAMIC) - set(RANDOM)))
def test_export_takes_the_layer(kind: str) -> None:
    net, inputs = load(REPRESENTATIVE[kind])
    expected = net(inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(net, (inputs,), strict=False)
        found = program.module()(inputs)
    for key, tensor in expected.items():
        torch.testing.assert_close(found[key], tensor, equal_nan=True)


@pytest.mark.parametrize("kind", sorted(REPRESENTATIVE))
def test_bfloat16_autocast_comes_near(kind: str) -> None:
    net, inputs = load(REPRESENTATIVE[kind])
    torch.manual_seed(0)
    expected = net(inputs)
    torch.manual_seed(0)
    net, inputs = load(REPRESENTATIVE[kind])
    with torch.autocast("cpu", torch.bfloat16):
        found = net(inputs)
    weights = nets.loss_weights(net)
    for key, tensor in expected.items():
        scale = float(tensor.detach().abs().max()) if tensor.numel() else 0.0
        torch.testing.assert_close(found[key].to(tensor.dtype), tensor, rtol=3e-2, atol=3e-2 * scale, equal_nan=True)
        assert key not in weights or found[key].dtype == torch.float32 or kind in ("BatchReindex", "Reduction")


# Samples that these cases keep apart, while the layer with other data, or called again, would not.
CAUTIOUS = {"bias_two_bottoms", "bias_two_bottoms_axis1", "dropout_train_random", "lstm_3steps_carry", "lstm_basic",
            "lstm_x4d", "reshape_all", "rnn_3steps_carry", "rnn_basic", "rnn_static", "rnn_x4d", "scale_axis0",
            "scale_axis0_all", "scale_two_bottoms_scalar"}  # fmt: skip


# All recorded layers that work along an axis or in two ways, and one of each other type, with more than one sample.
ALONG_AN_AXIS = ("*axis", "argmax", "bias", "bn_t", "concat", "crop", "dropout", "flatten", "ip", "reduction",
                 "reshape", "scale", "slice", "softmax", "tile")  # fmt: skip
UNSUITED = {"batch_reindex", "bn_train_n1_hw1", "filter", "infogain_H", "lstm_unit", "parameter", "reshape_batch"}
UNSUITED |= {"dropout_test_inplace", "scale_inplace", "silence", "softmax_inplace"}
WITH_SAMPLES = {folder.name for kind in ALONG_AN_AXIS for folder in LAYERS.glob(f"{kind}*")}
WITH_SAMPLES = {*WITH_SAMPLES, *CAUTIOUS, *REPRESENTATIVE.values()} - UNSUITED


@pytest.mark.parametrize("name", sorted(WITH_SAMPLES))
def test_tops_that_may_be_cached_depend_on_their_own_sample_alone(name: str) -> None:
    own = [layer for layer in load_net(LAYERS / name / "net.prototxt").layer if layer.type != "Input"]
    net, inputs = load(name)
    count = max((len(inputs[bottom]) for bottom in own[0].bottom if inputs[bottom].dim()), default=1)
    assert len(own) == 1
    assert count > 1
    changed = {key: torch.cat([x[:1], x[:-1]]) if len(x) == count else x for key, x in inputs.items() if x.dim()}
    found = []
    for given in (inputs, {**inputs, **changed}):
        torch.manual_seed(0)
        reset(net)
        found.append([graph.run(net, given)[top].detach() for top in net.plan.calls[-1].tops])
    apart = all(x.dim() and len(x) == count and torch.equal(x[0], y[0]) for x, y in zip(*found, strict=True))
    kind = find_layer_type(own[0].type)
    assert kind is not None
    context = Context([tuple(inputs[bottom].shape) for bottom in own[0].bottom], phase=net.plan.phase)
    assert kind.keeps_samples_apart(own[0], context) == (apart and name not in CAUTIOUS)


APART = [
    ('type: "Dropout" dropout_param { dropout_ratio: 0 }', (2, 3), True),
    ('type: "Dropout" dropout_param { dropout_ratio: 1 }', (2, 3), False),
    ('type: "Pooling" pooling_param { pool: AVE }', (2, 3, 4, 4), True),
    ('type: "Pooling" pooling_param { pool: STOCHASTIC }', (2, 3, 4, 4), False),
    ('type: "Onnx" onnx_param { frozen: true }', (2, 3), True),
    ('type: "Onnx" onnx_param { frozen: false }', (2, 3), False),
    ('type: "BatchNorm" batch_norm_param { use_global_stats: true }', (2, 3), True),
    ('type: "BatchNorm"', (2, 3), False),
    ('type: "Reshape" reshape_param { shape { dim: 0 dim: -1 } }', (2, 3), True),
    ('type: "Reshape" reshape_param { shape { dim: 2 dim: -1 } }', (2, 3), False),
    ('type: "Reshape" reshape_param { shape { dim: 0 } num_axes: 0 }', (2, 3), False),
    ('type: "Reshape" reshape_param { shape { } num_axes: 1 }', (1, 3), False),
    ('type: "Reshape" reshape_param { shape { dim: 3 } axis: 1 }', (2, 3), True),
    ('type: "Reshape" reshape_param { shape { dim: 1 } axis: -1 num_axes: 0 }', (2, 3), True),
    ('type: "Reshape" reshape_param { shape { dim: 1 } axis: -3 num_axes: 0 }', (2, 3), False),
    ('type: "ArgMax" argmax_param { axis: 0 }', (2, 3), False),
    ('type: "ArgMax" argmax_param { axis: -1 }', (2, 3), True),
    ('type: "ArgMax" argmax_param { axis: -2 }', (2, 3), False),
]  # fmt: skip


@pytest.mark.parametrize(("text", "shape", "apart"), APART)
def test_whether_samples_stay_apart_follows_the_settings(text: str, shape: tuple[int, ...], apart: bool) -> None:
    (layer,) = load_net(parse(f'layer {{ name: "a" {text} bottom: "x" top: "y" }}')).layer
    kind = find_layer_type(layer.type)
    assert kind is not None
    assert kind.keeps_samples_apart(layer, Context([shape], phase="TRAIN")) is apart
    steady = layer.type in ("Dropout", "Pooling", "Onnx", "BatchNorm")
    assert kind.keeps_samples_apart(layer, Context([shape], phase="TEST")) is (apart or steady)


@pytest.mark.parametrize("kind", ["BatchNorm", "Bias", "Convolution", "InnerProduct", "LSTM", "PReLU", "RNN", "Scale"])
def test_without_shapes_a_layer_with_blobs_asks_for_them(kind: str) -> None:
    found = find_layer_type(kind)
    assert found is not None
    with pytest.raises(BuildError, match="layer 'a': the shapes of its bottoms are not known"):
        found.build(LayerParameter(name="a", type=kind, bottom=["x"]), Context(name="a"))


# Of settings that have a short cut at the neutral value, values beside it.
FORMULAS: list[tuple[str, Callable[[float], float]]] = [
    ('type: "Swish" swish_param { beta: 2 }', lambda x: x / (1 + math.exp(-2 * x))),
    ('type: "Power" power_param { power: 2 scale: 2 shift: 1 }', lambda x: (1 + 2 * x) ** 2),
    ('type: "Power" power_param { power: 1 scale: 1 shift: 0 }', lambda x: x),
    ('type: "Exp" exp_param { base: 2 shift: 1 }', lambda x: 2 ** (1 + x)),
    ('type: "Reduction" reduction_param { axis: 1 coeff: 2 }', lambda x: 2 * x),
    ('type: "Eltwise" bottom: "x" eltwise_param { coeff: 2 coeff: 1 }', lambda x: 3 * x),
    ('type: "LRN" lrn_param { local_size: 1 alpha: 3 beta: 2 k: 2 }', lambda x: x / (2 + 3 * x * x) ** 2),
    ('type: "ReLU" relu_param { negative_slope: 2 }', lambda x: x if x > 0 else 2 * x),
]


@pytest.mark.parametrize(("text", "formula"), FORMULAS, ids=[text for text, _ in FORMULAS])
def test_settings_beside_the_neutral_ones(text: str, formula: Callable[[float], float]) -> None:
    inputs = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 3 dim: 1 dim: 1 dim: 1 } } }'
    net = nets.build(parse(f'{inputs} layer {{ name: "a" {text} bottom: "x" top: "y" }}'), "TEST")
    values = [-0.5, 0.25, 1.5]
    found = net({"x": torch.tensor(values).reshape(3, 1, 1, 1)})["y"]
    assert found.flatten().tolist() == pytest.approx([formula(x) for x in values], rel=1e-6)


def test_a_loss_is_divided_by_one_at_least(monkeypatch: pytest.MonkeyPatch) -> None:
    total = torch.tensor(6.0)
    divisors = [divide(total, mode, 1, 2, None) for mode in ("BATCH_SIZE", "FULL", "VALID", "NONE")]  # type: ignore[arg-type]
    assert [6 / float(found) for found in divisors] == [1, 2, 2, 1]
    assert [float(divide(total, "VALID", 3, 6, torch.tensor(valid))) for valid in (0, 1, 2)] == [6, 6, 3]
    # Two processes, whose mean of counts stands in for the other's: the mean of both losses is that of the batch.
    group = SimpleNamespace(size=2, mean=lambda valid: valid / 2)
    monkeypatch.setattr(process_group, "current_group", lambda: group)
    assert [float(divide(total, "VALID", 3, 6, torch.tensor(valid))) for valid in (0, 1, 4)] == [12, 12, 3]
    assert float(divide(total, "NONE", 3, 6, None)) == 12
    assert float(divide(total, "BATCH_SIZE", 3, 6, None)) == 2


def test_shares_of_a_single_record_or_class() -> None:
    scores, label = torch.tensor([[3.0, 1, 2], [1, 2, 3], [0, 5, 1]]), torch.tensor([0, 9, 9])
    accuracy, each = TopKAccuracy(1, 1, 9, per_class=True)(scores, label)
    assert float(accuracy) == 1
    assert each.tolist() == [1, 0, 0]


def test_weights_and_smoothing_leave_ignored_labels_out() -> None:
    scores, label = torch.tensor([[3.0, 1, 2], [1, 2, 3], [0, 5, 1]]), torch.tensor([2, 9, 0])
    loss, weight, counted = SoftmaxWithLoss(1, 9, "VALID", probabilities=False), torch.tensor([3.0, 5, 7]), [0, 2]
    each = torch.nn.functional.cross_entropy(scores[counted], label[counted], reduction="none")
    torch.testing.assert_close(loss(scores, label, weight), (each * weight[[2, 0]]).sum() / 2)
    loss.smoothing = 0.25
    smooth = torch.nn.functional.cross_entropy(scores[counted], label[counted], label_smoothing=0.25)
    torch.testing.assert_close(loss(scores, label), smooth)


RECURRENT = """weight_filler { type: "constant" value: 3 } bias_filler { type: "constant" value: 5 }"""
FILLED = [
    ("Convolution", "convolution_param { num_output: 2 kernel_size: 1 FILLERS }", [3, 5]),
    ("Deconvolution", "convolution_param { num_output: 2 kernel_size: 1 bias_term: false FILLERS }", [3]),
    ("InnerProduct", "inner_product_param { num_output: 2 FILLERS }", [3, 5]),
    ("InnerProduct", "inner_product_param { num_output: 2 bias_term: false FILLERS }", [3]),
    ("Embed", "embed_param { num_output: 2 input_dim: 4 FILLERS }", [3, 5]),
    ("Embed", "embed_param { num_output: 2 input_dim: 4 bias_term: false FILLERS }", [3]),
    ("Scale", "", [1]),
    ("Scale", "scale_param { bias_term: true filler { value: 3 } bias_filler { value: 5 } }", [3, 5]),
    ("Bias", "bias_param { filler { value: 5 } }", [5]),
    ("PReLU", "prelu_param { filler { value: 3 } }", [3]),
    ("PReLU", "", [0.25]),
    ("WeightedSum", "weighted_sum_param { filler { value: 3 } }", [3]),
    ("WeightedSum", "", [1]),
    ("Gate", "gate_param { filler { value: 3 } bias_filler { value: 5 } }", [3, 5]),
    ("Gate", "gate_param { filler { value: 3 } bias_term: false }", [3]),
    ("LSTM", 'bottom: "cont" recurrent_param { num_output: 2 FILLERS }', [3, 5, 3]),
    ("LSTM", 'bottom: "cont" bottom: "static" recurrent_param { num_output: 2 FILLERS }', [3, 5, 3, 3]),
    ("RNN", 'bottom: "cont" recurrent_param { num_output: 2 FILLERS }', [3, 5, 3, 3, 5]),
]


@pytest.mark.parametrize(("kind", "text", "values"), FILLED)
def test_every_blob_has_its_own_filler(kind: str, text: str, values: list[float]) -> None:
    inputs = 'layer { name: "i" type: "Input" top: "x" top: "cont" top: "static" input_param { '
    inputs += "shape { dim: 4 dim: 3 dim: 1 dim: 1 } "
    layer = f'layer {{ name: "a" type: "{kind}" bottom: "x" top: "y" {text.replace("FILLERS", RECURRENT)} }}'
    if kind in ("WeightedSum", "Gate"):
        layer = layer.replace('bottom: "x"', 'bottom: "x" bottom: "x"')
    inputs += "shape { dim: 4 dim: 3 } shape { dim: 3 dim: 5 } } }"
    net = nets.build(parse(inputs + layer), "TRAIN")
    blobs = nets.params(net)["a"]
    assert [blob.unique().tolist() for blob in blobs] == [[value] for value in values]
    assert all(blob.requires_grad for blob in blobs)


@pytest.mark.parametrize("kind", ["lstm", "rnn"])
def test_a_batch_of_another_size_starts_anew(kind: str) -> None:
    """And states are no weights: they are not stored with the net."""
    net, inputs = load(f"{kind}_basic")
    inputs["cont"] = torch.ones_like(inputs["cont"])
    stored = set(net.state_dict())
    (whole,) = net(inputs).values()
    assert set(net.state_dict()) == stored
    (first,) = net({key: x[:, :1] for key, x in inputs.items()}).values()
    torch.testing.assert_close(first, whole[:, :1])


def test_an_lstm_with_static_inputs_takes_given_states() -> None:
    text = 'layer { name: "i" type: "Input" top: "x" top: "cont" top: "s" top: "h" top: "c" input_param { '
    text += "shape { dim: 4 dim: 2 dim: 3 } shape { dim: 4 dim: 2 } shape { dim: 2 dim: 5 } "
    text += "shape { dim: 1 dim: 2 dim: 2 } shape { dim: 1 dim: 2 dim: 2 } } }"
    text += 'layer { name: "a" type: "LSTM" bottom: "x" bottom: "cont" bottom: "s" %s recurrent_param { num_output: 2 '
    text += 'weight_filler { type: "gaussian" std: 1 } %s } }'
    given = 'bottom: "h" bottom: "c" top: "y" top: "h1" top: "c1"', "expose_hidden: true"
    carried, exposed = (nets.build(parse(text % each), seed=0) for each in (('top: "y"', ""), given))
    generator = torch.Generator().manual_seed(1)
    shapes = {"x": (4, 2, 3), "s": (2, 5), "h": (1, 2, 2), "c": (1, 2, 2)}
    blobs = {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}
    blobs["cont"] = torch.ones(4, 2)
    found = exposed(blobs)
    module = carried.get_submodule("a")
    module.hidden, module.cell = blobs["h"][0], blobs["c"][0]
    torch.testing.assert_close(carried({key: blobs[key] for key in ("x", "cont", "s")})["y"], found["y"])
    torch.testing.assert_close(found["h1"], module.hidden[None])
    torch.testing.assert_close(found["c1"], module.cell[None])


def test_scores_along_the_first_axis() -> None:
    scores, label = torch.tensor([[3.0, 1, 2], [1, 2, 3]]), torch.tensor([1, 0, 1])
    for probabilities in (False, True):
        found = SoftmaxWithLoss(0, None, "VALID", probabilities)(scores, label)
        loss = found[0] if probabilities else found
        torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(scores.T, label))
    torch.testing.assert_close(found[1], scores.softmax(0))


@pytest.mark.parametrize("field", ["data", "double_data"])
def test_gains_from_a_file_are_no_weights_of_the_net(tmp_path: Path, field: str) -> None:
    (tmp_path / "gains").write_bytes(BlobProto(**{field: [1, 2, 3, 4]}).SerializeToString())
    inputs = (
        'layer { name: "i" type: "Input" top: "x" top: "l" input_param { shape { dim: 3 dim: 2 } shape { dim: 3 } } }'
    )
    text = f'type: "InfogainLoss" infogain_loss_param {{ source: "{tmp_path / "gains"}" }}'
    net = nets.build(parse(f'{inputs} layer {{ name: "a" {text} bottom: "x" bottom: "l" top: "y" }}'), "TRAIN")
    scores, label = torch.tensor([[3.0, 1], [1, 2], [0, 0]]), torch.tensor([1, 0, 1])
    expected = -(torch.tensor([[1.0, 2], [3, 4]])[label] * scores.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(net({"x": scores, "l": label.float()})["y"], expected)
    assert not net.state_dict()


@pytest.mark.parametrize("kind", ["lstm", "rnn"])
def test_a_reset_net_starts_anew(kind: str) -> None:
    net, inputs = load(f"{kind}_basic")
    inputs["cont"] = torch.ones_like(inputs["cont"])
    first, second = net(inputs), net(inputs)
    reset(net)
    for key, tensor in net(inputs).items():
        assert torch.equal(tensor, first[key])
        assert not torch.equal(tensor, second[key])


@pytest.mark.parametrize("size", [3, 17, 1000])
def test_of_many_equal_elements_the_last_ones_are_the_greatest(size: int) -> None:
    x = torch.zeros(2, size, 1)
    last = [size - 1, size - 2, size - 3]
    assert ArgMax(3, None, False)(x).flatten(1).tolist() == [last, last]
    assert ArgMax(3, 1, False)(x).flatten(1).tolist() == [last, last]
    x[0, 1] = 1
    assert ArgMax(2, None, True)(x).flatten(1).tolist() == [[1, size - 1, 1, 0], [size - 1, size - 2, 0, 0]]


@pytest.mark.parametrize("label", [-100, -1, 3])
@pytest.mark.parametrize("weight", [None, torch.ones(3)])
def test_labels_that_are_no_class_are_errors(label: int, weight: torch.Tensor | None) -> None:
    """-100 too, which torch's own losses ignore by default."""
    loss = SoftmaxWithLoss(1, None, "VALID", probabilities=False)
    with pytest.raises(IndexError, match="out of bounds"):
        loss(torch.zeros(2, 3), torch.tensor([0, label]), weight)
