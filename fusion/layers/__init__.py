"""The modules of Caffe's layer types, one file per family; importing this package registers them all."""

from fusion.layers import (  # noqa: F401 - imported to register the types
    activation,
    concat_eltwise,
    convolution,
    dense,
    distances,
    dropout,
    forks,
    losses,
    measures,
    normalization,
    onnx_file,
    output,
    pct,
    pooling,
    python,
    recurrent,
    reshape,
    scale,
    slice_select,
    weighted,
)
