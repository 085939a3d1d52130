"""Every layer against the numbers of BVLC Caffe: outputs, gradients, statistics, one and several steps."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import prototxt
from fusion.layers import registry
from fusion.nets import build as nets, graph
from fusion.nets.graph import Net

LAYERS = Path(__file__).parents[2] / "golden" / "layers"
RANDOM = {"dropout_train_random": "the mask is random: see test_random_dropout_keeps_or_zeroes"}
CASES = sorted(folder.name for folder in LAYERS.iterdir())


@dataclass
class Case:
    """A recorded case: its net, filled with the recorded parameters, and the arrays."""

    net: Net
    meta: dict[str, Any]
    arrays: dict[str, np.ndarray]
    like: Tensor

    @property
    def steps(self) -> list[str]:
        return [f"s{step}:" for step in range(len(self.meta["loss"]))] if "s0:in:" in str(list(self.arrays)) else [""]

    def inputs(self, step: str) -> dict[str, Tensor]:
        start = f"{step}in:"
        return {key.removeprefix(start): self.tensor(a) for key, a in self.arrays.items() if key.startswith(start)}

    def tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.like)


def load(name: str, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Case:
    folder = LAYERS / name
    meta = json.loads((folder / "meta.json").read_text())
    with np.load(folder / "io.npz") as file:
        arrays = dict(file)
    description = prototxt.load_net(folder / "net.prototxt")
    unknown = {
        layer.type
        for layer in description.layer
        if layer.type != "Input" and registry.find_layer_type(layer.type) is None
    }
    if unknown:
        pytest.skip(f"not built yet: {', '.join(sorted(unknown))}")
    net = nets.build(description, meta["phase"], seed=0)
    fill(net, arrays, "param:")
    return Case(net.to(device=device, dtype=dtype), meta, arrays, torch.empty((), device=device, dtype=dtype))


def fill(net: Net, arrays: dict[str, np.ndarray], start: str) -> None:
    for layer, tensors in nets.params(net).items():
        for index, tensor in enumerate(tensors):
            array = arrays[f"{start}{layer}:{index}"]
            assert tensor.shape == array.shape
            with torch.no_grad():
                tensor.copy_(torch.from_numpy(array))


def magnitude(arrays: dict[str, np.ndarray], *kinds: str) -> float:
    """The greatest finite magnitude of a case's arrays of some kinds."""
    chosen = [a[np.isfinite(a)] for key, a in arrays.items() if any(f"{kind}:" in key for kind in kinds)]
    return max((float(np.abs(a).max(initial=0.0)) for a in chosen), default=0.0)


def assert_close(actual: Tensor | None, expected: np.ndarray, what: str, scale: float) -> None:
    """Within 1e-4, or 1e-5 of the greatest magnitude; no gradient at all is a gradient of 0."""
    found = np.zeros_like(expected) if actual is None else actual.detach().float().cpu().numpy()
    assert found.shape == expected.shape, f"{what}: {found.shape} is not {expected.shape}"
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * scale, err_msg=what)


def first_versions(net: Net) -> dict[str, str]:
    """Blob -> its first value: an in-place layer writes the gradient of its bottom over that of its top."""
    first = dict(net.plan.inputs)
    for call in net.plan.calls:
        for top in call.tops:
            blob = top.rpartition("@")[0] or top
            first.setdefault(blob, top)
    return first


def check(case: Case) -> None:
    net, arrays = case.net, case.arrays
    outs = magnitude(arrays, "out")
    grads = magnitude(arrays, "gout", "grad", "pgrad")
    copied = copy.deepcopy(net)
    for number, step in enumerate(case.steps):
        inputs = {key: x.requires_grad_() for key, x in case.inputs(step).items()}
        values = graph.run(net, inputs)
        for tensor in values.values():
            if tensor.requires_grad:
                tensor.retain_grad()
        for blob, value in net.plan.blobs:
            assert_close(values[value], arrays[f"{step}out:{blob}"], f"{step}out:{blob}", outs)
        outputs = copied({key: inputs[key] for key, _ in net.plan.inputs})
        for key, value in net.plan.outputs:
            torch.testing.assert_close(outputs[key], values[value], equal_nan=True)
        weights = nets.loss_weights(net)
        if weights:
            total = float(nets.total_loss(net, outputs).detach())
            assert total == pytest.approx(case.meta["loss"][number], rel=1e-4, abs=1e-6)
    check_statistics(case, step)
    seeds = {value: torch.full_like(values[value], weight) for value, weight in net.plan.loss_weights}
    finals = dict(net.plan.blobs)
    for key, array in arrays.items():
        if key.startswith("gout:"):
            seeds[finals[key.removeprefix("gout:")]] = case.tensor(array)
    roots = [value for value in seeds if values[value].requires_grad]
    if not roots:
        return
    torch.autograd.backward([values[root] for root in roots], [seeds[root] for root in roots])
    first = first_versions(net)
    for key, expected in arrays.items():
        kind, _, rest = key.partition(":")
        if kind == "grad":
            assert_close(values[first[rest]].grad, expected, key, grads)
        elif kind == "pgrad":
            layer, _, index = rest.rpartition(":")
            assert_close(nets.params(net)[layer][int(index)].grad, expected, key, grads)


def check_statistics(case: Case, step: str) -> None:
    start = f"{step}param_after:"
    for key, expected in case.arrays.items():
        if key.startswith(start):
            layer, _, index = key.removeprefix(start).rpartition(":")
            assert_close(nets.params(case.net)[layer][int(index)], expected, key, magnitude(case.arrays, "param_after"))


STEADY = [name for name in CASES if name not in RANDOM]


@pytest.mark.parametrize("name", STEADY)
def test_layer_gives_caffes_numbers(name: str) -> None:
    check(load(name))


@pytest.mark.parametrize("name", STEADY)
def test_layer_gives_caffes_numbers_in_float64(name: str) -> None:
    check(load(name, dtype=torch.float64))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", STEADY)
def test_layer_gives_caffes_numbers_on_a_gpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    check(load(name, device="cuda"))


def test_random_dropout_keeps_or_zeroes() -> None:
    """The mask is drawn; what is kept grows by 1 / (1 - ratio), and gradients take the same way."""
    case = load("dropout_train_random")
    x = case.inputs("")["data"].requires_grad_()
    (y,) = case.net({"data": x}).values()
    (gradient,) = torch.autograd.grad(y.sum(), x)
    ratio = prototxt.load_net(LAYERS / "dropout_train_random" / "net.prototxt").layer[-1].dropout_param.dropout_ratio
    torch.testing.assert_close(y, x * gradient)
    assert gradient.unique().tolist() == [0.0, pytest.approx(1 / (1 - ratio))]
    assert abs(float((gradient == 0).float().mean()) - ratio) < 0.2
