"""What is known about LSTM, GRU and RNN: their gates, activations and shapes, and which of them cannot be run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import onnx

from fusion.onnx.graphs.graph import Dims, attributes

GATES: Final = {"GRU": 3, "LSTM": 4, "RNN": 1}
ACTIVATIONS: Final = {"GRU": ("Sigmoid", "Tanh"), "LSTM": ("Sigmoid", "Tanh", "Tanh"), "RNN": ("Tanh",)}
"""The activations of one direction, unless the node names others."""
PARAMETERS: Final[Mapping[str, tuple[float, ...]]] = {
    "Elu": (1.0,), "HardSigmoid": (0.2, 0.5), "LeakyRelu": (0.01,), "Relu": (), "Sigmoid": (),
    "Softsign": (), "Tanh": (),
}  # fmt: skip
"""Activations, with the values of their alpha and beta that hold where the node gives none."""
DIRECTIONS: Final = {"forward": 1, "reverse": 1, "bidirectional": 2}


def activations(op: str, values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the activations of all directions."""
    default = ACTIVATIONS[op] * DIRECTIONS.get(values.get("direction", "forward"), 1)
    return tuple(values.get("activations", default))


def fits_together(node: onnx.NodeProto, shapes: Mapping[str, Dims]) -> bool:
    """Return whether the inputs agree on batch, features, units and directions, which onnx's inference ignores."""
    values, gates = attributes(node), GATES[node.op_type]
    directions = DIRECTIONS.get(values.get("direction", "forward"))
    dims = [shapes.get(name) if name else None for name in node.input]
    if any(found is not None and len(found) != 3 for found in dims[:3]):
        return False
    _, batch, features = dims[0] or (None, None, None)
    units = values.get("hidden_size", (dims[2] or (None,))[-1])
    rows = None if units is None else gates * units
    state = (directions, batch, units)
    expected = [(None, batch, features), (directions, rows, features), (directions, rows, units),
                (directions, None if rows is None else 2 * rows), (batch,), state, state,
                (directions, None if units is None else 3 * units)]  # fmt: skip
    return all(
        found is None
        or (len(found) == len(sizes) and all(None in (a, b) or a == b for a, b in zip(found, sizes, strict=True)))
        for found, sizes in zip(dims, expected, strict=False)
    )


def recurrent_limits(node: onnx.NodeProto) -> Iterator[str]:
    """Yield why a recurrent node cannot be run."""
    values = attributes(node)
    directions = DIRECTIONS.get(values.get("direction", "forward"))
    if directions is None:
        yield f"the direction '{values['direction']}'"
        return
    found = activations(node.op_type, values)
    unknown = next((name for name in found if name not in PARAMETERS), None)
    if unknown is not None:
        yield f"the activation '{unknown}'"
    elif len(found) != directions * len(ACTIVATIONS[node.op_type]):
        yield f"{len(found)} activations for {directions} directions"
    if "clip" in values:
        yield "a clip, which ONNX and its runtime do not apply to the same values"
