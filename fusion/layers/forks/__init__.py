"""Layer types that forks of Caffe add, one file per family; each file names the sources of its semantics."""

from fusion.layers.forks import (
    costs,
    depthwise,
    detection,
    margins,
    multibox,
    normalizing,
    proposals,
    rearranging,
    regions,
    resizing,
    sequences,
    units,
)

__all__ = [
    "costs",
    "depthwise",
    "detection",
    "margins",
    "multibox",
    "normalizing",
    "proposals",
    "rearranging",
    "regions",
    "resizing",
    "sequences",
    "units",
]
