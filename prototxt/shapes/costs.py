"""The cost of a net: multiplications, parameters, and memory for its blobs, from its shapes alone.

Multiply-accumulates are counted where weights meet activations (convolutions, inner products, recurrent layers), as the
published figures of nets do; additions, activations, normalisation and pooling are not. Sizes are those of the inferred
batch. None means that the value depends on an unknown dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from prototxt.schema.messages import LayerParameter, NetParameter
from prototxt.shapes.dimensions import Dim, Shape, count, product
from prototxt.shapes.net import NetShapes

STATISTICS = ("BatchNorm",)
FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of a layer or a net.

    macs         multiply-accumulates of one forward pass
    params       learnable numbers
    statistics   numbers stored but not learned (BatchNorm)
    activations  numbers in the tops that are not in place
    """

    macs: Dim
    params: Dim
    statistics: Dim
    activations: Dim


def layer_costs(net: NetParameter, shapes: NetShapes) -> list[Cost]:
    """Return the cost of each layer; a parameter that several layers share counts in each."""
    rows = zip(net.layer, shapes.bottoms, shapes.tops, shapes.params, strict=True)
    return [_layer_cost(layer, bottoms, tops, params) for layer, bottoms, tops, params in rows]


def net_cost(net: NetParameter, shapes: NetShapes) -> Cost:
    """Return the cost of the whole net; a shared parameter counts once."""
    costs = layer_costs(net, shapes)
    repeated = _repeated_params(net, shapes)
    params = _sum([*(cost.params for cost in costs), *(None if size is None else -size for size in repeated)])
    return Cost(
        _sum(cost.macs for cost in costs),
        params,
        _sum(cost.statistics for cost in costs),
        _sum(cost.activations for cost in costs),
    )


def peak_activations(net: NetParameter, shapes: NetShapes) -> Dim:
    """Return the peak number of blob elements if each blob is freed after its last use and outputs are kept."""
    last_use = {name: index for index, layer in enumerate(net.layer) for name in (*layer.bottom, *layer.top)}
    used = {name for layer in net.layer for name in layer.bottom}
    alive: dict[str, int] = {}
    peak = 0
    for index, layer in enumerate(net.layer):
        for name, shape in zip(layer.top, shapes.tops[index], strict=False):
            size = count(shape)
            if size is None:
                return None
            alive[name] = size
        peak = max(peak, sum(alive.values()))
        for name in (*layer.bottom, *layer.top):
            if last_use[name] == index and name in used:
                alive.pop(name, None)
    return peak


def _layer_cost(layer: LayerParameter, bottoms: list[Shape], tops: list[Shape], params: list[Shape]) -> Cost:
    kept = 3 if layer.type in STATISTICS else 0  # NVCaffe's BatchNorm has weights after its three statistics
    statistics, learned = _sum(map(count, params[:kept])), _sum(map(count, params[kept:]))
    fresh = [shape for name, shape in zip(layer.top, tops, strict=False) if name not in layer.bottom]
    macs = _MACS[layer.type](bottoms, tops, params) if layer.type in _MACS and params else 0
    return Cost(macs, learned, statistics, _sum(map(count, fresh)))


def _convolution(bottoms: list[Shape], tops: list[Shape], params: list[Shape]) -> Dim:
    # Each output value takes one product per weight of its filter.
    return product((_sum(map(count, tops)), count(params[0], 1)))


def _deconvolution(bottoms: list[Shape], tops: list[Shape], params: list[Shape]) -> Dim:
    # The transposed convolution: each input value is multiplied by the weights of its filter.
    return product((_sum(map(count, bottoms)), count(params[0], 1)))


def _inner_product(bottoms: list[Shape], tops: list[Shape], params: list[Shape]) -> Dim:
    outputs = tops[0][-1]
    weights, rows = count(params[0]), count(tops[0])
    return None if not outputs or weights is None or rows is None else rows // outputs * weights


def _recurrent(bottoms: list[Shape], tops: list[Shape], params: list[Shape]) -> Dim:
    # Each time step of each sequence uses all matrices once; the other parameters are biases.
    steps = count(tops[0][:2])
    return product((steps, _sum(count(shape) for shape in params if len(shape) == 2)))


_MACS: dict[str, Callable[[list[Shape], list[Shape], list[Shape]], Dim]] = {
    "Convolution": _convolution,
    "Deconvolution": _deconvolution,
    "InnerProduct": _inner_product,
    "LSTM": _recurrent,
    "RNN": _recurrent,
}


def _repeated_params(net: NetParameter, shapes: NetShapes) -> list[Dim]:
    seen: set[str] = set()
    repeated: list[Dim] = []
    for layer, params in zip(net.layer, shapes.params, strict=True):
        for spec, shape in zip(layer.param, params, strict=False):
            if spec.name in seen:
                repeated.append(count(shape))
            elif spec.name:
                seen.add(spec.name)
    return repeated


def _sum(sizes: Iterable[Dim]) -> Dim:
    total = 0
    for size in sizes:
        if size is None:
            return None
        total += size
    return total
