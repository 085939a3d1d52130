"""MNIST from the example's four files, and scikit-learn's digits, both split so that no image has two purposes."""

from __future__ import annotations

import gzip
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

DATA = Path(__file__).resolve().parents[2] / "examples" / "mnist_odd_even" / "data"
SUBSET = 8000  # images
SELECTION = slice(50_000, 55_000)  # of the training images: those on which weights of losses are chosen
SMALL_TRAINING, SMALL_SELECTION = 500, slice(500, 800)  # of scikit-learn's digits; the other 997 are reported


class Digits(NamedTuple):
    """Images float32 [N, 1, 28, 28] of about -0.5 to 0.5, labels int64 [N], and keys, str [N]."""

    images: NDArray[np.float32]
    labels: NDArray[np.int64]
    keys: NDArray[np.str_]

    def take(self, rows: slice | NDArray[np.int64] | NDArray[np.bool_]) -> Digits:
        """Return these images in this order."""
        return Digits(self.images[rows], self.labels[rows], self.keys[rows])

    def of(self, classes: tuple[int, ...]) -> Digits:
        """Return the images of these digits."""
        return self.take(np.isin(self.labels, classes))


def training(data: str, subset: int, rows: int) -> Digits:
    """Return the first `rows` images of a subset of MNIST, 0 to 5, which do not overlap; of "digits" there is one."""
    if data == "digits":
        return _small().take(slice(min(rows, SMALL_TRAINING)))
    return _read("train", slice(subset * SUBSET, subset * SUBSET + rows))


def evaluation(data: str, split: str, limit: int | None = None) -> Digits:
    """Return the images that no net is trained on: to choose by (`selection`), or to report on (`report`)."""
    if data == "digits":
        found = _small().take(SMALL_SELECTION if split == "selection" else slice(SMALL_SELECTION.stop, None))
    else:
        found = _read("train", SELECTION) if split == "selection" else _read("t10k", slice(None))
    return found.take(slice(limit))


@cache
def _small() -> Digits:
    """Return scikit-learn's 1,797 images of 8 x 8, in an order that mixes the writers."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    pixels = (images[order].astype(np.float32) / 16 - 0.5).reshape(-1, 1, 8, 8)
    return Digits(pixels, labels[order].astype(np.int64), np.array([f"digits/{number:04d}" for number in order]))


def _read(name: str, rows: slice) -> Digits:
    images, labels = (_idx(DATA / f"{name}-{kind}-ubyte.gz")[rows] for kind in ("images-idx3", "labels-idx1"))
    keys = np.array([f"{name}/{number:05d}" for number in range(60_000)[rows][: len(labels)]])
    return Digits(((images.astype(np.float32) - 128) / 256)[:, None], labels.astype(np.int64), keys)


@cache
def _idx(path: Path) -> NDArray[np.uint8]:
    with gzip.open(path) as file:
        data = file.read()
    dimensions = data[3]
    shape = np.frombuffer(data, ">i4", dimensions, 4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
