"""LSTM, GRU and RNN in one plain form: time first, no states of zeros, no lengths that are the whole sequence."""

from __future__ import annotations

import numpy as np
import onnx

from fusion.onnx.graphs.constants import Facts
from fusion.onnx.graphs.graph import attributes, make_node
from fusion.onnx.graphs.recurrent import ACTIVATIONS, DIRECTIONS, activations
from fusion.onnx.graphs.shape_probe import Probe

_LENGTHS, _STATES = 4, (5, 6)  # places among the inputs X, W, R, B, lengths, initial h, initial c, peepholes


def plain_recurrent(node: onnx.NodeProto, facts: Facts) -> list[onnx.NodeProto]:
    """Return the node with only the inputs, outputs and attributes that matter, its axes (time, batch, features)."""
    values = attributes(node)
    batch_first = values.pop("layout", 0)
    inputs = [*node.input, *[""] * (8 - len(node.input))]
    if all(_reaches_end(probe, inputs, time=batch_first) for probe in _all_probes(facts)):
        inputs[_LENGTHS] = ""
    for place in _STATES:
        if all(probe.is_zero(inputs[place]) for probe in _all_probes(facts)):
            inputs[place] = ""
    while not inputs[-1]:
        inputs.pop()
    count = max((index + 1 for index, name in enumerate(node.output) if name and facts.uses.get(name)), default=1)
    first = next(filter(None, node.output))
    outputs = [name or f"{first}:apart_{index}" for index, name in enumerate(node.output[:count])]
    units = (facts.dims(inputs[2]) or (None,))[-1]
    neutral = {
        "direction": "forward",
        "activations": ACTIVATIONS[node.op_type] * DIRECTIONS.get(values.get("direction", "forward"), 1),
        "input_forget": 0,
        "linear_before_reset": 0,
    }
    known = {**values, "activations": activations(node.op_type, values)}
    values = {name: value for name, value in known.items() if name not in neutral or value != neutral[name]}
    plain = make_node(node.op_type, inputs, outputs, **{"hidden_size": units, **values})
    return _time_first(plain) if batch_first else [plain]


def _time_first(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Return a node whose values have the batch first with Transposes around it, which ONNX Runtime requires."""
    before, after = [], []
    for place, name in enumerate(node.input):
        if name and place in (0, *_STATES):
            node.input[place] = f"{node.output[0]}:turned_{place}"
            before.append(make_node("Transpose", [name], [node.input[place]], perm=[1, 0, 2]))
    for place, name in enumerate(node.output):
        node.output[place] = f"{name}:turned"
        order = [1, 0, 2] if place else [2, 0, 1, 3]
        after.append(make_node("Transpose", [node.output[place]], [name], perm=order))
    return [*before, node, *after]


def _all_probes(facts: Facts) -> tuple[Probe, ...]:
    return (*facts.probes, *([facts.declared] if facts.declared else []))


def _reaches_end(probe: Probe, inputs: list[str], time: int) -> bool:
    """Return whether the lengths are all that of the sequence, so that they say nothing."""
    lengths, dims = probe.values.get(inputs[_LENGTHS]), probe.shapes.get(inputs[0])
    return lengths is not None and dims is not None and bool(np.all(lengths == dims[time]))
