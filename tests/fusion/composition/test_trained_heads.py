"""Every head on two small LeNets: trains, is baked where it must be, and matches after export."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import fusion
import prototxt
from fusion.composition import SolverSettings, Source, compose
from fusion.composition.heads import HEADS
from fusion.errors import DeadShares
from fusion.export import to_onnx, verify_onnx
from fusion.surgery import bake

NETS = Path(__file__).parents[3] / "examples" / "mnist_odd_even"
CLASSES = {"odd": (0, 2, 4), "even": (1, 3, 4)}  # overlapping on purpose
Weights = dict[str, list[NDArray[np.float32]]]


def lenet(name: str) -> str:
    """The tutorial's net with a tenth of its features."""
    text = (NETS / f"lenet_{name}_train_val.prototxt").read_text()
    return text.replace("num_output: 500", "num_output: 50").replace("num_output: 5\n", "num_output: 3\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two nets with weights, and eight pictures."""
    path = tmp_path_factory.mktemp("heads")
    rng = np.random.default_rng(0)
    for index in range(8):
        Image.fromarray(rng.integers(0, 255, (28, 28)).astype(np.uint8)).save(path / f"{index}.png")
    for count in (3, 5):
        (path / f"list{count}.txt").write_text("".join(f"{index}.png {index % count}\n" for index in range(8)))
    for seed, name in enumerate(CLASSES):
        (path / f"{name}.prototxt").write_text(lenet(name))
        net = prototxt.load_net(path / f"{name}.prototxt")
        built = fusion.build(net, "TEST", {"data": (1, 1, 28, 28), "label": (1,)}, seed=seed)
        fusion.save_weights(built, path / f"{name}.caffemodel")
    return path


def scores(document: prototxt.Document, weights: Weights) -> NDArray[np.float32]:
    net = fusion.build(prototxt.filter_net(prototxt.load_net(document), phase="TEST"))
    fusion.load_weights(net, weights)
    with torch.no_grad():
        found = net({"data": torch.rand(3, 1, 28, 28, generator=torch.manual_seed(1))})["prob"].numpy()
    return np.asarray(found, np.float32)


def prepared(folder: Path, head: str, classes: dict[str, Sequence[int]], **options: Any) -> tuple[Any, Weights]:
    """The composed net, and its weights after a few steps."""
    sources = [Source(p, f"{p}.prototxt", "ip1", classes=known) for p, known in classes.items()]
    count = max(max(known, default=2) for known in classes.values()) + 1
    composed = compose(
        sources, head, num_output=count, train_list=f"list{count}.txt", val_list=f"list{count}.txt",
        train_batch=4, test_batch=4,
        schedule=SolverSettings(max_iter=9, test_interval=0, display=0), **options,
    )  # fmt: skip
    target = folder / f"{head}{len(options)}"
    composed.write(target)
    plan = fusion.plan_merge(prototxt.load_net(composed.train_val), {p: f"{p}.caffemodel" for p in classes})
    fusion.apply_merge(plan, target / "init.caffemodel")
    if head in ("logits", "probs"):
        return composed, dict(prototxt.read_weights(target / "init.caffemodel"))
    solver = fusion.Solver(target / "solver.prototxt", weights=target / "init.caffemodel", device="cpu")
    solver.step(3)
    trained = {name: [blob.detach().numpy() for blob in blobs] for name, blobs in fusion.params(solver.net).items()}
    before = prototxt.read_weights(target / "init.caffemodel")
    assert any((trained[n][0] != before[n][0]).any() for n in trained if n in before and "/" not in n)
    return composed, trained


@pytest.mark.parametrize("head", sorted(HEADS))
def test_every_head_trains_and_matches_after_export(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: str
) -> None:
    monkeypatch.chdir(folder)
    classes: dict[str, Sequence[int]] = {"odd": (), "even": ()} if head == "zero-init" else {**CLASSES}
    options: dict[str, Any] = {} if head in ("logits", "probs") else {"project": 16, "batch_norm": True}
    composed, weights = prepared(folder, head, classes, **options)
    net = composed.deploy
    if head in ("fastnorm", "softmax"):
        net = bake(composed.deploy, weights).document
        baked = bake(composed.deploy, weights).weights
        np.testing.assert_allclose(scores(net, baked), scores(composed.deploy, weights), rtol=1e-5, atol=1e-6)
        assert "WeightedSum" not in str(net)
        weights = baked
    (tmp_path / "deploy.prototxt").write_text(str(net))
    exported = to_onnx(tmp_path / "deploy.prototxt", weights)
    found = verify_onnx(exported.net, weights, exported.model.SerializeToString())
    assert found.first is None, found.verdict()


def test_zero_init_starts_with_the_very_scores_of_its_source(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    sources = [Source(p, f"{p}.prototxt", "ip1") for p in CLASSES]
    composed = compose(
        sources, "zero-init", num_output=3, train_list="list3.txt", val_list="list3.txt", batch_norm=True
    )
    plan = fusion.plan_merge(prototxt.load_net(composed.train_val), {p: f"{p}.caffemodel" for p in CLASSES})
    fusion.apply_merge(plan, "zero.caffemodel")
    net = fusion.build(prototxt.filter_net(prototxt.load_net(composed.deploy), phase="TEST"))
    fusion.load_weights(net, "zero.caffemodel")
    blobs = fusion.blobs(net, {"data": torch.rand(5, 1, 28, 28, generator=torch.manual_seed(1))})
    final = next(layer.bottom[0] for layer in prototxt.load_net(composed.deploy).layer if layer.name == "prob")
    assert torch.equal(blobs[final], blobs["odd/ip2"])  # so the negative flip rate is 0


def test_a_gate_gives_each_sample_its_own_shares(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    composed, weights = prepared(folder, "gated", {**CLASSES})
    net = fusion.build(prototxt.filter_net(prototxt.load_net(composed.deploy), phase="TEST"))
    fusion.load_weights(net, weights)
    found = fusion.blobs(net, {"data": torch.rand(3, 1, 28, 28, generator=torch.manual_seed(1))})["join_shares"]
    assert found.shape == (3, 2)
    torch.testing.assert_close(found.sum(1), torch.ones(3))
    assert found.std(0).min() > 0


def test_a_head_that_falls_silent_is_told_of_while_it_trains(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    prepared(folder, "fastnorm", CLASSES)
    target = folder / "fastnorm0"
    (target / "tested.prototxt").write_text(
        (target / "solver.prototxt").read_text() + "test_iter: 1 test_interval: 2\n"
    )
    solver = fusion.Solver(target / "tested.prototxt", weights=target / "init.caffemodel", device="cpu")
    solver.step(1)
    with torch.no_grad():
        fusion.params(solver.net)["join"][0].fill_(-0.1)
    with pytest.warns(DeadShares, match="layer 'join': all shares are 0") as told:
        solver.step(3)
    assert len({str(item.message) for item in told}) == 1
