"""LSTM, RNN and LSTMUnit: time is axis 0, the batch axis 1; a marker of 0 starts a new sequence.

Unless the hidden state is exposed as bottoms and tops, it carries over from one call of the module to the next, without
gradient, as in Caffe; `reset` clears it. Exposed states pass no gradient either: in Caffe (recurrent_layer.cpp) the
unrolled net overwrites the gradients that arrive there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion.layers.axes import full
from fusion.layers.registry import Context, layer

if TYPE_CHECKING:
    from prototxt.schema.messages import LayerParameter


@layer("LSTMUnit")
class LSTMUnit(nn.Module):
    """One step: the gates [1, N, 4 * D] are input, forget, output, new content; a marker of 0 clears the cell."""

    def forward(self, cell: Tensor, gates: Tensor, cont: Tensor) -> tuple[Tensor, Tensor]:
        """Map cell [1, N, D], gates [1, N, 4 * D] and markers [1, N] to the new cell and hidden state."""
        return lstm_step(cell, gates, cont.detach().reshape(1, -1, 1))


def lstm_step(cell: Tensor, gates: Tensor, cont: Tensor) -> tuple[Tensor, Tensor]:
    """Return the new cell and hidden state [..., D] for gates [..., 4 * D] and markers [..., 1]."""
    into, forget, out, content = gates.chunk(4, -1)
    cell = cont * forget.sigmoid() * cell + into.sigmoid() * content.tanh()
    return cell, out.sigmoid() * cell.tanh()


class LSTM(nn.Module):
    """A layer of long short-term memory (Donahue et al. 2015).

    weight_x       [4 * D, inputs]; gates are input, forget, output, new content
    bias           [4 * D]
    weight_static  [4 * D, static inputs] or None
    weight_h       [4 * D, D]
    """

    hidden: Tensor | None
    cell: Tensor | None

    def __init__(self, parameters: list[nn.Parameter], expose_hidden: bool) -> None:
        super().__init__()
        self.weight_x, self.bias, *static, self.weight_h = parameters
        self.weight_static = static[0] if static else None
        self.caffe_params = ("weight_x", "bias", *(["weight_static"] if static else []), "weight_h")
        self.expose_hidden = expose_hidden
        self.register_buffer("hidden", None, persistent=False)
        self.register_buffer("cell", None, persistent=False)

    def forward(self, x: Tensor, cont: Tensor, *more: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Map [T, N, ...], markers [T, N] and optional static input [N, ...] and states to [T, N, D] and states."""
        gates = F.linear(x.flatten(2), self.weight_x, self.bias)
        if self.weight_static is not None:
            gates = gates + F.linear(more[0].flatten(1), self.weight_static)
        markers = cont.detach().to(gates.dtype).unsqueeze(-1)
        if self.expose_hidden:
            hidden, cell = more[-2].squeeze(0), more[-1].squeeze(0)
        else:
            # Every fourth gate: a tensor of the state's shape, type and device.
            hidden, cell = _carried(self.hidden, gates[0, :, ::4]), _carried(self.cell, gates[0, :, ::4])
        outputs = []
        for step, marker in zip(gates.unbind(0), markers.unbind(0), strict=True):
            cell, hidden = lstm_step(cell, step + F.linear(hidden * marker, self.weight_h), marker)
            outputs.append(hidden)
        if self.expose_hidden:
            return torch.stack(outputs), hidden.detach().unsqueeze(0), cell.detach().unsqueeze(0)
        self.hidden, self.cell = full(hidden.detach()), full(cell.detach())
        return torch.stack(outputs)


class RNN(nn.Module):
    """h = tanh(weight_h h + weight_x x + bias), o = tanh(weight_o h + bias_o).

    weight_x       [D, inputs]
    bias           [D]
    weight_static  [D, static inputs] or None
    weight_h       [D, D]
    weight_o       [D, D]
    bias_o         [D]
    """

    hidden: Tensor | None

    def __init__(self, parameters: list[nn.Parameter], expose_hidden: bool) -> None:
        super().__init__()
        self.weight_x, self.bias, *static, self.weight_h, self.weight_o, self.bias_o = parameters
        self.weight_static = static[0] if static else None
        between = ["weight_static"] if static else []
        self.caffe_params = ("weight_x", "bias", *between, "weight_h", "weight_o", "bias_o")
        self.expose_hidden = expose_hidden
        self.register_buffer("hidden", None, persistent=False)

    def forward(self, x: Tensor, cont: Tensor, *more: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Map [T, N, ...], markers [T, N] and optional static input [N, ...] and state to [T, N, D] and a state."""
        inputs = F.linear(x.flatten(2), self.weight_x, self.bias)
        if self.weight_static is not None:
            inputs = inputs + F.linear(more[0].flatten(1), self.weight_static)
        markers = cont.detach().to(inputs.dtype).unsqueeze(-1)
        hidden = more[-1].squeeze(0) if self.expose_hidden else _carried(self.hidden, inputs[0])
        states = []
        for step, marker in zip(inputs.unbind(0), markers.unbind(0), strict=True):
            hidden = torch.tanh(step + F.linear(hidden * marker, self.weight_h))
            states.append(hidden)
        outputs = torch.tanh(F.linear(torch.stack(states), self.weight_o, self.bias_o))
        if self.expose_hidden:
            return outputs, hidden.detach().unsqueeze(0)
        self.hidden = full(hidden.detach())
        return outputs


def _carried(state: Tensor | None, like: Tensor) -> Tensor:
    """Return the state after the last call, or zeros where there is none for a batch of this size."""
    return torch.zeros_like(like) if state is None or state.shape != like.shape else state.to(like)


def reset(net: nn.Module) -> None:
    """Clear the hidden states of all recurrent layers, so that the next call starts like the first one."""
    for module in net.modules():
        for state in ("hidden", "cell"):
            if state in module._buffers:
                setattr(module, state, None)


def _parameters(layer: LayerParameter, context: Context) -> list[nn.Parameter]:
    param = layer.recurrent_param
    if not context.params:
        context.known_shape(0)  # raises: the bottoms have no known shape
    fillers = [param.weight_filler if len(shape) > 1 else param.bias_filler for shape in context.params]
    return [context.parameter(index, filler) for index, filler in enumerate(fillers)]


@layer("LSTM")
def _lstm(layer: LayerParameter, context: Context) -> nn.Module:
    return LSTM(_parameters(layer, context), layer.recurrent_param.expose_hidden)


@layer("RNN")
def _rnn(layer: LayerParameter, context: Context) -> nn.Module:
    return RNN(_parameters(layer, context), layer.recurrent_param.expose_hidden)
