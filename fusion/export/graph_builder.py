"""A builder of ONNX graphs (nodes and constants), and the registry with one exporter per layer type."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import ArrayLike, NDArray
from onnx import helper, numpy_helper

from fusion.errors import ExportError
from prototxt.schema.messages import LayerParameter

Dims: TypeAlias = "tuple[int | None, ...]"


@dataclass
class GraphBuilder:
    """The nodes and constants written so far.

    opset      of the nodes
    constants  by name, each array once
    """

    opset: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, NDArray[Any]] = field(default_factory=dict)
    _names: set[str] = field(default_factory=set)

    def reserve(self, names: Iterable[str]) -> None:
        """Keep names for blobs, so that no intermediate value takes them."""
        self._names.update(names)

    def node(self, op: str, inputs: Sequence[str], outputs: str | Sequence[str], **attributes: Any) -> None:
        """Write a node with outputs of these names."""
        names = [outputs] if isinstance(outputs, str) else list(outputs)
        title = self._fresh(f"{names[0]}:{op}")
        self.nodes.append(helper.make_node(op, list(inputs), names, name=title, **attributes))

    def op(self, op: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Write a node with one output; return the unique name of that output."""
        name = self._fresh(f"{inputs[0]}/{op}")
        self.node(op, inputs, name, **attributes)
        return name

    def constant(self, name: str, values: Any, dtype: Any = np.float32) -> str:
        """Add a constant; return its name, with a number appended where the name is taken."""
        name = self._fresh(name)
        self.constants[name] = np.ascontiguousarray(np.asarray(values, dtype)).reshape(np.shape(values))
        return name

    def chain(self, start: str, steps: Sequence[tuple[str, ArrayLike | None]], end: str) -> None:
        """Write nodes in sequence, each with an optional constant as second input; Identity for an empty sequence."""
        if not steps:
            self.node("Identity", [start], end)
        value = start
        for place, (op, constant) in enumerate(steps):
            inputs = [value] if constant is None else [value, self.constant(f"{end}:{op.lower()}", constant)]
            if place == len(steps) - 1:
                self.node(op, inputs, end)
            else:
                value = self.op(op, inputs)

    def reshape(self, value: str, dims: Sequence[int], end: str | None = None) -> str:
        """Write Reshape; a size of 0 is kept and -1 is computed. Return the value's name."""
        inputs = [value, self.constant(f"{end or value}:shape", dims, np.int64)]
        if end is None:
            return self.op("Reshape", inputs)
        self.node("Reshape", inputs, end)
        return end

    def reduce(self, op: str, value: str, axes: Sequence[int], *, keep: bool, end: str | None = None) -> str:
        """Write a reduction and return its value: axes are an input since opset 18, those of ReduceSum since 13."""
        inputs, attributes = [value], {}
        if self.opset >= (13 if op == "ReduceSum" else 18):
            inputs.append(self.constant(f"{end or value}:axes", list(axes), np.int64))
        else:
            attributes["axes"] = list(axes)
        if end is None:
            return self.op(op, inputs, keepdims=int(keep), **attributes)
        self.node(op, inputs, end, keepdims=int(keep), **attributes)
        return end

    def initializers(self) -> list[onnx.TensorProto]:
        """Return the constants as ONNX tensors."""
        return [numpy_helper.from_array(array, name) for name, array in self.constants.items()]

    def _fresh(self, name: str) -> str:
        count, found = 1, name
        while found in self._names:
            count += 1
            found = f"{name}_{count}"
        self._names.add(found)
        return found


@dataclass(frozen=True)
class Step:
    """One layer to export.

    bottoms, tops            names of values
    bottom_dims, top_dims    their shapes; None where the size follows the batch
    weights                  the layer's blobs, float32
    """

    layer: LayerParameter
    bottoms: Sequence[str]
    tops: Sequence[str]
    bottom_dims: Sequence[Dims]
    top_dims: Sequence[Dims]
    weights: Sequence[NDArray[np.float32]]

    @property
    def name(self) -> str:
        """Return the layer's name, or its type if it has no name."""
        return self.layer.name or self.layer.type

    def axis(self, axis: int) -> int:
        """Return an axis of the first bottom as a non-negative number."""
        return axis + len(self.bottom_dims[0]) if axis < 0 else axis

    def weight(self, graph: GraphBuilder, index: int = 0, shape: Sequence[int] | None = None) -> str:
        """Add a blob of the layer as a constant, reshaped if a shape is given; return its name."""
        array = self.weights[index]
        return graph.constant(f"{self.name}:{index}", array if shape is None else array.reshape(tuple(shape)))

    def target(self) -> list[int]:
        """Return the first top's shape for a Reshape. Raises: ExportError if more than one size follows the batch."""
        dims = self.top_dims[0]
        if sum(dim is None for dim in dims) > 1:
            raise self.refusal("more than one size of its top follows the batch")
        return [-1 if dim is None else dim for dim in dims]

    def refusal(self, why: str, hint: str | None = None) -> ExportError:
        """Return the error for a layer that cannot be exported."""
        return ExportError(f"layer '{self.layer.name}' ({self.layer.type}) cannot be exported: {why}", hint=hint)


Exporter: TypeAlias = "Callable[[GraphBuilder, Step], None]"
EXPORTERS: dict[str, Exporter] = {}


def exporter(*types: str) -> Callable[[Exporter], Exporter]:
    """Register a function that writes the nodes of these layer types."""

    def register(function: Exporter) -> Exporter:
        for name in types:
            assert name not in EXPORTERS, name
            EXPORTERS[name] = function
        return function

    return register
