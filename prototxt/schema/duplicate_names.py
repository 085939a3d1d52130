"""Layers with the same name in one phase: Caffe builds them, but weights files identify layers by name."""

from __future__ import annotations

from prototxt.errors import WeightsError, raise_all
from prototxt.schema.filter import filter_net
from prototxt.schema.messages import LayerParameter, NetParameter
from prototxt.schema.params import param_count
from prototxt.text.source_places import place_of

HINT = "give one of them another name, in the net and in its weights"


def check_layer_names(net: NetParameter) -> None:
    """Check that weights by layer name are unambiguous.

    Layers that share all their parameters by name hold the same weights, and may have the same name.
    Raises: WeightsError for every further layer of a name that holds weights of its own.
    """
    errors: dict[str, WeightsError] = {}
    for phase in ("TRAIN", "TEST"):
        first: dict[str, LayerParameter] = {}
        for layer in filter_net(net, phase=phase).layer:
            count = param_count(layer.type, layer)
            if count == 0 or (count is None and not layer.param):
                continue
            if first.setdefault(layer.name, layer) is not layer and not _shares_all(layer, first[layer.name], count):
                message = f"a second layer named '{layer.name}' holds weights: weights files identify layers by name"
                errors.setdefault(layer.name, WeightsError(message, place=place_of(layer), hint=HINT))
    raise_all(list(errors.values()))


def _shares_all(layer: LayerParameter, other: LayerParameter, count: int | None) -> bool:
    names = [spec.name for spec in layer.param]
    return all(names) and len(names) >= (count or 1) and names == [spec.name for spec in other.param]
