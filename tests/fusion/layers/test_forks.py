"""Layer types of the forks against plain loops in NumPy: outputs in float64, gradients by differences."""

from __future__ import annotations

import sys
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import prototxt
from fusion.errors import BuildError, IgnoredSetting
from fusion.layers import registry
from fusion.layers.recurrent import reset
from fusion.merge.initial_fillers import initial_value
from fusion.nets import build as nets
from fusion.nets.graph import Net

FORKS = "fusion.layers.forks"


def load_cases() -> Any:
    path = Path(__file__).with_name("fork_cases.py")
    spec = util.spec_from_file_location("fork_cases", path)
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    sys.modules["fork_cases"] = module
    spec.loader.exec_module(module)
    return module


cases = load_cases()
CASES = {case.name: case for case in cases.CASES}


def build(case: Any) -> Net:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *args, **kwargs: None)
        net = nets.build(prototxt.parse(case.net), case.phase, seed=0).double()
    tensors = nets.params(net).get("own", [])
    given = case.params or [np.random.default_rng(i).uniform(0.3, 1.2, t.shape) for i, t in enumerate(tensors)]
    for tensor, array in zip(tensors, given, strict=True):
        with torch.no_grad():
            tensor.copy_(torch.from_numpy(array))
    return net


def inputs(case: Any) -> dict[str, Tensor]:
    return {f"b{i}": torch.from_numpy(array).double() for i, array in enumerate(case.inputs)}


@pytest.mark.parametrize("name", CASES)
def test_outputs_are_those_of_the_loops(name: str) -> None:
    case = CASES[name]
    net = build(case)
    params = [t.detach().numpy().copy() for t in nets.params(net).get("own", [])]
    found = nets.blobs(net, inputs(case))
    expected = case.reference([array.astype(float) for array in case.inputs], params)
    for i, array in enumerate(expected):
        np.testing.assert_allclose(found[f"t{i}"].detach().numpy(), array, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.derivative and case.free])
def test_gradients_are_derivatives(name: str) -> None:
    case = CASES[name]
    net = build(case)
    given = inputs(case)
    keys = [f"b{i}" for i in case.free]
    own = {key: p.detach() for key, p in net.named_parameters()}

    def first(*tensors: Tensor) -> Tensor:
        filled = {**given, **dict(zip(keys, tensors[: len(keys)], strict=True))}
        for module in net.modules():
            if hasattr(module, "hidden"):
                module.hidden = module.cell = None
        out: Tensor = torch.func.functional_call(net, dict(zip(own, tensors[len(keys) :], strict=True)), (filled,))[
            "t0"
        ]
        return out

    tensors = [given[key].clone().requires_grad_() for key in keys] + [p.clone().requires_grad_() for p in own.values()]
    assert torch.autograd.gradcheck(first, tensors, fast_mode=True)


def test_every_type_of_the_forks_has_a_case() -> None:
    built = {
        name
        for name in registry.known_types()
        if (found := registry.find_layer_type(name)) is not None and found.build.__module__.startswith(FORKS)
    }
    assert built == {case.kind for case in CASES.values()}


def test_margin_inner_product_has_the_fork_s_gradient() -> None:
    case = CASES["MarginInnerProduct QUADRUPLE"]
    net = build(case)
    given = inputs(case)
    x = given["b0"].requires_grad_()
    out = net(given)
    top = torch.from_numpy(np.random.default_rng(9).standard_normal(out["t0"].shape))
    (out["t0"] * top).sum().backward()
    weight = nets.params(net)["own"][0]
    w, a, g, mix = weight.detach().numpy(), x.detach().numpy(), top.numpy(), float(out["t1"])
    np.testing.assert_allclose(np.linalg.norm(w, axis=1), 1)
    assert weight.grad is not None
    np.testing.assert_allclose(weight.grad.numpy(), g.T @ a)
    expected = np.zeros_like(a)
    for n, label in enumerate(case.inputs[1].astype(int)):
        length = np.linalg.norm(a[n])
        for k in range(4):
            along, of_x = np.ones(()), np.zeros(())
            if k == label:
                c = a[n] @ w[k] / length
                turn = np.floor(4 * np.arccos(c) / np.pi)
                sign = (-1) ** turn
                psi = sign * (8 * c**4 - 8 * c**2 + 1) - 2 * turn
                slope = sign * (32 * c**3 - 16 * c)
                of_x = (psi - c * slope) / length
                both = np.hypot(slope, of_x)
                along, of_x = slope / both, of_x / both
            expected[n] += g[n, k] * (along * w[k] + of_x * a[n] + mix * w[k]) / (1 + mix)
    assert x.grad is not None
    np.testing.assert_allclose(x.grad.numpy(), expected)


def test_center_loss_moves_centres_by_the_fork_s_rule() -> None:
    case = CASES["CenterLoss"]
    net = build(case)
    given = inputs(case)
    x = given["b0"].requires_grad_()
    centres = nets.params(net)["own"][0]
    (2 * net(given)["t0"]).backward()
    labels = case.inputs[1].astype(int)
    far = case.inputs[0] - centres.detach().numpy()[labels]
    assert x.grad is not None
    assert centres.grad is not None
    np.testing.assert_allclose(x.grad.numpy(), 2 * far / 4)
    expected = [-far[labels == c].sum(0) / ((labels == c).sum() + 1) for c in range(3)]
    np.testing.assert_allclose(centres.grad.numpy(), expected)


@pytest.mark.parametrize("kind", ["CtcLoss", "WarpCTCLoss"])
def test_warp_ctc_s_gradient_is_that_of_the_sum(kind: str) -> None:
    case = CASES[kind]
    given = inputs(case)
    x = given["b0"].requires_grad_()
    build(case)(given)["t0"].backward()
    step, base = 1e-6, case.inputs[0].copy()
    assert x.grad is not None
    for at in [(0, 0, 0), (2, 1, 2), (3, 0, 1)]:
        ends = []
        for sign in (1, -1):
            moved = base.copy()
            moved[at] += sign * step
            ends.append(float(case.reference([moved, case.inputs[1]], [])[0]))
        assert float(x.grad[at]) == pytest.approx(2 * (ends[0] - ends[1]) / 2 / step, rel=1e-4)


def test_bn_keeps_moving_averages_of_the_batch() -> None:
    case = CASES["BN PSPNet TRAIN"]
    net = build(case)
    net(inputs(case))
    x = case.inputs[0]
    _, _, mean, variance = (t.detach().numpy() for t in nets.params(net)["own"])
    np.testing.assert_allclose(mean, 0.9 * case.params[2] + 0.1 * x.mean((0, 2, 3), keepdims=True), 1e-5)
    np.testing.assert_allclose(variance, 0.9 * case.params[3] + 0.1 * x.var((0, 2, 3), keepdims=True), 1e-5)


def test_lstm_with_markers_goes_on_where_the_last_call_ended() -> None:
    case = CASES["Lstm marked"]
    net = build(case)
    given = inputs(case)
    given["b1"] = torch.ones(4, 2).double()
    first, second = net(given)["t0"], net(given)["t0"]
    assert not torch.equal(first, second)
    reset(net)
    torch.testing.assert_close(net(given)["t0"], first)


def test_roi_pooling_sends_the_gradient_to_the_first_of_equals() -> None:
    case = CASES["ROIPooling"]
    net = build(case)
    given = {"b0": torch.ones(1, 1, 6, 8).double().requires_grad_(), "b1": torch.tensor([[0, 4.0, 4, 27, 19]]).double()}
    net(given)["t0"].sum().backward()
    grad = given["b0"].grad
    assert grad is not None
    assert [tuple(at) for at in grad[0, 0].nonzero().tolist()] == [(1, 1), (1, 3), (1, 5), (3, 1), (3, 3), (3, 5)]


def test_spatial_dropout_takes_whole_channels() -> None:
    case = cases.Case("SpatialDropout", "", (np.ones((8, 16, 3, 3)),), lambda b, p: [b[0]], phase="TRAIN")
    y = build(case)(inputs(case))["t0"]
    assert set(y.unique().tolist()) == {0.0, 2.0}
    assert bool((y == y[:, :, :1, :1]).all())


def test_detection_output_without_detections_has_a_row_per_image() -> None:
    case = CASES["DetectionOutput"]
    given = inputs(case)
    given["b1"] = torch.zeros_like(given["b1"])
    assert build(case)(given)["t0"].tolist() == [[[[0.0] + [-1.0] * 6, [1.0] + [-1.0] * 6]]]


def test_multibox_loss_without_objects_has_no_loss() -> None:
    case = CASES["MultiBoxLoss"]
    given = inputs(case)
    given["b3"] = torch.full_like(given["b3"], -1)
    assert float(build(case)(given)["t0"]) == 0


REFUSED = {
    "icnet": ('type: "BN" bn_param { icnet: true momentum: 0.9 }', "icnet"),
    "hard examples": (
        'type: "MultiBoxLoss" bottom: "x" bottom: "x" bottom: "x" '
        "multibox_loss_param { num_classes: 2 mining_type: HARD_EXAMPLE }",
        "HARD_EXAMPLE",
    ),
    "focal": (
        'type: "SoftmaxWithLoss" bottom: "l" loss_param { focal_gamma: 2 }',
        "focal_gamma is a fork's field",
    ),
    "by class": ('type: "Accuracy" bottom: "l" accuracy_param { report_by_class: true }', "report_by_class"),
    "freeze": (
        'type: "InnerProduct" param { freeze: true } inner_product_param { num_output: 2 }',
        "write lr_mult: 0",
    ),
    "scaled": ('type: "InnerProduct" inner_product_param { num_output: 2 normalize_scale: true }', "normalize_scale"),
}
INPUT = (
    'layer { name: "x" type: "Input" top: "x" top: "l" '
    "input_param { shape { dim: 2 dim: 3 dim: 4 dim: 4 } shape { dim: 2 dim: 4 dim: 4 } } }"
)


def own(layer: str, phase: Any = "TEST") -> Net:
    return nets.build(prototxt.parse(f'{INPUT} layer {{ name: "own" bottom: "x" top: "y" {layer} }}'), phase, seed=0)


@pytest.mark.filterwarnings("ignore::prototxt.schema.decode.UnknownFieldWarning")
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_known_is_refused(name: str) -> None:
    text, message = REFUSED[name]
    with pytest.raises(BuildError, match=message) as caught:
        nets.build(prototxt.parse(f'{INPUT} layer {{ name: "own" bottom: "x" top: "y" {text} }}'))
    assert "own" in str(caught.value)


@pytest.mark.filterwarnings("ignore::prototxt.schema.decode.UnknownFieldWarning")
@pytest.mark.parametrize(
    ("pooling", "size"), [("", 2), ("ceil_mode: true", 2), ("ceil_mode: false", 1), ("torch_pooling: true", 1)]
)
def test_ceil_mode_rounds_as_it_says(pooling: str, size: int) -> None:
    net = own(f'type: "Pooling" pooling_param {{ kernel_size: 3 stride: 2 {pooling} }}')
    assert net({"x": torch.zeros(2, 3, 4, 4)})["y"].shape == (2, 3, size, size)


@pytest.mark.filterwarnings("ignore::prototxt.schema.decode.UnknownFieldWarning")
def test_hole_is_dilation() -> None:
    convolution = 'type: "Convolution" convolution_param {{ num_output: 2 kernel_size: 2 {}: 2 {} }}'
    filler, x = 'weight_filler { type: "xavier" }', torch.randn(2, 3, 4, 4)
    first, second = (own(convolution.format(name, filler))({"x": x})["y"] for name in ("hole", "dilation"))
    assert first.shape == (2, 2, 2, 2)
    torch.testing.assert_close(first, second)


@pytest.mark.filterwarnings("ignore::prototxt.schema.decode.UnknownFieldWarning")
def test_an_inner_product_with_rows_of_length_1() -> None:
    net = own(
        'type: "InnerProduct" inner_product_param { num_output: 2 normalize: true weight_filler { type: "xavier" } }'
    )
    x, weight = torch.randn(2, 3, 4, 4), nets.params(net)["own"][0]
    torch.testing.assert_close(net({"x": x})["y"], x.flatten(1) @ (weight / weight.norm(dim=1, keepdim=True)).T)


@pytest.mark.filterwarnings("ignore::prototxt.schema.decode.UnknownFieldWarning")
def test_dropout_scales_where_the_fork_says() -> None:
    x = torch.randn(2, 3, 4, 4)
    trained = own('type: "Dropout" dropout_param { scale_train: false }', "TRAIN")({"x": x})["y"]
    assert bool(((trained == 0) | (trained == x)).all())
    torch.testing.assert_close(own('type: "Dropout" dropout_param { scale_train: false }')({"x": x})["y"], x / 2)
    assert bool((own('type: "Dropout" dropout_param { sample_weights_test: true }')({"x": x})["y"] == 0).any())


@pytest.mark.filterwarnings("ignore::prototxt.schema.decode.UnknownFieldWarning")
@pytest.mark.parametrize(
    ("asked", "scale", "bias"),
    [
        ("scale_bias: true", 1, 0),
        ("scale_filler { value: 2 } bias_filler { value: 3 }", 2, 3),
        ("scale_filler { value: 2 }", 2, 0),
        ("bias_filler { value: 3 }", 1, 3),
    ],
)
def test_batch_norm_with_scale_and_bias_of_its_own(asked: str, scale: float, bias: float) -> None:
    net = own(f'type: "BatchNorm" batch_norm_param {{ {asked} }}', "TRAIN")
    starts = [tensor.tolist() for tensor in nets.params(net)["own"]]
    assert starts == [[0.0] * 3, [0.0] * 3, [0.0], [scale] * 3, [bias] * 3]
    text = f'layer {{ type: "BatchNorm" batch_norm_param {{ {asked} }} }}'
    message = prototxt.load_net(prototxt.parse(text)).layer[0]
    assert [initial_value(message, i, (1,), 0).item() for i in range(5)] == [0, 0, 0, scale, bias]
    assert nets.frozen_layers(net) == []
    assert [tuple(t.shape) for t in nets.params(net)["own"]] == [(3,), (3,), (1,), (3,), (3,)]
    assert [item.lr_mult for item in nets.learnable(net)] == [0, 0, 0, 1, 1]
    with torch.no_grad():
        nets.params(net)["own"][3].fill_(3)
        nets.params(net)["own"][4].fill_(2)
    y = net({"x": torch.randn(2, 3, 4, 4)})["y"]
    torch.testing.assert_close(y.mean((0, 2, 3)), torch.full((3,), 2.0))
    torch.testing.assert_close(y.std((0, 2, 3), correction=0), torch.full((3,), 3.0), rtol=1e-4, atol=0)


@pytest.mark.filterwarnings("ignore::prototxt.schema.decode.UnknownFieldWarning")
@pytest.mark.parametrize("setting", ["save_output_param { output_directory: 'd' }", "visualize: true"])
def test_files_of_detections_are_not_written_but_told(setting: str) -> None:
    text = 'type: "DetectionOutput" bottom: "x" bottom: "x" detection_output_param { num_classes: 2 %s }'
    with pytest.warns(IgnoredSetting, match="neither saved to a directory nor shown"):
        own(text % setting)


@pytest.mark.filterwarnings("ignore::prototxt.schema.decode.UnknownFieldWarning")
def test_class_weighting_weighs_labels_and_not_the_divisor() -> None:
    loss = "weight_by_label_freqs: true class_weighting: 0.5 class_weighting: 2 class_weighting: 1 ignore_label: 1"
    text = (
        'layer { name: "x" type: "Input" top: "x" top: "l" input_param { shape { dim: 4 dim: 3 } shape { dim: 4 } } }'
        f'layer {{ name: "own" type: "SoftmaxWithLoss" bottom: "x" bottom: "l" top: "y" loss_param {{ {loss} }} }}'
    )
    x, label = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    each = -x.log_softmax(1)[[0, 2, 3], [0, 2, 0]]
    expected = (each * torch.tensor([0.5, 1, 0.5])).sum() / 3
    torch.testing.assert_close(nets.build(prototxt.parse(text))({"x": x, "l": label})["y"], expected)
