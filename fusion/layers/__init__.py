"""The modules of Caffe's layer types, one file per family; importing this package registers them all."""

from fusion.layers import (
    activation,
    combining,
    convolution,
    dense,
    distances,
    dropout,
    losses,
    measures,
    normalization,
    pct,
    pooling,
    recurrent,
    reshaping,
    scale,
    selecting,
    weighted,
)

__all__ = [
    "activation",
    "combining",
    "convolution",
    "dense",
    "distances",
    "dropout",
    "losses",
    "measures",
    "normalization",
    "pct",
    "pooling",
    "recurrent",
    "reshaping",
    "scale",
    "selecting",
    "weighted",
]
