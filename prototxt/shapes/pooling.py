"""Shapes of Pooling and of SPP, which consists of poolings."""

from __future__ import annotations

from prototxt.errors import ShapeError
from prototxt.schema import forks
from prototxt.schema.messages import LayerParameter, PoolingParameter, SPPParameter
from prototxt.shapes.dimensions import Dim, Shape, product, text
from prototxt.shapes.registry import shape_function

MOST_LEVELS = 16
"""Maximum levels of a pyramid: one more would have more bins than a blob can have elements."""


def pooled_size(size: Dim, kernel: int, stride: int, pad: int, *, clip: bool, floor: bool = False) -> Dim:
    """Return the number of windows along one axis, rounded up unlike in torch; `clip` drops a last one in the end pad.

    Caffe clips both axes when either is padded, and none otherwise.
    """
    if size is None:
        return None
    # -(-a // b) is the quotient rounded up. A last window that begins in the end pad would have no input.
    span = size + 2 * pad - kernel
    pooled = (span // stride if floor else -(-span // stride)) + 1
    if clip and (pooled - 1) * stride >= size + pad:
        pooled -= 1
    return pooled


@shape_function("Pooling", bottoms=1, tops=(1, 2), unknown_rank="image")
def _pooling(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Map [N, C, H, W] to [N, C, pooled H, pooled W]; MAX can have a second top, the mask of the same shape."""
    param, (bottom,) = layer.pooling_param, bottoms
    _check(param, layer, bottom)
    if param.global_pooling:
        return [(*bottom[:2], 1, 1)] * len(layer.top), []
    kernel, stride, pad = _pair(param, "kernel"), _pair(param, "stride"), _pair(param, "pad")
    floor = rounds_down(param)
    sizes = [
        pooled_size(size, *window, clip=any(pad), floor=floor)
        for size, window in zip(bottom[2:], zip(kernel, stride, pad, strict=True), strict=True)
    ]
    if any(size is not None and size <= 0 for size in sizes):
        raise ShapeError(
            f"the kernel {kernel[0]}x{kernel[1]} does not fit the input {text(bottom[2:])}",
            hint="use a smaller kernel, or global_pooling: true",
        )
    return [(*bottom[:2], *sizes)] * len(layer.top), []


def rounds_down(param: PoolingParameter) -> bool:
    """Return whether sizes are rounded down as in torch: Caffe's round_mode, or a fork's ceil_mode, torch_pooling."""
    fork = forks.fields(param)
    # The forks' field ceil_mode defaults to true, so that `not` is false for files of Caffe itself.
    down: bool = param.round_mode == PoolingParameter.FLOOR or not fork.ceil_mode or fork.torch_pooling
    return down


def _pair(param: PoolingParameter, short: str) -> tuple[int, int]:
    square = "kernel_size" if short == "kernel" else short
    if param.HasField(f"{short}_h"):
        return getattr(param, f"{short}_h"), getattr(param, f"{short}_w")
    return getattr(param, square), getattr(param, square)


def _check(param: PoolingParameter, layer: LayerParameter, bottom: Shape) -> None:
    if len(layer.top) == 2 and param.pool != PoolingParameter.MAX:
        raise ShapeError("only MAX pooling has a second top, the mask", hint="drop the second top")
    if len(bottom) != 4:
        raise ShapeError(f"the bottom must have 4 axes (num, channels, height, width), not {text(bottom)}")
    # Exactly one of the two forms must be complete: `kernel_size == both` is an exclusive or of them.
    both = param.HasField("kernel_h") and param.HasField("kernel_w")
    either = param.HasField("kernel_h") or param.HasField("kernel_w")
    if param.global_pooling:
        if param.HasField("kernel_size") or either:
            raise ShapeError(
                "global_pooling takes its kernel from the input", hint="drop kernel_size, kernel_h, kernel_w"
            )
    elif param.HasField("kernel_size") == both or (either and not both):
        raise ShapeError("the kernel must be kernel_size, or kernel_h and kernel_w", hint="give one of the two forms")
    for name in ("pad", "stride"):
        high, wide = param.HasField(f"{name}_h"), param.HasField(f"{name}_w")
        if high != wide or (high and param.HasField(name)):
            raise ShapeError(f"give either {name}, or both {name}_h and {name}_w")
    if param.global_pooling:
        if any(_pair(param, "pad")) or _pair(param, "stride") != (1, 1):
            raise ShapeError("global_pooling takes pad 0 and stride 1 only", hint="drop pad and stride")
        return
    kernel, stride, pad = _pair(param, "kernel"), _pair(param, "stride"), _pair(param, "pad")
    if min(kernel) <= 0 or min(stride) <= 0:
        raise ShapeError("kernel and stride must be at least 1")
    if any(pad) and param.pool == PoolingParameter.STOCHASTIC:
        raise ShapeError("STOCHASTIC pooling takes no pad", hint="set pad: 0")
    if any(p >= k for p, k in zip(pad, kernel, strict=True)):
        raise ShapeError(
            f"the pad {pad[0]}x{pad[1]} must be smaller than the kernel {kernel[0]}x{kernel[1]}",
            hint="use less pad, or a larger kernel",
        )


@shape_function("SPP", bottoms=1, tops=1, unknown_rank="image")
def _spp(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Return [N, C * (4^height - 1) / 3] for a pyramid of 1, 4, 16... bins, but [N, C, 1, 1] for one level."""
    param, (bottom,) = layer.spp_param, bottoms
    if len(bottom) != 4:
        raise ShapeError(f"the bottom must have 4 axes (num, channels, height, width), not {text(bottom)}")
    if param.pyramid_height < 1:
        raise ShapeError("pyramid_height must be at least 1")
    if param.pool == SPPParameter.STOCHASTIC:
        raise ShapeError("SPP pools by MAX or AVE only")
    num, channels, height, width = bottom
    if param.pyramid_height == 1:
        return [(num, channels, 1, 1)], []
    if param.pyramid_height > MOST_LEVELS:
        raise ShapeError(f"pyramid_height must be at most {MOST_LEVELS}, not {param.pyramid_height}")
    # With more bins than pixels, the pad of Caffe's pooling would reach its kernel, which it refuses.
    bins = 2 ** (param.pyramid_height - 1)
    if any(size is not None and size < bins for size in (height, width)):
        raise ShapeError(
            f"the input {text(bottom[2:])} is smaller than the pyramid's finest level ({bins}x{bins})",
            hint="use a smaller pyramid_height",
        )
    return [(num, product((channels, (4**param.pyramid_height - 1) // 3)))], []
