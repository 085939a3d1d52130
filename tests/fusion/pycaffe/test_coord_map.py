"""Positions of blobs in each other, counted by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fusion.pycaffe import layers as L
from fusion.pycaffe.coord_map import AxisMismatchException, compose, coord_map_from_to, crop, inverse


def numbers(found: tuple[Any, Any, Any]) -> tuple[Any, ...]:
    return found[0], *(np.asarray(value, float).reshape(-1).tolist() for value in found[1:])


def upsampled(data: Any, pool: int = 2, up: int = 2, **deconvolution: int) -> Any:
    pooled = L.Pooling(L.Convolution(data, kernel_size=3), kernel_size=pool, stride=pool)
    return L.Deconvolution(pooled, convolution_param={"kernel_size": 2 * up, "stride": up, **deconvolution})


def test_kernels_strides_padding_and_dilation_shift_and_scale() -> None:
    data = L.Input()
    # position i of a top is the middle of its window: stride * i - pad + (extent - 1) / 2
    assert numbers(coord_map_from_to(L.Convolution(data, kernel_size=3), data)) == (1, [1], [1])
    strided = L.Convolution(data, kernel_size=5, stride=2, pad=1)
    assert numbers(coord_map_from_to(strided, data)) == (1, [2], [1])
    assert numbers(coord_map_from_to(data, strided)) == (1, [0.5], [-0.5])
    assert numbers(coord_map_from_to(L.Pooling(data, kernel_size=3, dilation=3), data)) == (1, [1], [3])
    assert numbers(coord_map_from_to(upsampled(data), data)) == (1, [1], [0])
    assert numbers(coord_map_from_to(upsampled(data, 4, 4), data)) == (1, [1], [-1])
    assert numbers(coord_map_from_to(upsampled(data, pad=3), data)) == (1, [1], [3])


def test_axes_of_their_own_and_layers_that_keep_positions() -> None:
    data = L.Input()
    top = L.Convolution(data, kernel_size=[3, 1, 7], stride=[1, 2, 1], axis=2)
    assert numbers(coord_map_from_to(L.ReLU(L.Eltwise(top, top)), data)) == (2, [1, 2, 1], [1, 0, 3])
    assert coord_map_from_to(data, data) == (None, 1, 0)
    assert coord_map_from_to(L.Power(data), L.TanH(data)) == (None, 1, 0)


def test_two_branches_meet_at_the_nearest_blob() -> None:
    trunk = L.Pooling(L.Input(), kernel_size=2, stride=2)
    fine, coarse = L.Convolution(trunk, kernel_size=1), L.Convolution(trunk, kernel_size=3, stride=4, pad=1)
    assert numbers(coord_map_from_to(coarse, fine)) == (1, [4], [0])


def test_a_crop_shifts_by_its_offset_and_follows_its_first_bottom() -> None:
    data = L.Input()
    top = upsampled(data)
    cropped = L.Crop(top, L.InnerProduct(data), crop_param={"axis": 2, "offset": [5, 6]})
    assert numbers(coord_map_from_to(cropped, data)) == (1, [1], [5, 6])
    layer = crop(upsampled(data, 4, 4), data).to_proto().layer[-1]
    assert (layer.type, layer.crop_param.axis, list(layer.crop_param.offset)) == ("Crop", 2, [1])


def test_blobs_without_a_common_position_and_crops_that_are_impossible() -> None:
    data = L.Input()
    with pytest.raises(RuntimeError, match="connected by spatial layers"):
        coord_map_from_to(L.InnerProduct(data), data)
    with pytest.raises(AssertionError, match="scale mismatch"):
        crop(upsampled(data, pool=3), data)
    with pytest.raises(AssertionError, match="negative offset"):
        crop(upsampled(data, pad=10), data)
    with pytest.raises(AssertionError, match="noninteger offset"):
        crop(L.Convolution(data, kernel_size=4, pad=2), data)
    with pytest.raises(AssertionError, match="_h/_w"):
        coord_map_from_to(L.Pooling(data, kernel_h=2, kernel_w=3), data)
    with pytest.raises(AxisMismatchException, match="axis 1 and one along axis 2"):
        compose((1, 1, 0), (2, 1, 0))
    assert compose((None, 2, 1), (3, 5, 4)) == (3, 10, 9)
    assert inverse((1, 2, 6)) == (1, 0.5, -3)
