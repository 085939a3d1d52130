"""Shapes of every blob and parameter of a net, without running it and without torch.

    shapes = infer(filter_net(net, phase="TEST"), inputs={"data": (1, 3, 224, 224)})
    shapes.blobs["prob"], shapes.params[3]

One short function per layer type, in one module per family; `shape_function` registers further types.
"""

from prototxt.shapes import (  # noqa: F401 - each registers its family
    activation,
    concat_eltwise,
    convolution,
    data,
    dense,
    detection,
    fork_layers,
    fork_sequences,
    losses,
    normalization,
    pooling,
    recurrent,
    reshape,
    special,
)
from prototxt.shapes.dimensions import UNKNOWN, Dim, Shape, is_known, text
from prototxt.shapes.net import NetShapes, infer, infer_shapes
from prototxt.shapes.registry import LAYER_TYPES, ShapeFunction, shape_function

__all__ = [
    "LAYER_TYPES",
    "UNKNOWN",
    "Dim",
    "NetShapes",
    "Shape",
    "ShapeFunction",
    "infer",
    "infer_shapes",
    "is_known",
    "shape_function",
    "text",
]
