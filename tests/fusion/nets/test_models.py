"""Whole public nets under seeded weights against what BVLC Caffe computed: outputs, statistics, gradients."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import prototxt
from fusion.nets import build as nets
from fusion.nets.graph import Net

MODELS = (
    "alexnet",
    "alexnet_test",
    "caffenet",
    "caffenet_test",
    "cifar10_full",
    "cifar10_quick",
    "cifar10_quick_train",
    "cifar10_sigmoid_bn_train",
    "googlenet",
    "hdf5_nonlinear",
    "lenet",
    "lenet_train_test",
    "lenet_train_test_TRAIN",
    "mnist_autoencoder",
    "net_surgery_conv",
    "siamese",
)


@dataclass
class Model:
    net: Net
    meta: dict[str, Any]
    arrays: dict[str, np.ndarray]


def load(folder: Path) -> Model:
    meta = json.loads((folder / "meta.json").read_text())
    with np.load(folder / "io.npz") as file:
        arrays = dict(file)
    description = prototxt.filter_net(prototxt.load_net(folder / "net.prototxt"), meta["phase"])
    shapes = {blob: tuple(shape) for blob, shape in meta["inputs"].items()}
    return Model(nets.build(description, meta["phase"], shapes=shapes, seed=0), meta, arrays)


def fill(model: Model, recipe: str) -> None:
    """RECIPE.txt: NumPy's old generator, in the order of net.params, the last write to a shared blob wins."""
    random = np.random.RandomState(1234)
    types = {layer["name"]: layer["type"] for layer in model.meta["net"]["layers"]}
    for layer, tensors in nets.params(model.net).items():
        for index, tensor in enumerate(tensors):
            shape = tuple(tensor.shape)
            if types[layer] == "BatchNorm" and index == 2:
                random.randn(*shape)
                array = np.ones(shape, np.float32)
            elif types[layer] == "BatchNorm" and index == 1:
                array = 1 + np.abs(random.randn(*shape)).astype(np.float32) * np.float32(0.1)
            else:
                rank_two = recipe == "B" and len(shape) >= 2 and types[layer] != "BatchNorm"
                scale = np.sqrt(2 / np.prod(shape[1:])) if rank_two else 0.05
                array = random.randn(*shape).astype(np.float32) * np.float32(scale)
            with torch.no_grad():
                tensor.copy_(torch.from_numpy(array))


def inputs_of(model: Model) -> dict[str, Tensor]:
    random = np.random.RandomState(4321)
    made = {}
    for blob, shape in model.meta["inputs"].items():
        if blob in model.meta["labels"]:
            array = random.randint(0, model.meta["labels"][blob], shape).astype(np.float32)
        elif blob in model.meta["uniform"]:
            array = random.rand(*shape).astype(np.float32)
        else:
            array = random.randn(*shape).astype(np.float32)
        made[blob] = torch.from_numpy(array)
    return made


def statistics(array: np.ndarray) -> np.ndarray:
    wide = array.astype(np.float64)
    return np.array([wide.mean(), wide.std(), wide.min(), wide.max(), np.abs(wide).sum()])


def assert_near(found: np.ndarray, expected: np.ndarray, scale: float, what: str) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * scale, err_msg=what)


def cases() -> list[Any]:
    """Large nets are slow: most of their time goes into 60 million random weights, or into many layers."""
    slow = {(f"{name}net{end}", recipe) for name in ("alex", "caffe") for end in ("", "_test") for recipe in "AB"}
    slow |= {("googlenet", "B"), ("googlenet_test", "B")}
    pairs = [(name, recipe) for name in MODELS for recipe in ("A", "B")]
    return [pytest.param(*pair, marks=[pytest.mark.slow] if pair in slow else []) for pair in pairs]


@pytest.mark.parametrize(("name", "recipe"), cases())
def test_model_gives_caffes_numbers(name: str, recipe: str, reference: Path) -> None:
    model = load(reference / "models" / name)
    fill(model, recipe)
    inputs = inputs_of(model)
    blobs = nets.blobs(model.net, inputs)
    for key, expected in model.arrays.items():
        start, _, rest = key.partition(":")
        kind, _, blob = rest.partition(":")
        if start != recipe or kind not in ("out", "stat", "head", "tail"):
            continue
        found = blobs[blob].detach().numpy()
        scale = float(np.abs(found).max(initial=0.0))
        if kind == "stat":
            assert_near(statistics(found)[:4], expected[:4], scale, key)
            assert_near(statistics(found)[4:], expected[4:], scale * found.size, key)
        else:
            flat = found.ravel()
            chosen = {"out": found, "head": flat[: expected.size], "tail": flat[-expected.size :]}[kind]
            assert_near(chosen, expected, scale, key)
    if model.net.plan.loss_weights:
        loss = nets.total_loss(model.net, {key: blobs[key] for key, _ in model.net.plan.outputs})
        assert float(loss.detach()) == pytest.approx(model.meta[f"loss_{recipe}"], rel=1e-4)
        loss.backward()
        check_gradients(model, recipe)


def check_gradients(model: Model, recipe: str) -> None:
    params = nets.params(model.net)
    for key, expected in model.arrays.items():
        start, _, rest = key.partition(":")
        kind, _, place = rest.partition(":")
        if start != recipe or kind not in ("gstat", "ghead"):
            continue
        layer, _, index = place.rpartition(":")
        tensor = params[layer][int(index)]
        found = (torch.zeros_like(tensor) if tensor.grad is None else tensor.grad).numpy()
        scale = float(np.abs(found).max(initial=0.0))
        if kind == "gstat":
            assert_near(statistics(found)[:4], expected[:4], scale, key)
        else:
            assert_near(found.ravel()[: expected.size], expected, scale, key)
