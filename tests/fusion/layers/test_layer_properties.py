"""Every layer type beyond Caffe's numbers: true gradients, one graph to compile or export, number types."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fusion.layers.concat_eltwise import ArgMax
from fusion.layers.recurrent import reset
from fusion.layers.registry import Context, find_layer_type, known_types
from fusion.nets import build as nets, graph
from fusion.nets.graph import Net
from prototxt import load_net
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


@pytest.mark.parametrize("size", [3, 17, 1000])
def test_of_many_equal_elements_the_last_ones_are_the_greatest(size: int) -> None:
    x = torch.zeros(2, size, 1)
    last = [size - 1, size - 2, size - 3]
    assert ArgMax(3, None, False)(x).flatten(1).tolist() == [last, last]
    assert ArgMax(3, 1, False)(x).flatten(1).tolist() == [last, last]
    x[0, 1] = 1
    assert ArgMax(2, None, True)(x).flatten(1).tolist() == [[1, size - 1, 1, 0], [size - 1, size - 2, 0, 0]]
