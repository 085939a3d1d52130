"""LSTM, GRU and RNN of ONNX: by torch's kernels where those compute the same, else step by step.

Weights keep ONNX's layout, W [directions, gates * units, features], R [directions, gates * units, units] and
B [directions, 2 * gates * units], so that they are the file's bytes; kernels get their gates in torch's order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from fusion.onnx.graphs.recurrent import ACTIVATIONS, GATES, PARAMETERS
from fusion.onnx.to_torch.functions import operator

_ORDER: Final = {"GRU": (1, 0, 2), "LSTM": (0, 2, 3, 1), "RNN": (0,)}
"""The gates in torch's order: reset, update, new; input, forget, cell, output. ONNX has zrh and iofc."""
_FUNCTIONS: Final[dict[str, Callable[..., Tensor]]] = {
    "Elu": F.elu,
    "HardSigmoid": lambda x, alpha, beta: (alpha * x + beta).clamp(0, 1),
    "LeakyRelu": F.leaky_relu,
    "Relu": torch.relu,
    "Sigmoid": torch.sigmoid,
    "Softsign": F.softsign,
    "Tanh": torch.tanh,
}


@dataclass(frozen=True)
class _Cell:
    """One direction: the weights [gates * units, units] and bias of its state, peepholes, and activations in order."""

    weight: Tensor
    bias: Tensor
    peepholes: Tensor
    functions: Sequence[Callable[[Tensor], Tensor]]
    linear_before_reset: int = 0
    input_forget: int = 0


def _recurrent(
    kind: str, x: Tensor, w: Tensor, r: Tensor, *optional: Tensor | None, outputs: int = 1, **values: Any
) -> Any:
    """Run sequences x, float [time, batch, features]; return Y, Y_h, Y_c, of which the first `outputs` are read.

    optional  B, lengths, initial h, initial c, peepholes
    Source: https://onnx.ai/onnx/operators/onnx__LSTM.html, and those of GRU and RNN.
    """
    given: list[Tensor | None] = [*optional, *[None] * (5 - len(optional))]
    b, lengths, h, c, peepholes = given
    weights = (w, r, x.new_zeros(r.shape[0], 2 * r.shape[1]) if b is None else b)
    empty = x.new_zeros(r.shape[0], x.shape[1], r.shape[2])
    states = [empty if state is None else state for state in ((h, c) if kind == "LSTM" else (h,))]
    by_steps = "input_forget" in values or (kind == "GRU" and "linear_before_reset" not in values)
    other = set(values.get("activations", ())) - ({"Relu"} if kind == "RNN" else set())
    if by_steps or other or lengths is not None or peepholes is not None:
        found = _by_steps(kind, x, weights, states, (lengths, peepholes), values)
    else:
        found = _by_kernel(kind, x, weights, states, values)
    return found[0] if outputs == 1 else found[:outputs]


for _kind in GATES:
    operator(_kind)(partial(_recurrent, _kind))


def _by_kernel(
    kind: str, x: Tensor, weights: Sequence[Tensor], states: Sequence[Tensor], values: Mapping[str, Any]
) -> tuple[Tensor, ...]:
    directions = len(weights[0])
    parts = [part for w, r, b in zip(*weights, strict=True) for part in (w, r, *b.chunk(2))]
    ordered = [torch.cat([part.chunk(GATES[kind])[gate] for gate in _ORDER[kind]]) for part in parts]
    rnn = torch.rnn_relu if "activations" in values else torch.rnn_tanh
    kernel: Any = {"GRU": torch.gru, "LSTM": torch.lstm, "RNN": rnn}[kind]
    reverse = values.get("direction") == "reverse"
    x = x.flip(0) if reverse else x
    if torch.is_autocast_enabled(x.device.type):  # kernels take one precision, and autocast casts the weights alone
        x = x.to(torch.get_autocast_dtype(x.device.type))
        states = [state.to(x.dtype) for state in states]
    state = states if kind == "LSTM" else states[0]
    # One layer has nothing to drop; in evaluation cuDNN would have no gradients.
    settings = {"has_biases": True, "num_layers": 1, "dropout": 0.0, "train": torch.is_grad_enabled()}
    y, *ends = kernel(x, state, ordered, **settings, bidirectional=directions == 2, batch_first=False)
    y = y.unflatten(2, (directions, -1)).transpose(1, 2)
    return (y.flip(0) if reverse else y, *ends)


def _by_steps(
    kind: str,
    x: Tensor,
    weights: Sequence[Tensor],
    states: Sequence[Tensor],
    options: tuple[Tensor | None, Tensor | None],
    values: Mapping[str, Any],
) -> tuple[Tensor, ...]:
    lengths, peepholes = options
    functions = _activations(kind, len(weights[0]), values)
    settings = {name: values.get(name, 0) for name in ("linear_before_reset", "input_forget")}
    found = []
    for index, (w, r, b) in enumerate(zip(*weights, strict=True)):
        of_x, of_state = b.chunk(2)
        part = x.new_zeros(3 * r.shape[1]) if peepholes is None else peepholes[index]
        cell = _Cell(r, of_state, part, functions[index], **settings)
        backwards = values.get("direction") == "reverse" or index == 1
        start = [state[index] for state in states]
        found.append(_run(partial(_STEPS[kind], cell), F.linear(x, w, of_x), start, lengths, backwards))
    tops, *ends = zip(*found, strict=True)
    return (torch.stack(tops, 1), *map(torch.stack, ends))


def _run(
    step: _Step, gates: Tensor, states: Sequence[Tensor], lengths: Tensor | None, backwards: bool
) -> tuple[Tensor, ...]:
    """Return the outputs [time, batch, units], zeros after a sequence's end, and the states at the ends."""
    tops = []
    order = range(len(gates))
    for time in reversed(order) if backwards else order:
        new = step(gates[time], *states)
        if lengths is None:
            top, states = new[0], new
        else:  # backwards, a shorter sequence keeps its initial state until its last element is reached
            runs = (lengths > time).unsqueeze(1)
            top = torch.where(runs, new[0], 0.0)
            states = [torch.where(runs, *pair) for pair in zip(new, states, strict=True)]
        tops.append(top)
    if lengths is not None:  # where a sequence has no elements, ONNX Runtime gives zeros, not the initial state
        states = [torch.where((lengths > 0).unsqueeze(1), state, 0.0) for state in states]
    return (torch.stack(tops[::-1] if backwards else tops), *states)


def _lstm_step(cell: _Cell, gates: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, ...]:
    first, second, third = cell.functions
    of_input, of_output, of_forget = cell.peepholes.chunk(3)
    entered, output, forgotten, new = (gates + F.linear(h, cell.weight, cell.bias)).chunk(4, -1)
    entered = first(entered + of_input * c)
    kept = 1 - entered if cell.input_forget else first(forgotten + of_forget * c)
    c = kept * c + entered * second(new)
    return first(output + of_output * c) * third(c), c


def _gru_step(cell: _Cell, gates: Tensor, h: Tensor) -> tuple[Tensor, ...]:
    first, second = cell.functions
    update, reset, new = gates.chunk(3, -1)
    weights, biases = cell.weight.chunk(3), cell.bias.chunk(3)
    update = first(update + F.linear(h, weights[0], biases[0]))
    reset = first(reset + F.linear(h, weights[1], biases[1]))
    if cell.linear_before_reset:
        new = second(new + reset * F.linear(h, weights[2], biases[2]))
    else:
        new = second(new + F.linear(reset * h, weights[2], biases[2]))
    return ((1 - update) * new + update * h,)


def _rnn_step(cell: _Cell, gates: Tensor, h: Tensor) -> tuple[Tensor, ...]:
    return (cell.functions[0](gates + F.linear(h, cell.weight, cell.bias)),)


_Step: TypeAlias = "Callable[..., tuple[Tensor, ...]]"
_STEPS: Final[dict[str, _Step]] = {"GRU": _gru_step, "LSTM": _lstm_step, "RNN": _rnn_step}


def _activations(kind: str, directions: int, values: Mapping[str, Any]) -> list[list[Callable[[Tensor], Tensor]]]:
    """Return the activations of each direction. Each takes its parameters from the front of the node's lists."""
    names = values.get("activations", ACTIVATIONS[kind] * directions)
    given = [iter(values.get(key, ())) for key in ("activation_alpha", "activation_beta")]
    functions: list[Callable[[Tensor], Tensor]] = []
    for name in names:
        parameters = [next(numbers, default) for numbers, default in zip(given, PARAMETERS[name], strict=False)]
        functions.append(partial(_activate, _FUNCTIONS[name], parameters))
    size = len(ACTIVATIONS[kind])
    return [functions[size * index : size * (index + 1)] for index in range(directions)]


def _activate(function: Callable[..., Tensor], parameters: Sequence[float], x: Tensor) -> Tensor:
    return function(x, *parameters)
