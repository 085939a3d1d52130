"""The layers of a fused net over all its phases, and the shapes of their blobs, as far as they are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from prototxt.errors import PrototxtError
from prototxt.formats.index import shape_fits
from prototxt.schema.duplicate_names import check_layer_names
from prototxt.schema.filter import filter_net
from prototxt.schema.messages import LayerParameter, NetParameter
from prototxt.schema.params import param_count
from prototxt.shapes.dimensions import Shape, merge_shapes, shapes_agree
from prototxt.shapes.net import infer

_PHASES = ("TEST", "TRAIN")


@dataclass(frozen=True)
class TargetLayer:
    """A layer of the fused net.

    shapes  of its blobs, None for unknown sizes; None as a whole where not even their number is known (types of
            forks, Python)
    """

    layer: LayerParameter
    shapes: tuple[Shape, ...] | None

    @property
    def frozen(self) -> bool:
        """Return whether nothing in it is ever learned."""
        count = len(self.shapes) if self.shapes is not None else max(1, len(self.layer.param))
        first = 3 if self.layer.type == "BatchNorm" else 0  # statistics are never learned, whatever their lr_mult
        specs = self.layer.param[first:count]
        return len(specs) >= count - first and all(spec.lr_mult == 0 for spec in specs)

    def share_name(self, index: int) -> str:
        """Return the name under which blob `index` is shared, or ""."""
        return self.layer.param[index].name if index < len(self.layer.param) else ""

    def fits(self, blobs: Sequence[NDArray[Any]]) -> bool:
        """Return whether blobs have the layer's shapes, as far as they are known."""
        if self.shapes is None:
            return True
        return len(blobs) == len(self.shapes) and all(
            shape_fits(tuple(blob.shape), shape) for blob, shape in zip(blobs, self.shapes, strict=True)
        )


def target_layers(net: NetParameter, inputs: Mapping[str, Sequence[int | None]] | None = None) -> list[TargetLayer]:
    """Return the layers of all phases in the net's order, each name once: the one with blobs, if any.

    Raises: ShapeError with all errors of the net; WeightsError for several layers of one name with weights.
    """
    check_layer_names(net)
    found: dict[str, TargetLayer] = {}
    failed: list[tuple[NetParameter, PrototxtError]] = []
    seen: list[NetParameter] = []
    for phase in _PHASES:
        filtered = filter_net(net, phase=phase)
        filtered.ClearField("state")
        if filtered in seen:  # a deploy net is the same in both phases
            continue
        seen.append(filtered)
        try:
            shapes = infer(filtered, _known_inputs(filtered, inputs), unknown="ignore").params
        except PrototxtError as error:
            failed.append((filtered, error))
            continue
        for layer, params in zip(filtered.layer, shapes, strict=True):
            _add(found, layer, params)
    # A phase may fail without data that only the other one has; that matters if only it has some layer with blobs.
    for filtered, problem in failed:
        if not found or any(param_count(layer.type, layer) and layer.name not in found for layer in filtered.layer):
            raise problem
    order = {name: index for index, name in reversed(list(enumerate(layer.name for layer in net.layer)))}
    return sorted(found.values(), key=lambda item: order[item.layer.name])


def _known_inputs(
    net: NetParameter, inputs: Mapping[str, Sequence[int | None]] | None
) -> dict[str, Sequence[int | None]] | None:
    """Return the given shapes of the blobs in this phase; all if it has none of them, so that a mistake is an error."""
    if not inputs:
        return None
    tops = {top for layer in net.layer for top in layer.top}
    return {name: shape for name, shape in inputs.items() if name in tops} or dict(inputs)


def _add(found: dict[str, TargetLayer], layer: LayerParameter, params: Sequence[Shape]) -> None:
    known: tuple[Shape, ...] | None = tuple(params)
    if not params and param_count(layer.type, layer) != 0:
        known = None
    before = found.get(layer.name)
    if before is not None and before.shapes:
        if not known:
            return
        if len(known) != len(before.shapes) or not all(map(shapes_agree, before.shapes, known)):
            return  # another layer of that name in the other phase: weights go to the first, as in Caffe
        known = tuple(merge_shapes(pair) for pair in zip(before.shapes, known, strict=True))
    found[layer.name] = TargetLayer(layer, known)
