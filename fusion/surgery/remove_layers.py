"""Snapshots without the weights of frozen layers, and their restoration from the weights that training began with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from fusion.errors import FusionError, WeightsMismatch, raise_all
from fusion.merge.targets import TargetLayer, target_layers
from fusion.onnx.sidecar import ONNX
from fusion.surgery.result import SurgeryResult, Weights
from prototxt.schema.messages import NetParameter


def strip(net: NetParameter, weights: Weights) -> SurgeryResult:
    """Drop the weights of all frozen layers: learning rate 0, BatchNorm on global statistics.

    net  with its training phase, whose lr_mult show the frozen layers
    Raises: FusionError when nothing would be left, or nothing is frozen; WeightsMismatch for weights of another net.
    """
    targets = {item.layer.name: item for item in target_layers(net) if _has_weights(item)}
    _check_names(net, weights, list(targets), "the weights")
    frozen = [name for name in weights if name in targets and _is_frozen(targets[name])]
    remaining = {name: weights[name] for name in weights if name not in frozen}
    if not frozen:
        hint = "give the net that was trained (train_val.prototxt), in which frozen layers have lr_mult 0"
        raise FusionError(f"nothing in net '{net.name}' is frozen", hint=hint)
    if not remaining:
        raise FusionError(f"all of net '{net.name}' is frozen: nothing would be left", hint="keep the whole file")
    return SurgeryResult(None, remaining, tuple(remaining), dropped=tuple(frozen))


def restore(net: NetParameter, head: Weights, base: Weights) -> SurgeryResult:
    """Return the weights of a whole net from a stripped snapshot and the weights that training began with.

    Raises: WeightsMismatch naming every layer that neither has, or whose shape does not fit; or for another net's file.
    """
    _check_names(net, head, [item.layer.name for item in target_layers(net) if _has_weights(item)], "the snapshot")
    restored: dict[str, Sequence[NDArray[Any]]] = {}
    errors: list[FusionError] = []
    changed: dict[str, str] = {}
    for item in target_layers(net):
        name = item.layer.name
        source = head if name in head else base  # the snapshot is newer
        if not _has_weights(item) or (item.layer.type == ONNX and name not in source):
            continue
        if name not in source:
            hint = "give the weights that training began with (init.caffemodel)"
            errors.append(WeightsMismatch(f"layer '{name}' is in neither of the two files", hint=hint))
            continue
        if item.shapes and not item.fits(source[name]):
            text = f"layer '{name}' needs blobs of shape {list(item.shapes)}, not {[b.shape for b in source[name]]}"
            errors.append(WeightsMismatch(text, hint="these are the weights of another net"))
        restored[name] = source[name]
        changed[name] = "from the snapshot" if source is head else "from the base"
    raise_all(errors)
    unused = tuple(name for name in dict.fromkeys([*head, *base]) if name not in restored)
    return SurgeryResult(None, restored, (), changed, unused)


def _check_names(net: NetParameter, weights: Weights, own: Sequence[str], label: str) -> None:
    """Check that some layer is one of the net's. Raises: WeightsMismatch if none is."""
    if not set(own).intersection(weights):
        names = [", ".join(list(given)[:5]) for given in (own, weights)]
        hint = f"the net's begin with {names[0]}; those of {label} with {names[1]}"
        raise WeightsMismatch(f"no layer of {label} is one of net '{net.name}'", hint=hint)


def _has_weights(item: TargetLayer) -> bool:
    """Return whether the layer has weights; those of an Onnx layer are no blobs, and may also stay in its file."""
    return item.shapes != () or item.layer.type == ONNX


def _is_frozen(item: TargetLayer) -> bool:
    """Return whether training keeps the layer's blobs; it updates BatchNorm's statistics whatever lr_mult says."""
    if item.layer.type == ONNX:
        return bool(item.layer.onnx_param.frozen)
    return item.frozen and (item.layer.type != "BatchNorm" or item.layer.batch_norm_param.use_global_stats)
