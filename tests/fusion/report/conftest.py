"""Predictions of an odd, an even, a plainly fused and a treated net over pictures that exist."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusion import pct

COUNT = 200


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four predictions files and the pictures of most samples."""
    generator = np.random.default_rng(0)
    labels = np.arange(COUNT) % 6
    keys = np.array([f"val/{i}.png" for i in range(COUNT)])
    (tmp_path / "val").mkdir()
    for key in keys[: COUNT - 40]:
        Image.fromarray(generator.integers(0, 255, (8, 8), np.uint8)).save(tmp_path / key)

    def logits(error: float, classes: list[int]) -> np.ndarray:
        scores = generator.normal(size=(COUNT, len(classes)))
        column = np.array([classes.index(c) if c in classes else 0 for c in labels])
        scores[np.arange(COUNT), np.where(generator.random(COUNT) < error, (column + 1) % len(classes), column)] += 5
        return scores.astype(np.float32)

    for name, parity in (("odd", 1), ("even", 0)):
        rows = labels % 2 == parity
        net = pct.Predictions(keys[rows], labels[rows] // 2, logits(0.02, [0, 1, 2])[rows], meta={"name": name})
        right = np.eye(3, dtype=np.float32)[labels[rows] // 2] * 5
        pct.Predictions(net.keys, net.labels, right + 0.1 * net.logits, meta={"name": name}).save(
            tmp_path / f"{name}.npz"
        )
    everything = list(range(6))
    pct.Predictions(keys, labels, logits(0.2, everything), meta={"name": "plain"}).save(tmp_path / "plain.npz")
    pct.Predictions(keys, labels, logits(0.05, everything), meta={"name": "focal"}).save(tmp_path / "focal.npz")
    return tmp_path


@pytest.fixture
def nets(folder: Path) -> dict[str, pct.Predictions]:
    """The four nets in one label space."""
    loaded = {name: pct.Predictions.load(folder / f"{name}.npz") for name in ("odd", "even", "plain", "focal")}
    return {**loaded, "odd": loaded["odd"].relabelled([1, 3, 5]), "even": loaded["even"].relabelled([0, 2, 4])}
