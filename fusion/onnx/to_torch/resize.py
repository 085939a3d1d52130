"""Resize in every mode that does not crop, as a weighted sum of input elements per axis."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from fusion.onnx.graphs.shape_probe import scaled

_LINEAR: Final = {1: "linear", 2: "bilinear", 3: "trilinear"}


class Resize(nn.Module):
    """Resize of the spatial axes, to sizes or by factors.

    values  the node's other attributes
    """

    def __init__(self, sizes: list[int] | None, scales: list[float] | None, **values: Any) -> None:
        super().__init__()
        self.sizes, self.scales = sizes, scales
        self.mode: str = values.get("mode", "nearest")
        self.place: str = values.get("coordinate_transformation_mode", "half_pixel")
        self.rounding: str = values.get("nearest_mode", "round_prefer_floor")
        self.coefficient: float = values.get("cubic_coeff_a", -0.75)
        self.outside = bool(values.get("exclude_outside", 0))

    def forward(self, x: Tensor) -> Tensor:
        """Resize float [N, C, ...]."""
        before = list(x.shape[2:])
        after = self.sizes or [scaled(size, scale) for size, scale in zip(before, self.scales or [], strict=True)]
        scales = self.scales or [float(np.float32(new) / np.float32(old))
                                 for old, new in zip(before, after, strict=True)]  # fmt: skip
        if self._is_torch(after, scales, before):
            mode = _LINEAR[len(after)] if self.mode == "linear" else "bicubic"
            return F.interpolate(x, after, None, mode, self.place == "align_corners")
        # The interpolation is separable: one axis at a time, each new element from one, two or four old ones.
        for axis, (old, new, scale) in enumerate(zip(before, after, scales, strict=True), 2):
            if old == new and scale == 1:
                continue
            index, weights = self._taps(old, new, scale)
            parts = [x.index_select(axis, torch.from_numpy(row).to(x.device)) for row in index]
            if self.mode == "nearest":
                x = parts[0]
                continue
            shape = [-1] + [1] * (x.dim() - 1 - axis)
            x = torch.stack(
                [part * torch.from_numpy(row).to(x).reshape(shape) for part, row in zip(parts, weights, strict=True)]
            ).sum(0)
        return x

    def _is_torch(self, after: list[int], scales: list[float], before: list[int]) -> bool:
        """Return whether torch's own interpolation is the same; it rounds fractional sizes differently."""
        exact = self.scales is None or all(
            old * scale == new for old, new, scale in zip(before, after, scales, strict=True)
        )
        kind = (self.mode == "linear" and len(after) in _LINEAR) or (
            self.mode == "cubic" and len(after) == 2 and self.coefficient == -0.75 and not self.outside
        )
        half = self.place == "half_pixel" or (self.place == "pytorch_half_pixel" and min(after) > 1)
        return kind and exact and (half or self.place == "align_corners")

    def _taps(self, old: int, new: int, scale: float) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        if self.mode == "nearest":
            index = _nearest(_places(old, new, scale, self.place), self.rounding).clip(0, old - 1)
            return index[np.newaxis], np.ones((1, new), np.float32)
        where = _places(old, new, scale, self.place)
        if self.mode == "linear":
            where = where.clip(0, old - 1)
            first = np.floor(where).astype(np.int64)
            share = where - first
            return np.stack([first, np.minimum(first + 1, old - 1)]), np.stack([1 - share, share]).astype(np.float32)
        first = np.floor(where).astype(np.int64)
        index = first + np.arange(-1, 3)[:, np.newaxis]
        weights = _cubic(where - first, self.coefficient)
        if self.outside:
            weights = np.where((index >= 0) & (index < old), weights, 0)
            weights = weights / weights.sum(0)
        return index.clip(0, old - 1), weights.astype(np.float32)


@lru_cache(maxsize=256)
def _places(old: int, new: int, scale: float, mode: str) -> NDArray[np.float32]:
    """Return the position of each new element on the old axis, in float32 as in ONNX Runtime."""
    at: NDArray[np.float32] = np.arange(new, dtype=np.float32)
    factor, half = np.float32(scale), np.float32(0.5)
    middle: NDArray[np.float32]
    if mode == "align_corners":
        middle = at * np.float32(old - 1) / np.float32(max(1, new - 1))
        return middle
    if mode == "asymmetric":
        middle = at / factor
        return middle
    if mode == "tf_half_pixel_for_nn":
        middle = (at + half) / factor
        return middle
    if mode == "pytorch_half_pixel" and new == 1:
        return at  # the first
    middle = (at + half) / factor - half
    if mode == "half_pixel_symmetric":
        middle = middle + np.float32(old / 2 * (1 - new / (old * float(factor))))
    return middle


def _nearest(where: NDArray[np.float32], rounding: str) -> NDArray[np.int64]:
    ways = {"floor": np.floor, "ceil": np.ceil}
    found: Any
    if rounding in ways:
        found = ways[rounding](where)
    elif rounding == "round_prefer_ceil":
        found = np.floor(where + np.float32(0.5))
    else:
        found = np.ceil(where - np.float32(0.5))
    return np.asarray(found, np.int64)


def _cubic(share: NDArray[np.float32], a: float) -> NDArray[np.float32]:
    """Return the weights of the four nearest elements (Keys, 1981)."""
    near, far = np.stack([share, 1 - share]), np.stack([share + 1, 2 - share])
    inner = ((a + 2) * near - (a + 3)) * near**2 + 1
    outer = a * (((far - 5) * far + 8) * far - 4)
    return np.stack([outer[0], inner[0], inner[1], outer[1]])
