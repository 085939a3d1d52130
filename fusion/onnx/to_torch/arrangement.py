"""Operators of ONNX that arrange elements: join, split, repeat, expand and transpose tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torchvision
from onnx import TensorProto, numpy_helper
from torch import Tensor

from fusion.onnx.to_torch.functions import Ints, integers, operator


@operator("Concat")
def _concat(*tensors: Tensor, axis: int) -> Tensor:
    return torch.cat(tensors, axis)


@operator("ConstantOfShape", settings=(0,))
def _constant_of_shape(shape: Ints, *, value: TensorProto | None = None) -> Tensor:
    device = shape.device if isinstance(shape, Tensor) else None
    one = torch.zeros(1) if value is None else torch.from_numpy(numpy_helper.to_array(value).copy())
    return one.to(device).reshape(()).repeat(integers(shape))


@operator("DepthToSpace")
def _depth_to_space(x: Tensor, *, blocksize: int, mode: str) -> Tensor:
    """Return blocks of mode CRD; those of mode DCR have been written out (`fusion.onnx.graphs.canonicalize`)."""
    return torch.pixel_shuffle(x, blocksize)


@operator("Expand", settings=(1,))
def _expand(x: Tensor, shape: Ints) -> Tensor:
    sizes = integers(shape)
    longer = [1] * (len(sizes) - x.dim()) + list(x.shape)
    sizes = [1] * (len(longer) - len(sizes)) + sizes
    return x.expand([old if new == 1 else new for old, new in zip(longer, sizes, strict=True)])


@operator("Gather")
def _gather(x: Tensor, index: Tensor, *, axis: int = 0) -> Tensor:
    """Return the slices of x at indices along an axis; negative ones count from the end."""
    axis %= x.dim()
    return x[(slice(None),) * axis + (index.long(),)]


@operator("ReverseSequence")
def _reverse_sequence(x: Tensor, lengths: Tensor, *, batch_axis: int = 1, time_axis: int = 0) -> Tensor:
    """Reverse the first `lengths` steps of each sample, an axis each; steps after them stay."""
    steps = torch.arange(x.shape[time_axis], device=x.device)
    ends = lengths.long().unsqueeze(1)
    index = torch.where(steps < ends, ends - 1 - steps, steps)  # [batch, time]
    shape = [1] * x.dim()
    shape[batch_axis], shape[time_axis] = index.shape
    index = (index if batch_axis < time_axis else index.T).reshape(shape)
    return torch.gather(x, time_axis, index.expand_as(x))


@operator("Size")
def _size(x: Tensor) -> Tensor:
    return torch.tensor(x.numel(), dtype=torch.int64, device=x.device)


@operator("Shape")
def _shape(x: Tensor, *, start: int = 0, end: int | None = None) -> Tensor:
    return torch.tensor(x.shape[start:end], dtype=torch.int64, device=x.device)


@operator("Split", settings=(1,))
def _split(x: Tensor, sizes: Ints | None = None, *, axis: int = 0, outputs: int = 1) -> Any:
    parts = torch.split(x, x.shape[axis] // outputs if sizes is None else integers(sizes), axis)
    return parts if outputs > 1 else parts[0]


@operator("Tile", settings=(1,))
def _tile(x: Tensor, repeats: Ints) -> Tensor:
    return x.repeat(integers(repeats))


@operator("Transpose")
def _transpose(x: Tensor, *, perm: Sequence[int] | None = None) -> Tensor:
    return x.permute(*(range(x.dim())[::-1] if perm is None else perm))


@operator("RoiAlign")
def _roi_align(x: Tensor, boxes: Tensor, samples: Tensor, *, opset: int, **values: Any) -> Tensor:
    """Average x [N, C, H, W] in boxes [K, 4] of samples [K]; before opset 16 places were half an element further."""
    rows = torch.cat([samples.unsqueeze(1).to(boxes.dtype), boxes], 1)
    size = values.get("output_height", 1), values.get("output_width", 1)
    aligned = opset >= 16 and values.get("coordinate_transformation_mode", "half_pixel") == "half_pixel"
    scale, points = values.get("spatial_scale", 1.0), values.get("sampling_ratio", 0)
    found: Tensor = torchvision.ops.roi_align(x, rows, size, scale, points, aligned)
    return found
