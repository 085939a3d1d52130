"""Caffe's weight fillers: the initial values of parameters. NumPy only, so that merging nets needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod, sqrt
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from fusion.errors import BuildError
from prototxt.errors import did_you_mean

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from prototxt.schema.messages import FillerParameter

Array: TypeAlias = "NDArray[np.float32]"
Filler: TypeAlias = "Callable[[FillerParameter, tuple[int, ...], np.random.Generator], NDArray[np.float32]]"

SPARSE_TYPES = ("gaussian",)


def fill(filler: FillerParameter, shape: Sequence[int], rng: np.random.Generator) -> Array:
    """Return a parameter's initial values.

    filler   Caffe's message; its type is "constant" when it has none
    shape    of the parameter: [out, in, kernel...]
    returns  float32 [*shape]

    Raises: BuildError for an unknown type, or settings that Caffe refuses.
    """
    if filler.type not in FILLERS:
        hint = did_you_mean(filler.type, FILLERS, f"the types are {', '.join(FILLERS)}")
        raise BuildError(f"unknown filler type {filler.type!r}", hint=hint)
    if filler.sparse != -1 and filler.type not in SPARSE_TYPES:
        raise BuildError(f"filler {filler.type!r} cannot be sparse", hint="sparse goes with type: 'gaussian'")
    return np.asarray(FILLERS[filler.type](filler, tuple(shape), rng), dtype=np.float32)


def _constant(filler: FillerParameter, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    return np.full(shape, filler.value, np.float32)


def _uniform(filler: FillerParameter, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    if filler.min > filler.max:
        raise BuildError(f"filler 'uniform' has min {filler.min:g} above max {filler.max:g}")
    values: Array = rng.random(shape, np.float32) * np.float32(filler.max - filler.min) + np.float32(filler.min)
    return values


def _gaussian(filler: FillerParameter, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Draw normal numbers; with `sparse` = s keep each with probability s / shape[0]: about s outputs per input."""
    if filler.std < 0:
        raise BuildError(f"filler 'gaussian' has a negative std, {filler.std:g}")
    values: Array = rng.standard_normal(shape, np.float32) * np.float32(filler.std) + np.float32(filler.mean)
    if filler.sparse == -1:
        return values
    if filler.sparse < 0 or not shape or filler.sparse > shape[0]:
        raise BuildError(f"filler 'gaussian' has sparse {filler.sparse} for a parameter of shape {list(shape)}")
    values *= rng.random(shape, np.float32) < filler.sparse / shape[0]
    return values


def _positive_unitball(filler: FillerParameter, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Draw positive numbers, and let each row of axis 0 sum to 1."""
    values: Array = 1 - rng.random(shape, np.float32)  # in (0, 1]: a row of zeros could not be divided
    values /= values.sum(axis=tuple(range(1, len(shape))), keepdims=True)
    return values


def _xavier(filler: FillerParameter, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Draw uniform numbers of variance 1 / fan (Glorot and Bengio 2010)."""
    limit = np.float32(sqrt(3.0 / _fan(filler, shape)))
    values: Array = (rng.random(shape, np.float32) * 2 - 1) * limit
    return values


def _msra(filler: FillerParameter, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Draw normal numbers of variance 2 / fan (He et al. 2015)."""
    values: Array = rng.standard_normal(shape, np.float32) * np.float32(sqrt(2.0 / _fan(filler, shape)))
    return values


def _bilinear(filler: FillerParameter, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Return the kernel that makes a Deconvolution interpolate."""
    if len(shape) != 4 or shape[2] != shape[3]:
        raise BuildError(f"filler 'bilinear' needs a square kernel with 4 axes, not shape {list(shape)}")
    size = shape[3]
    factor = (size + 1) // 2
    center = (size - 1) / (2.0 * factor)
    ramp = 1 - np.abs(np.arange(size) / factor - center)
    return np.broadcast_to(np.outer(ramp, ramp), shape).astype(np.float32)


def _fan(filler: FillerParameter, shape: tuple[int, ...]) -> float:
    """Return Caffe's fan: the product of all axes but 0 (in) or but 1 (out), whatever they mean for the layer."""
    count = prod(shape)
    if not count:
        raise BuildError(f"filler {filler.type!r} cannot fill an empty parameter of shape {list(shape)}")
    fan_in = count / (shape[0] if shape else 1)
    fan_out = count / (shape[1] if len(shape) > 1 else 1)
    norm = filler.variance_norm
    return (fan_in + fan_out) / 2 if norm == filler.AVERAGE else fan_out if norm == filler.FAN_OUT else fan_in


FILLERS: dict[str, Filler] = {
    "constant": _constant,
    "uniform": _uniform,
    "gaussian": _gaussian,
    "positive_unitball": _positive_unitball,
    "xavier": _xavier,
    "msra": _msra,
    "bilinear": _bilinear,
}
