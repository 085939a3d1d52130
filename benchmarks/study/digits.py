"""MNIST from the example's four files, split so that no image has two purposes."""

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


def training(subset: int, rows: int) -> Digits:
    """Return the first `rows` images of a subset, 0 to 5; subsets of up to SUBSET images do not overlap."""
    return _read("train", slice(subset * SUBSET, subset * SUBSET + rows))


def evaluation(split: str, limit: int | None = None) -> Digits:
    """Return 5,000 training images that no net is trained on (`selection`) or the 10,000 test images (`report`)."""
    found = _read("train", SELECTION) if split == "selection" else _read("t10k", slice(None))
    return found.take(slice(limit))


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
