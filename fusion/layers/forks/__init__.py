"""Layer types added by forks of Caffe, one file per family; each file names the sources of its semantics."""

from fusion.layers.forks import (  # noqa: F401 - imported to register the types
    activation,
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
)
