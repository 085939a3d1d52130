"""AffineGrid and GridSample of ONNX: torch's, which differs in one corner."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fusion.onnx.to_torch.functions import operator


@operator("AffineGrid")
def _affine_grid(theta: Tensor, *, size: Sequence[int], align_corners: int = 0) -> Tensor:
    """Return the places [N, h, w, 2] of the elements of maps that are moved by matrices, float [N, 2, 3]."""
    return F.affine_grid(theta, [len(theta), 1, *size], bool(align_corners))


@operator("GridSample")
def _grid_sample(
    x: Tensor, grid: Tensor, *, mode: str = "bilinear", padding_mode: str = "zeros", align_corners: int = 0
) -> Tensor:
    """Return x [N, C, H, W] at places of `grid` [N, h, w, 2], from -1 to 1 along the width and the height."""
    if mode == "nearest" and padding_mode == "reflection":
        # ONNX Runtime rounds before it reflects and torch after it, which differs halfway between two elements.
        sizes = grid.new_tensor([x.shape[3], x.shape[2]])
        length, start = (sizes - 1, 0.0) if align_corners else (sizes, 0.5)
        length = length.clamp(min=1)
        grid = (2 * (torch.round((grid + 1) * length / 2 - start) + start)) / length - 1
    return F.grid_sample(x, grid, mode, padding_mode, bool(align_corners))
