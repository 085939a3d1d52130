"""The constants and shapes that rewriting rules read and add while a graph is brought to its plain form."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from fusion.onnx.graphs.graph import Dims, attributes
from fusion.onnx.graphs.shape_probe import Probe


@dataclass
class Facts:
    """The constants found so far, and the probes.

    probes    one per batch size; one alone where the batch is fixed
    uses      how many nodes of the file read each value
    declared  the probe of the batch that the file fixes, if it is to be opened
    witnesses probes of further batches, of which less is known: a constant must be theirs too
    notes     decisions, one sentence each
    rows      values that dense layers read, whose last axis has the features
    merged    values on whose axis the batch lies inside other elements -> the number of elements outside the batch
    softmaxes values that a softmax computes, as far as its readers need to know
    elements   how many nodes of the file read one element of each sequence
    sequences  the values of each sequence that is replaced by them
    """

    constants: dict[str, NDArray[Any]]
    probes: tuple[Probe, ...]
    opset: int
    uses: Counter[str]
    declared: Probe | None = None
    witnesses: tuple[Probe, ...] = ()
    notes: dict[str, None] = field(default_factory=dict)
    rows: frozenset[str] = frozenset()
    merged: dict[str, int] = field(default_factory=dict)
    elements: Counter[str] = field(default_factory=Counter)
    sequences: dict[str, list[str]] = field(default_factory=dict)
    softmaxes: set[str] = field(default_factory=set)

    @property
    def every(self) -> tuple[Probe, ...]:
        """Return all probes."""
        return (*self.probes, *([self.declared] if self.declared else []), *self.witnesses)

    def constant(self, name: str) -> NDArray[Any] | None:
        """Return the value of a constant, None for any other value."""
        return self.constants.get(name)

    def dims(self, name: str) -> Dims | None:
        """Return the shape, with None for sizes that follow the batch or are not known; None if the rank is unknown."""
        shapes = [probe.shapes.get(name) for probe in self.probes]
        if any(shape is None or len(shape) != len(shapes[0] or ()) for shape in shapes):
            return None
        found = tuple(
            column[0] if len(set(column)) == 1 else None for column in zip(*(s or () for s in shapes), strict=True)
        )
        for witness in self.witnesses:
            other = witness.shapes.get(name, ())
            if len(other) == len(found):
                found = tuple(mine if size in (mine, None) else None for mine, size in zip(found, other, strict=True))
        return found

    def add(self, name: str, values: Any, dtype: Any = np.int64) -> str:
        """Add a constant; return its name, with a number appended where the name is taken."""
        unique, count = name, 1
        while unique in self.constants:
            count += 1
            unique = f"{name}_{count}"
        self.know(unique, np.asarray(values, dtype))
        return unique

    def know(self, name: str, array: NDArray[Any]) -> None:
        """Store a constant, or a new value of it, for all probes."""
        self.constants[name] = array
        for probe in self.every:
            probe.know(name, array)


def constant_value(node: onnx.NodeProto) -> NDArray[Any]:
    """Return the value of a Constant node, from whichever of its attributes holds it."""
    (name, value), *_ = attributes(node).items()
    if name == "value":
        array: NDArray[Any] = numpy_helper.to_array(value)
        return array
    kind: type[Any] = (
        np.float32 if name.startswith("value_float") else np.int64 if name.startswith("value_int") else np.str_
    )
    return np.asarray(value, kind)


Rule: TypeAlias = "Callable[[onnx.NodeProto, Facts], list[onnx.NodeProto] | None]"
"""Nodes that replace one; None keeps the node, and `support` decides whether it can be run."""
