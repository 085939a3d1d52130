"""Pooling against loops over windows, in NumPy, as in Caffe's pooling_layer.cpp and pooling_layer.cu."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fusion.layers.pooling import (
    FLT_MAX,
    StochasticPooling,
    Windows,
    pool_average,
    pool_maximum,
    pool_maximum_with_mask,
)
from fusion.nets.build import blobs, build
from prototxt import parse

Floats = NDArray[np.float32]
NET = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 7 dim: 9 } } }
layer { name: "pool" type: "Pooling" bottom: "data" top: "pool" pooling_param { %s } }
"""
# kernel, stride, pad as (height, width); pads up to the kernel less one, which torch itself does not take above half
GEOMETRIES = [
    ((2, 2), (2, 2), (0, 0)), ((3, 3), (2, 2), (1, 1)), ((3, 3), (2, 2), (2, 2)), ((5, 3), (3, 1), (4, 2)),
    ((3, 2), (1, 3), (0, 1)), ((2, 3), (3, 4), (0, 0)), ((4, 4), (2, 3), (3, 3)),
]  # fmt: skip


def clipped(size: int, index: int, kernel: int, stride: int, pad: int) -> tuple[int, int, int]:
    """The start and end of a window inside the image, and its length with padding at most once beyond the edge."""
    start = index * stride - pad
    end = min(start + kernel, size + pad)
    return max(start, 0), min(end, size), end - start


def loops(x: Floats, windows: Windows, rule: str) -> Floats:
    down, across = windows.sizes(torch.from_numpy(x))
    found = np.empty((*x.shape[:2], down, across), np.float32)
    for row, column in itertools.product(range(down), range(across)):
        top, bottom, height = clipped(x.shape[2], row, windows.kernel[0], windows.stride[0], windows.pad[0])
        left, right, width = clipped(x.shape[3], column, windows.kernel[1], windows.stride[1], windows.pad[1])
        part = x[:, :, top:bottom, left:right].reshape(*x.shape[:2], -1)
        if rule == "average":
            found[:, :, row, column] = part.sum(2) / (height * width)
        elif rule == "maximum":
            found[:, :, row, column] = part.max(2)
        else:
            found[:, :, row, column] = (part**2).sum(2) / np.maximum(part.sum(2), 1e-30)
    return found


def numbers() -> Floats:
    x = np.random.default_rng(2).uniform(0, 3, (2, 3, 7, 9)).astype(np.float32)
    x[0, 0, :4] = 0.0  # windows of zeros only
    return x


@pytest.mark.parametrize(("kernel", "stride", "pad"), GEOMETRIES)
@pytest.mark.parametrize("rule", ["average", "maximum", "stochastic"])
def test_windows(rule: str, kernel: tuple[int, int], stride: tuple[int, int], pad: tuple[int, int]) -> None:
    x, windows = numbers(), Windows(kernel, stride, pad)
    pool = {"average": pool_average, "maximum": pool_maximum}.get(rule)
    given = torch.from_numpy(x)
    found = StochasticPooling(windows, draw=False)(given) if pool is None else pool(given, windows)
    np.testing.assert_allclose(found.numpy(), loops(x, windows, rule), rtol=1e-5, atol=1e-6)
    if rule == "maximum":
        values, places = pool_maximum_with_mask(given, windows)
        assert torch.equal(values, found)
        assert torch.equal(given.flatten(2).gather(2, places.long().flatten(2)), values.flatten(2))


@pytest.mark.parametrize(
    ("pad", "floor", "sizes"),
    [((0, 0), False, (2, 3)), ((1, 0), False, (2, 2)), ((0, 1), False, (2, 3)), ((0, 0), True, (2, 2))],
)
def test_a_last_window_is_dropped_beyond_any_padding(pad: tuple[int, int], floor: bool, sizes: tuple[int, int]) -> None:
    """Of 5 x 6 with stride 3 and kernel 2, as pooling_layer.cpp counts: padding along one axis clips along both."""
    assert Windows((2, 2), (3, 3), pad, floor).sizes(torch.zeros(1, 1, 5, 6)) == sizes


def test_windows_outside_of_the_image_have_no_place() -> None:
    x = torch.arange(1, 10, dtype=torch.float32).reshape(1, 1, 3, 3)
    values, places = pool_maximum_with_mask(x, Windows((1, 1), (2, 2), (1, 1)))
    assert places[0, 0, :2, :2].tolist() == [[-1, -1], [-1, 4]]
    assert values[0, 0, :2, :2].tolist() == [[-FLT_MAX, -FLT_MAX], [-FLT_MAX, 5]]


@pytest.mark.parametrize("turned", [False, True])
def test_an_empty_window_beyond_one_axis(turned: bool) -> None:
    """Caffe has it where nothing is padded, also if the windows of the other axis overlap; torch never."""
    x = torch.arange(18, dtype=torch.float32).reshape(1, 1, 2, 9)
    windows = Windows((2, 1), (1, 3), (0, 0))
    if turned:
        x, windows = x.transpose(2, 3), Windows((1, 2), (3, 1), (0, 0))
    assert pool_maximum(x, windows).flatten().tolist() == [9, 12, 15, -FLT_MAX]
    assert pool_average(x, windows).flatten()[:3].tolist() == [4.5, 7.5, 10.5]
    assert pool_average(x, windows).flatten()[3].isnan()


def test_stochastic_pooling_of_a_net_in_test() -> None:
    x = numbers()
    net = build(parse(NET % "pool: STOCHASTIC kernel_size: 3 stride: 2"), "TEST")
    expected = loops(x, Windows((3, 3), (2, 2), (0, 0)), "stochastic")
    np.testing.assert_allclose(blobs(net, {"data": torch.from_numpy(x)})["pool"].numpy(), expected, rtol=1e-5)


def test_stochastic_pooling_draws_by_the_size_of_the_elements() -> None:
    torch.manual_seed(0)
    x = torch.tensor([[1.0, 0.0], [2.0, 5.0]]).expand(4000, 1, 2, 2).contiguous()
    drawn = StochasticPooling(None, draw=True)(x).flatten()
    shares = [float((drawn == value).float().mean()) for value in (0.0, 1.0, 2.0, 5.0)]
    assert shares[0] == 0
    assert shares[1:] == pytest.approx([1 / 8, 2 / 8, 5 / 8], abs=0.03)  # four deviations
