"""A renamed net computes the same blobs, and a frozen one goes on computing what the net computes when it is tested."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fusion.nets import build as nets
from fusion.nets.graph import Net
from fusion.nets.weights import load_weights
from prototxt import Document, load_net, parse_file, rename
from prototxt.formats.weights import read_weights
from prototxt.text.tree import Message

LAYERS = Path(__file__).parents[2] / "golden" / "layers"
CASES = sorted(folder.name for folder in LAYERS.iterdir())
Inputs = Mapping[str, Tensor]
MODELS = ("alexnet", "caffenet", "cifar10_full", "cifar10_quick", "cifar10_sigmoid_bn_train", "googlenet")
SMALL_MODELS = ("hdf5_nonlinear", "lenet", "lenet_train_test", "mnist_autoencoder", "net_surgery_conv", "siamese")


def copy_params(source: Net, target: Net) -> None:
    """Every parameter of `source` to the layer of the prefixed name, which must have as many."""
    theirs, mine = nets.params(target), nets.params(source)
    assert {f"odd/{name}" for name in mine} == set(theirs)
    with torch.no_grad():
        for name, tensors in mine.items():
            for old, new in zip(tensors, theirs[f"odd/{name}"], strict=True):
                new.copy_(old)


def assert_same_blobs(old: Net, new: Net, inputs: Mapping[str, Tensor]) -> None:
    """Equal bits in every blob of both; a renamed net keeps the names of the inputs only. What one phase has alone
    (accuracies) cannot be compared."""
    torch.manual_seed(3)
    before = {name if name in inputs else f"odd/{name}": value for name, value in nets.blobs(old, inputs).items()}
    torch.manual_seed(3)
    after = nets.blobs(new, inputs)
    assert set(before) == set(after) or old.plan.phase != new.plan.phase
    assert len(set(before) & set(after)) > len(inputs)
    for name in set(before) & set(after):
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=0, equal_nan=True)


def check(document: Document, phase: str, shapes: Mapping[str, tuple[int, ...]], steps: list[Inputs]) -> None:
    """Renamed: the same in any phase. Frozen: in TRAIN as the net itself in TEST, and its parameters do not move."""
    old, new = (build(net, phase, shapes) for net in (document, rename(document, "odd", freeze=False)))
    copy_params(old, new)
    for inputs in steps:
        assert_same_blobs(old, new, inputs)
    if batch_statistics_in_test(document):
        return
    old, new = build(document, "TEST", shapes), build(rename(document, "odd"), "TRAIN", shapes)
    copy_params(old, new)
    assert not [name for name, tensors in nets.params(new).items() for tensor in tensors if tensor.requires_grad]
    for inputs in steps:
        assert_same_blobs(old, new, inputs)
    for name, tensors in nets.params(old).items():
        for mine, theirs in zip(tensors, nets.params(new)[f"odd/{name}"], strict=True):
            assert torch.equal(mine, theirs), f"{name} moved"


def build(document: Document, phase: str, shapes: Mapping[str, tuple[int, ...]]) -> Net:
    return nets.build(load_net(document), phase, shapes=shapes, seed=0)  # type: ignore[arg-type]


def batch_statistics_in_test(document: Document) -> bool:
    """Whether a BatchNorm takes the batch's statistics in TEST too, so that freezing changes it on purpose."""
    blocks: list[Message] = [
        block for layer in document.root.messages("layer") for block in layer.messages("batch_norm_param")
    ]
    return any(block.string("use_global_stats") == "false" for block in blocks)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if number % 3 else []) for number, name in enumerate(CASES)]
)
def test_recorded_layers(name: str) -> None:
    folder = LAYERS / name
    meta = json.loads((folder / "meta.json").read_text())
    with np.load(folder / "io.npz") as file:
        arrays = dict(file)
    several = any(key.startswith("s0:in:") for key in arrays)
    starts = [f"s{step}:in:" for step in range(len(meta["loss"]))] if several else ["in:"]
    steps = [
        {key.removeprefix(start): torch.from_numpy(array) for key, array in arrays.items() if key.startswith(start)}
        for start in starts
    ]
    document = parse_file(folder / "net.prototxt")
    check(document, meta["phase"], {}, steps)


def seeded(folder: Path) -> tuple[dict[str, tuple[int, ...]], list[Inputs]]:
    """Shapes and one batch of inputs for a public net: labels are zeros, the rest is noise."""
    meta = json.loads((folder / "meta.json").read_text())
    shapes = {blob: (min(2, shape[0]), *shape[1:]) for blob, shape in meta["inputs"].items()}
    generator = torch.Generator().manual_seed(1)
    inputs = {
        blob: torch.zeros(shape) if blob in meta["labels"] else torch.rand(shape, generator=generator)
        for blob, shape in shapes.items()
    }
    return shapes, [inputs]


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) for name in MODELS] + list(SMALL_MODELS))
def test_public_nets(name: str, reference: Path) -> None:
    folder = reference / "models" / name
    meta = json.loads((folder / "meta.json").read_text())
    check(parse_file(folder / "net.prototxt"), meta["phase"], *seeded(folder))


@pytest.mark.parametrize("name", ["odd", "even"])
def test_the_tutorial_s_nets_with_their_weights(name: str, reference: Path) -> None:
    folder = reference / "tutorial"
    document = parse_file(folder / f"lenet_{name}_train_val.prototxt")
    weights = folder / f"mnist_lenet_{name}_iter_30000.caffemodel"
    frozen = rename(document, "odd")
    shapes = {"data": (2, 1, 28, 28), "label": (2,)}
    old, new = build(document, "TEST", shapes), build(frozen, "TRAIN", shapes)
    load_weights(old, weights)
    prefixed = {f"odd/{layer}": arrays for layer, arrays in read_weights(weights).items()}
    load_weights(new, prefixed)
    inputs = {"data": torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(1)), "label": torch.zeros(2)}
    before, after = nets.blobs(old, inputs), nets.blobs(new, inputs)
    for blob in ("conv1", "pool2", "ip1", "ip2"):
        assert torch.equal(before[blob], after[f"odd/{blob}"])
