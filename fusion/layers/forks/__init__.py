"""Layer types added by forks of Caffe, one file per family; each file names the sources of its semantics."""

from fusion.layers.forks import (
    costs,
    depthwise,
    detection,
    interp,
    margins,
    multibox,
    normalization,
    proposals,
    rearrange,
    regions,
    sequences,
    units,
)

__all__ = [
    "costs",
    "depthwise",
    "detection",
    "interp",
    "margins",
    "multibox",
    "normalization",
    "proposals",
    "rearrange",
    "regions",
    "sequences",
    "units",
]
