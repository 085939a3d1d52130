"""Snapshots that hold only what was learned: frozen weights taken out, and put back from where they came from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from fusion.errors import FusionError, WeightsMismatch, raise_all
from fusion.merge.targets import TargetLayer, target_layers
from fusion.onnx.sidecar import ONNX
from fusion.surgery.result import SurgeryResult, Weights
from prototxt.formats.index import shape_fits
from prototxt.schema.messages import NetParameter


def strip(net: NetParameter, weights: Weights) -> SurgeryResult:
    """Drop the weights of all layers that training leaves alone: learning rate 0, BatchNorm on global statistics.

    net  with its training phase, whose lr_mult tell what is frozen
    Raises: FusionError when nothing would be left, or nothing is frozen; WeightsMismatch for those of another net.
    """
    wanted = {item.layer.name: item for item in target_layers(net) if _holds(item)}
    _check_names(net, weights, list(wanted), "the weights")
    frozen = [name for name in weights if name in wanted and _fixed(wanted[name])]
    made = {name: weights[name] for name in weights if name not in frozen}
    if not frozen:
        hint = "give the net that was trained (train_val.prototxt), in which frozen layers have lr_mult 0"
        raise FusionError(f"nothing in net '{net.name}' is frozen", hint=hint)
    if not made:
        raise FusionError(f"all of net '{net.name}' is frozen: nothing would be left", hint="keep the whole file")
    return SurgeryResult(None, made, tuple(made), dropped=tuple(frozen))


def restore(net: NetParameter, head: Weights, base: Weights) -> SurgeryResult:
    """The weights of a whole net from a stripped snapshot and the weights that it was trained from.

    Raises: WeightsMismatch naming every layer that neither has, or whose shape does not fit; or a file of another net.
    """
    _check_names(net, head, [item.layer.name for item in target_layers(net) if _holds(item)], "the snapshot")
    made: dict[str, Sequence[NDArray[Any]]] = {}
    errors: list[FusionError] = []
    changed: dict[str, str] = {}
    for item in target_layers(net):
        name = item.layer.name
        source = head if name in head else base
        if not _holds(item) or (item.layer.type == ONNX and name not in source):
            continue
        if name not in source:
            hint = "give the weights that training began with (init.caffemodel)"
            errors.append(WeightsMismatch(f"layer '{name}' is in neither of the two files", hint=hint))
            continue
        errors += _misfit(item, source[name])
        made[name] = source[name]
        changed[name] = "from the snapshot" if source is head else "from the base"
    raise_all(errors)
    unused = tuple(name for name in dict.fromkeys([*head, *base]) if name not in made)
    return SurgeryResult(None, made, (), changed, unused)


def _check_names(net: NetParameter, weights: Weights, own: Sequence[str], what: str) -> None:
    """Raises: WeightsMismatch when no layer is one of the net's."""
    if not set(own).intersection(weights):
        names = [", ".join(list(given)[:5]) for given in (own, weights)]
        hint = f"the net's begin with {names[0]}; those of {what} with {names[1]}"
        raise WeightsMismatch(f"no layer of {what} is one of net '{net.name}'", hint=hint)


def _holds(item: TargetLayer) -> bool:
    """Whether the layer has weights; those of an Onnx layer are no blobs, and may also stay in its file."""
    return item.shapes != () or item.layer.type == ONNX


def _fixed(item: TargetLayer) -> bool:
    """Whether training leaves the layer's blobs alone; BatchNorm's statistics move unless it is told not to."""
    if item.layer.type == ONNX:
        return bool(item.layer.onnx_param.frozen)
    return item.frozen and (item.layer.type != "BatchNorm" or item.layer.batch_norm_param.use_global_stats)


def _misfit(item: TargetLayer, blobs: Sequence[NDArray[Any]]) -> list[FusionError]:
    have = [tuple(blob.shape) for blob in blobs]
    if not item.shapes or (len(have) == len(item.shapes) and all(map(shape_fits, have, item.shapes))):
        return []
    message = f"layer '{item.layer.name}' needs blobs of shape {list(item.shapes)}, given {have}"
    return [WeightsMismatch(message, hint="these are the weights of another net")]
