"""Shapes of LSTM, RNN and LSTMUnit; time is axis 0, the batch axis 1."""

from __future__ import annotations

from prototxt.errors import ShapeError
from prototxt.schema.messages import LayerParameter
from prototxt.shapes.dimensions import Dim, Shape, agree, count, known_of, product, shapes_agree, text
from prototxt.shapes.registry import shape_function


@shape_function("LSTM", bottoms=(2, 5), tops=(1, 3))
def _lstm(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Return [T, N, H]; blobs: input weights, bias, static input weights if any, hidden weights, for four gates."""
    hidden, inputs, static = _check(layer, bottoms, states=2)
    params: list[Shape] = [(4 * hidden, inputs), (4 * hidden,)]
    params += [(4 * hidden, size) for size in static]
    return _tops(layer, bottoms, states=2), [*params, (4 * hidden, hidden)]


@shape_function("RNN", bottoms=(2, 4), tops=(1, 2))
def _rnn(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Return [T, N, H]; blobs: input weights, bias, static input weights if any, hidden weights, output, its bias."""
    hidden, inputs, static = _check(layer, bottoms, states=1)
    params: list[Shape] = [(hidden, inputs), (hidden,)]
    params += [(hidden, size) for size in static]
    return _tops(layer, bottoms, states=1), [*params, (hidden, hidden), (hidden, hidden), (hidden,)]


def _check(layer: LayerParameter, bottoms: list[Shape], states: int) -> tuple[int, Dim, list[Dim]]:
    """Return the number of hidden units, the inputs per step, and the static input's size in a list of none or one."""
    param = layer.recurrent_param
    exposed = states if param.expose_hidden else 0
    if param.num_output <= 0:
        raise ShapeError("num_output must be at least 1")
    if len(bottoms) not in (2 + exposed, 3 + exposed) or len(layer.top) != 1 + exposed:
        raise ShapeError(
            f"it takes {2 + exposed} bottoms (or one more, the static input) and {1 + exposed} tops, "
            f"but has {len(bottoms)} and {len(layer.top)}",
            hint="expose_hidden adds the hidden state to both" if exposed else None,
        )
    x, cont = bottoms[:2]
    if len(x) < 2 or len(cont) != 2:
        raise ShapeError(f"the input must be [T, N, ...] and the markers [T, N], not {text(x)} and {text(cont)}")
    if not shapes_agree(x[:2], cont):
        raise ShapeError(f"the markers must be [T, N] like the input's first axes, not {text(cont)} for {text(x)}")
    batch = known_of(x[1], cont[1])
    # The bottoms are x, cont, the optional static input, and with expose_hidden the initial states.
    static = bottoms[2 : 3 if len(bottoms) == 3 + exposed else 2]
    for shape in static:
        if not shape or not agree(shape[0], batch):
            raise ShapeError(f"the static input must be [N, ...] with N = {batch}, not {text(shape)}")
    for shape in bottoms[len(bottoms) - exposed :]:
        if not shapes_agree(shape, (1, batch, param.num_output)):
            raise ShapeError(f"the hidden state must be {text((1, batch, param.num_output))}, not {text(shape)}")
    return param.num_output, count(x, 2), [count(shape, 1) for shape in static]


def _tops(layer: LayerParameter, bottoms: list[Shape], states: int) -> list[Shape]:
    hidden, (x, cont) = layer.recurrent_param.num_output, bottoms[:2]
    time, batch = known_of(x[0], cont[0]), known_of(x[1], cont[1])
    exposed: list[Shape] = [(1, batch, hidden)] * states if layer.recurrent_param.expose_hidden else []
    return [(time, batch, hidden), *exposed]


@shape_function("LSTMUnit", bottoms=3, tops=2)
def _lstm_unit(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Map cell [1, N, D], gates [1, N, 4D] and markers [1, N] to the new cell and hidden state."""
    cell, gates, cont = bottoms
    if len(cell) != 3 or len(gates) != 3:
        raise ShapeError(f"cell and gates must have 3 axes, not {text(cell)} and {text(gates)}")
    if not all(agree(shape[0], 1) for shape in (cell, gates)) or not agree(count(cont), cell[1]):
        raise ShapeError(f"one step of [1, N, ...] with N markers, not {text(cell)}, {text(gates)} and {text(cont)}")
    if not agree(cell[1], gates[1]) or not agree(product((4, cell[2])), gates[2]):
        raise ShapeError(f"the gates must be [1, N, 4 * D] for a cell [1, N, D], not {text(gates)} for {text(cell)}")
    return [cell, cell], []
