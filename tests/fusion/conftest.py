"""A small net with its solver as files in the working directory, for tests of all that trains it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

NET = """
name: "small"
layer { name: "data" type: "ImageData" top: "data" top: "label" include { phase: TRAIN }
  image_data_param { source: "train.txt" batch_size: 4 is_color: false SHUFFLE } transform_param { scale: 0.01 } }
layer { name: "data" type: "ImageData" top: "data" top: "label" include { phase: TEST }
  image_data_param { source: "test.txt" batch_size: 3 is_color: false } transform_param { scale: 0.01 } }
layer { name: "trunk" type: "InnerProduct" bottom: "data" top: "trunk" FROZEN
  inner_product_param { num_output: 8 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "trunk" top: "trunk" }
layer { name: "ip" type: "InnerProduct" bottom: "trunk" top: "ip" param { lr_mult: 1 } param { lr_mult: 2 }
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "acc" type: "Accuracy" bottom: "ip" bottom: "label" top: "acc" include { phase: TEST } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
SOLVER = {
    "net": '"net.prototxt"', "test_iter": 4, "test_interval": 10, "base_lr": 0.05, "momentum": 0.9,
    "weight_decay": 0.001, "lr_policy": '"step"', "gamma": 0.5, "stepsize": 8, "display": 5, "max_iter": 20,
    "snapshot": 10, "snapshot_prefix": '"small"', "random_seed": 3, "average_loss": 4,
}  # fmt: skip
Make = Callable[..., Path]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Write pictures, lists, net and solver, and go there; returns the solver's path."""
    monkeypatch.chdir(tmp_path)

    def make(*, frozen: bool = True, shuffle: bool = False, records: int = 22, **solver: object) -> Path:
        rng = np.random.default_rng(0)
        for name, count in (("train", records), ("test", 12)):
            lines = []
            for index in range(count):
                label = index % 3
                pixels = rng.integers(0, 60, (5, 6)).astype(np.uint8)
                pixels[:, label * 2 : label * 2 + 2] += 150
                Image.fromarray(pixels).save(f"{name}{index}.png")
                lines.append(f"{name}{index}.png {label}\n")
            Path(f"{name}.txt").write_text("".join(lines))
        net = NET.replace("FROZEN", "param { lr_mult: 0 } param { lr_mult: 0 }" if frozen else "")
        Path("net.prototxt").write_text(net.replace("SHUFFLE", "shuffle: true" if shuffle else ""))
        lines = [f"{name}: {value}\n" for name, value in {**SOLVER, **solver}.items()]
        Path("solver.prototxt").write_text("".join(lines))
        return Path("solver.prototxt")

    return make


@pytest.fixture
def write_old(dense_net: Callable[..., str]) -> Callable[..., None]:
    """Return a function that writes an old net for the images of `project`, with random weights."""

    def write(outputs: int = 3, seed: int = 5, name: str = "old") -> None:
        from fusion import build, save_weights

        Path(f"{name}.prototxt").write_text(dense_net(outputs, source="train.txt", batch=5))
        net = build(f"{name}.prototxt", shapes={"data": (1, 1, 5, 6), "label": (1,)}, seed=seed)
        save_weights(net, f"{name}.caffemodel")

    return write
