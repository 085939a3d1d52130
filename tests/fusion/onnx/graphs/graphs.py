"""Small ONNX graphs, written by hand in the ways that exporters write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    """A node; names are separated by blanks, `-` leaves an input out."""
    return helper.make_node(op, [name.strip("-") for name in inputs.split()], outputs.split(), **attributes)


def model(
    nodes: Sequence[onnx.NodeProto],
    constants: Mapping[str, Any] | None = None,
    *,
    shape: Sequence[int | str] = ("N", 3, 8, 8),
    outputs: Sequence[str] = ("y",),
    opset: int = 20,
    ml: bool = False,
) -> onnx.ModelProto:
    """A model with the input x; lists of integers are int64, all other constants float32."""
    arrays = {}
    for name, value in (constants or {}).items():
        array = np.asarray(value)
        arrays[name] = array if array.dtype == np.int64 else array.astype(np.float32)
    graph = helper.make_graph(
        list(nodes),
        "small",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    imports = [helper.make_opsetid("", opset), *([helper.make_opsetid("ai.onnx.ml", 3)] if ml else [])]
    return helper.make_model(graph, opset_imports=imports, ir_version=9)


def draw(*shape: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Seeded normal numbers, float32."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)
