"""Predictions of an odd, an even, a plainly fused and a treated net over pictures that exist, and of eight samples."""

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


def eight_samples(name: str, answers: list[int], shares: list[float], **meta: object) -> pct.Predictions:
    """A net over a to h: its answers, and their probabilities; the next class has three quarters of the rest."""
    probabilities = np.empty((8, 3))
    for row, (answer, share) in enumerate(zip(answers, shares, strict=True)):
        probabilities[row] = (1 - share) / 4
        probabilities[row, (answer + 1) % 3] = (1 - share) * 3 / 4
        probabilities[row, answer] = share
    keys = [f"pics/{letter}.png" for letter in "abcdefgh"]
    variants = [""] * 4 + ["noise"] * 4
    return pct.Predictions(keys, EIGHT_LABELS, np.log(probabilities), variants=variants, meta={"name": name, **meta})


EIGHT_LABELS = [0, 0, 1, 1, 2, 2, 2, 2]


@pytest.fixture
def eight() -> tuple[pct.Predictions, pct.Predictions, pct.Predictions]:
    """An old net, a base that forgets b, e and f, and a new net that forgets b and f; both learn d."""
    names = {"class_names": ["ant", "bee", "cat"]}
    old = eight_samples("old", [0, 0, 1, 0, 2, 2, 1, 2], [0.8, 0.6, 0.9, 0.7, 0.5, 0.95, 0.6, 0.7], **names)
    base = eight_samples("base", [0, 1, 1, 1, 0, 1, 1, 2], [0.9] * 8)
    return old, base, eight_samples("new", [0, 1, 1, 1, 2, 0, 0, 2], [0.6, 0.9, 0.7, 0.5, 0.8, 0.7, 0.6, 0.99])
