"""Inference of a graph's shapes and integers for one batch size at a time.

A size that differs between two batch sizes follows the batch; any other is fixed. Exporters write nodes that compute
sizes at run time (`Shape`, `Gather`, `Concat`, ...) although most never change: the probes tell the two apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import checker, defs, helper, numpy_helper, shape_inference

from fusion.onnx.graphs.graph import OWN, Dims, attributes, known_sizes
from fusion.onnx.graphs.recurrent import GATES, fits_together

DATA = 1024  # integers of this many elements at most are followed; shapes and indices are short
_FEW = 8  # floats of this many elements at most are followed: factors of Resize and the like
# The reference implementation is NumPy, and raises NumPy's errors for inputs that contradict each other; it lacks an
# operator with a RuntimeError, and fails with an AttributeError for some that ONNX defines as functions (Gelu, Mish).
_EVALUATION_ERRORS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
# Not evaluated: random numbers, operators whose attributes the reference implementation does not all follow, and
# QuantizeLinear, because the weight that it reads could not be trained.
_SKIPPED = frozenset(
    (*GATES, "QuantizeLinear", "RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli")
)


@dataclass
class Probe:
    """Values for one batch size.

    shapes  None for an axis whose size is not known; values of unknown rank are left out
    values  integers that are known for this batch size
    zeros   computed values that are all zero
    """

    batch: int
    types: dict[str, int] = field(default_factory=dict)
    shapes: dict[str, Dims] = field(default_factory=dict)
    values: dict[str, NDArray[Any]] = field(default_factory=dict)
    zeros: set[str] = field(default_factory=set)

    def know(self, name: str, array: NDArray[Any]) -> None:
        """Store a constant."""
        self.types[name] = helper.np_dtype_to_tensor_dtype(array.dtype)
        self.shapes[name] = tuple(array.shape)
        if array.size <= DATA:
            self.values[name] = array

    def is_zero(self, name: str) -> bool:
        """Return whether all elements are known to be zero."""
        return name in self.zeros or (name in self.values and not self.values[name].any())

    def infer(self, node: onnx.NodeProto, opset: int, imports: Mapping[str, int]) -> bool:
        """Infer the types and shapes of the node's outputs; return False if its inputs contradict each other."""
        if node.domain == OWN:
            return self._own(node)
        try:
            schema = defs.get_schema(
                node.op_type, opset if not node.domain else imports.get(node.domain, 1), node.domain
            )
        except defs.SchemaError:
            return True  # an unknown operator, which `support` refuses by name
        if any(name and name not in self.types for name in node.input):
            return False
        types = {name: self._type(name) for name in node.input if name}
        data = {
            name: numpy_helper.from_array(self.values[name], name)
            for name in node.input
            if name in self.values and (self.types[name] != onnx.TensorProto.FLOAT or self.values[name].size <= _FEW)
        }
        imported = [helper.make_opsetid("", opset)]
        try:
            found = shape_inference.infer_node_outputs(schema, node, types, data, opset_imports=imported)
        except (shape_inference.InferenceError, checker.ValidationError, ValueError):
            return False  # contradicting shapes, an element type that the operator lacks, an element type of 0
        if node.op_type == "Concat" and not self._joinable(node):
            return False
        if node.op_type == "ReverseSequence" and not self._has_lengths(node):
            return False
        if node.op_type in GATES and not fits_together(node, self.shapes):
            return False
        for name, kind in found.items():
            tensor = kind.tensor_type
            self.types[name] = tensor.elem_type
            if tensor.HasField("shape"):
                self.shapes[name] = tuple(
                    dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim
                )
        if node.op_type in ("AveragePool", "MaxPool") and attributes(node).get("ceil_mode"):
            self._drop_windows(node)
        return True

    def _drop_windows(self, node: onnx.NodeProto) -> None:
        """Leave out the windows that would begin in the pads after an axis, which onnx's inference counts."""
        dims, values = self.shapes.get(node.input[0]), attributes(node)
        if dims is None:
            return
        count = len(dims) - 2
        steps, pads = values.get("strides", [1] * count), values.get("pads", [0] * 2 * count)
        for name in filter(None, node.output):
            windows = zip(self.shapes[name][2:], dims[2:], steps, pads[:count], strict=True)
            self.shapes[name] = self.shapes[name][:2] + tuple(
                None if number is None or size is None else number - ((number - 1) * step >= size + pad)
                for number, size, step, pad in windows
            )

    def _joinable(self, node: onnx.NodeProto) -> bool:
        """Return whether the inputs agree on all axes but one, which onnx's inference does not check."""
        shapes = [self.shapes[name] for name in node.input if name in self.shapes]
        axis = attributes(node)["axis"]
        rest = [dims[:axis] + (dims[axis + 1 :] if axis != -1 else ()) for dims in shapes]
        columns = zip(*rest, strict=False)
        return all(len({dim for dim in column if dim is not None}) < 2 for column in columns)

    def _has_lengths(self, node: onnx.NodeProto) -> bool:
        """Return whether there is a length for each sample, which onnx's inference does not check."""
        dims, lengths = (self.shapes.get(name) for name in node.input)
        batch = None if dims is None else dims[attributes(node).get("batch_axis", 1)]
        return lengths is None or None in (batch, lengths[0]) or batch == lengths[0]

    def _own(self, node: onnx.NodeProto) -> bool:
        """Infer an operator of our own domain: most keep their input's shape; Dropout may have a mask."""
        first, top = node.input[0], node.output[0]
        if first in self.types:
            self.types[top] = self.types[first]
        if first in self.shapes:
            dims, values = self.shapes[first], attributes(node)
            scales = values.get("scales", [1.0] * len(dims))
            rest = [None if dim is None else scaled(dim, scale)
                    for dim, scale in zip(dims[2:], scales, strict=False)]  # fmt: skip
            resized = (*dims[:2], *values.get("sizes", rest))
            self.shapes[top] = resized if node.op_type == "Resize" else dims
            if node.op_type == "AffineGrid":
                self.shapes[top] = (dims[0], *values["size"], 2)
        if node.op_type == "TreeEnsemble":
            self.shapes[top] = (self.shapes[first][0], self.shapes[node.input[-1]][1])
        for mask in node.output[1:]:
            self.types[mask] = onnx.TensorProto.BOOL
            if top in self.shapes:
                self.shapes[mask] = self.shapes[top]
        return True

    def _type(self, name: str) -> onnx.TypeProto:
        return helper.make_tensor_type_proto(self.types[name], self.shapes.get(name))


def scaled(size: int, scale: float) -> int:
    """Return the size times a factor of Resize, in float32 as ONNX Runtime computes it."""
    return int(np.floor(np.float32(size) * np.float32(scale)))


def evaluate(node: onnx.NodeProto, arrays: Sequence[NDArray[Any] | None], opset: int) -> list[NDArray[Any]] | None:
    """Return the node's outputs for known inputs, by onnx's reference implementation; None if that is not possible."""
    if node.op_type in _SKIPPED or node.domain or any(item.HasField("g") for item in node.attribute):
        return None
    if node.op_type == "DequantizeLinear":
        array = _dequantized(node, arrays)
        return None if array is None else [array]
    from onnx.reference import ReferenceEvaluator

    given = {name: array for name, array in zip(node.input, arrays, strict=True) if name and array is not None}
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in given.items()
    ]
    outputs = [helper.make_tensor_value_info(name, 0, None) for name in node.output if name]
    graph = helper.make_graph([node], "node", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    try:
        found = ReferenceEvaluator(model).run(None, given)
    except _EVALUATION_ERRORS:
        return None
    return [np.asarray(array) for array in found]


def _dequantized(node: onnx.NodeProto, arrays: Sequence[NDArray[Any] | None]) -> NDArray[np.float32] | None:
    """Return a constant in float32, None for other forms than those of opset 13.

    onnx's reference implementation has this operator from opset 19 on.
    """
    q, scale, zero, *_ = (*arrays, None)
    values = attributes(node)
    if q is None or scale is None or q.dtype.name not in ("int8", "uint8", "int32") or scale.ndim > 1:
        return None
    if values.get("block_size") or values.get("output_dtype"):
        return None
    shape = [1] * q.ndim
    if scale.size > 1:
        shape[values.get("axis", 1)] = -1
    steps = q.astype(np.int32) - (0 if zero is None else zero.astype(np.int32).reshape(shape))
    found: NDArray[np.float32] = steps.astype(np.float32) * scale.reshape(shape)
    return found


def shape_of(node: onnx.NodeProto, probe: Probe) -> NDArray[np.int64] | None:
    """Return the output of a Shape or Size node, None if it is not known."""
    dims = probe.shapes.get(node.input[0])
    if dims is None:
        return None
    limits = {item.name: item.i for item in node.attribute}
    known = known_sizes(dims[limits.get("start", 0) : limits.get("end", len(dims))])
    if known is None:
        return None
    return np.asarray(math.prod(known) if node.op_type == "Size" else known, np.int64)
