"""Freeze layers in the text of a net, so that training changes neither their weights nor their statistics.

Learning rates become 0, missing `param {}` blocks are added (one per blob of the layer), BatchNorm uses its stored
statistics, Dropout becomes the identity.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from prototxt.edit.layer_view import TextLayer
from prototxt.edit.weightless_layers import stated_count, used_by_weights, weightless_reason
from prototxt.errors import PrototxtError, RenameError, closest, did_you_mean
from prototxt.schema.params import KNOWN_TYPES, param_count
from prototxt.text.edits import Edits
from prototxt.text.fold_notes import fold_notes
from prototxt.text.tree import Document, Message, Scalar

_ZERO = re.compile(r"-?\s*(?:0[xX]0+|(?:0+(?:\.0*)?|\.0+)(?:[eE][-+]?[0-9]+)?[fF]?)")
_TRUE = ("true", "True", "t", "1")
_BEFORE_PARAMS = ("name", "type", "bottom", "top")
_ENDS = ("Accuracy", "Silence", "HDF5Output")
_NVCAFFE = "frozen here; NVCaffe itself trains the scale and bias of its BatchNorm whatever lr_mult says"


class FreezePatterns(NamedTuple):
    """Regular expressions for layer names: `freeze` (None: all) selects layers to freeze, less those of `thaw`."""

    freeze: str | None = None
    thaw: str | None = None


def select_layers(document: Document, layers: Sequence[TextLayer], choice: FreezePatterns) -> list[TextLayer]:
    """Return the layers to freeze, without data layers.

    Raises: RenameError for an invalid pattern, or one that matches no layer.
    """
    learners = [layer for layer in layers if not layer.is_data]
    keep = _found(document, learners, choice.freeze, "freeze") if choice.freeze is not None else learners
    if choice.thaw is None:
        return keep
    thawed = {id(layer) for layer in _found(document, learners, choice.thaw, "thaw")}
    return [layer for layer in keep if id(layer) not in thawed]


class FreezeResult(NamedTuple):
    """The changes by `id(layer)`, notes for the user, and errors."""

    done: dict[int, tuple[str, ...]]
    notes: tuple[str, ...]
    errors: tuple[PrototxtError, ...]


def freeze(
    edits: Edits,
    layers: Sequence[TextLayer],
    choice: FreezePatterns,
    blob_counts: Mapping[str, int] | None = None,
    outputs: Collection[str] = (),
) -> FreezeResult:
    """Freeze the selected layers of a net.

    If a layer's description does not determine its number of blobs, its weights or `param {}` blocks do; a layer that
    has none in practice is left unchanged with a note, and any other is an error.

    blob_counts  the number of blobs by layer name, from the net's weights
    outputs      blobs that layers outside this net read, which may learn through it
    Raises: RenameError for an invalid pattern, or one that matches no layer.
    """
    frozen = select_layers(edits.document, layers, choice)
    errors = half_frozen_shares(edits.document, layers, frozen)
    used = used_by_weights(layers, blob_counts, outputs)
    done: dict[int, tuple[str, ...]] = {}
    notes: list[tuple[str, str]] = []
    for layer in frozen:
        count, note = _blob_count(layer, blob_counts, used)
        if count is None:
            errors.append(_unknown(edits.document, layer))
            continue
        done[id(layer)] = tuple(_freeze_layer(edits, layer, count))
        notes += [(note, layer.name)] if note else []
        if layer.type == "BatchNorm" and count == 5:
            notes.append((_NVCAFFE, layer.name))
    return FreezeResult(done, tuple(fold_notes(notes)), tuple(errors))


def _blob_count(
    layer: TextLayer, blob_counts: Mapping[str, int] | None, used: Collection[int]
) -> tuple[int | None, str]:
    """Return the number of blobs to freeze, None if unknown, and a note on the assumption made, if any."""
    count = param_count(layer.type, layer.body)
    if count is not None:
        return count, ""
    if blob_counts is not None and layer.name in blob_counts:
        return blob_counts[layer.name], ""
    stated = stated_count(layer)
    if stated and not closest(layer.type, KNOWN_TYPES, cutoff=0.9):  # a misspelt type may have more blobs than stated
        fields = "param {} blocks" if layer.version == 2 else "blobs_lr"
        return stated, f"its type is unknown: frozen by its {fields}; if it has more blobs, give --weights"
    if reason := weightless_reason(layer, used):
        return 0, f"left unchanged: {reason}"
    return None, ""


def _freeze_layer(edits: Edits, layer: TextLayer, count: int) -> list[str]:
    """Freeze one layer of `count` blobs; return the changes in words."""
    if layer.type == "Onnx":
        return ["weights frozen"] if _set_flag(edits, layer.body, "onnx_param", "frozen") else []
    done = _stop_v2(edits, layer, count) if layer.version == 2 else _stop_old(edits, layer, count)
    if layer.type == "BatchNorm":
        done += _set_flag(edits, layer.body, "batch_norm_param", "use_global_stats")
    if layer.type == "BN" and count == 4 and not _has(layer, "bn_param", "decay", "moving_average"):
        done += _set_flag(edits, layer.body, "bn_param", "frozen")
    if layer.type == "Dropout":
        done += _stop_dropout(edits, layer)
    return done


def half_frozen_shares(
    document: Document, layers: Sequence[TextLayer], frozen: Sequence[TextLayer]
) -> list[PrototxtError]:
    """Return errors for parameters shared by a frozen and a learning layer: Caffe refuses two learning rates."""
    stopped = {id(layer) for layer in frozen}
    owners: dict[str, tuple[bool, TextLayer]] = {}
    errors: list[PrototxtError] = []
    for layer in layers:
        for scalar in shared_names(layer):
            is_frozen = id(layer) in stopped
            before, owner = owners.setdefault(scalar.value, (is_frozen, layer))
            if before != is_frozen:
                one, other = (layer, owner) if is_frozen else (owner, layer)
                errors.append(
                    RenameError(
                        f"layer {one.name!r} would be frozen, but it shares the parameter {scalar.value!r} with layer "
                        f"{other.name!r}, which would not",
                        place=document.place(scalar.start),
                        hint="freeze both or neither",
                    )
                )
    return errors


def shared_names(layer: TextLayer) -> list[Scalar]:
    """Return the names of a layer's parameters, which share them: `param { name }`, in V1 `param: "name"`."""
    named = [scalar for block in layer.body.messages("param") for scalar in block.scalars("name")]
    if layer.version < 2:
        named += [scalar for message in {layer.body, layer.message} for scalar in message.scalars("param")]
    return [scalar for scalar in named if scalar.value]


def stop_gradients(
    edits: Edits, layers: Sequence[TextLayer], frozen: Sequence[TextLayer]
) -> tuple[dict[int, str], list[PrototxtError]]:
    """Write `propagate_down: false` where the gradient would enter the frozen part.

    That is at learning layers that read frozen blobs, and at frozen layers whose tops leave the net or feed only its
    losses. Return the changes by `id(layer)`, and errors where the flag cannot be written.
    """
    stopped = {id(layer) for layer in frozen}
    leaving = _leaving(layers)
    learning: dict[str, bool] = {}  # by blob made inside the net: whether a gradient reaches something that learns
    done: dict[int, str] = {}
    errors: list[PrototxtError] = []
    for layer in layers:
        if layer.is_data:
            continue
        # Caffe itself propagates no gradient to inputs and data: their flag stays true, which is the default.
        flags = [learning.get(bottom.value, True) for bottom in layer.bottoms]
        learns = id(layer) not in stopped and param_count(layer.type, layer.body) != 0
        useful = learns or any(learning.get(bottom.value, False) for bottom in layer.bottoms)
        learning.update((top.value, useful) for top in layer.tops)
        if not useful and id(layer) in leaving:
            flags = [False] * len(flags)
        if all(flags) or not (useful or id(layer) in leaving):
            continue
        if layer.version < 2:
            errors.append(_no_propagate_down(edits.document, layer))
        elif text := _write_propagate_down(edits, layer, flags):
            done[id(layer)] = text
    return done, errors


def _leaving(layers: Sequence[TextLayer]) -> set[int]:
    """Return the layers with a top that is read by no layer except losses and measures."""
    maker: dict[str, TextLayer] = {}
    used: set[int] = set()
    for layer in layers:
        if layer.is_data or "Loss" in layer.type or layer.type in _ENDS:
            continue
        used.update(id(maker[bottom.value]) for bottom in layer.bottoms if bottom.value in maker)
        maker.update((top.value, layer) for top in layer.tops)
    return {id(layer) for layer in maker.values()} - used


def _no_propagate_down(document: Document, layer: TextLayer) -> PrototxtError:
    return RenameError(
        f"layer {layer.name!r}: the old syntax has no propagate_down",
        place=document.place(layer.message.start),
        hint="upgrade the file first: fusion-convert",
    )


def _write_propagate_down(edits: Edits, layer: TextLayer, flags: list[bool]) -> str:
    written = layer.body.scalars("propagate_down")
    if written:
        changed = 0
        for scalar, use in zip(written, flags, strict=False):
            if not use and scalar.value in _TRUE:
                edits.replace(scalar, "false")
                changed += 1
        return f"{changed} propagate_down set to false" if changed else ""
    words = ["true" if use else "false" for use in flags]
    _insert(edits, layer.body, " ".join(f"propagate_down: {word}" for word in words), "propagate_down")
    return f"propagate_down: {', '.join(words)}"


def _found(document: Document, layers: Sequence[TextLayer], pattern: str, option: str) -> list[TextLayer]:
    try:
        search = re.compile(pattern).search
    except re.error as error:
        raise RenameError(f"--{option}: {pattern!r} is not a regular expression: {error}") from None
    found = [layer for layer in layers if search(layer.name)]
    if not found:
        names = ", ".join(dict.fromkeys(layer.name for layer in layers if layer.name))
        shown = names if len(names) < 300 else names[:300] + " ..."
        raise RenameError(
            f"--{option}: {pattern!r} matches no layer", place=document.name, hint=f"the layers are {shown}"
        )
    return found


def _unknown(document: Document, layer: TextLayer) -> PrototxtError:
    kind = f"of type {layer.type!r}" if layer.type else "without a type"
    remedy = (
        "give the net's weights with --weights, add a param {} block per blob, leave the layer unchanged with "
        f"--thaw '^{re.escape(layer.name)}$', or rename only with --no-freeze"
    )
    return RenameError(
        f"layer {layer.name!r} {kind} cannot be frozen: its description does not determine its number of blobs, and "
        "any would still learn",
        place=document.place(layer.message.start),
        hint=did_you_mean(layer.type, KNOWN_TYPES, also=remedy),
    )


def _stop_v2(edits: Edits, layer: TextLayer, count: int) -> list[str]:
    """Zero `lr_mult` in one `param {}` block per blob (V2)."""
    blocks = layer.body.messages("param")
    changed = added = 0
    for block in blocks:
        rates = block.scalars("lr_mult")
        changed += _zero(edits, rates)
        if not rates:
            edits.append_field(block, "lr_mult: 0")
            added += 1
    missing = max(0, count - len(blocks))
    if missing:
        _insert(edits, layer.body, " ".join(["param { lr_mult: 0 }"] * missing), "param")
    return _counted((changed, "lr_mult set to 0"), (added, "lr_mult: 0 added"), (missing, "param { lr_mult: 0 } added"))


def _stop_old(edits: Edits, layer: TextLayer, count: int) -> list[str]:
    """Zero one `blobs_lr` per blob (V1 and V0)."""
    rates = layer.body.scalars("blobs_lr")
    changed = _zero(edits, rates)
    missing = max(0, count - len(rates))
    if missing:
        _insert(edits, layer.body, " ".join(["blobs_lr: 0"] * missing), "blobs_lr")
    return _counted((changed, "blobs_lr set to 0"), (missing, "blobs_lr: 0 added"))


def _zero(edits: Edits, scalars: Sequence[Scalar]) -> int:
    changed = 0
    for scalar in scalars:
        if not _ZERO.fullmatch(scalar.raw):
            edits.replace(scalar, "0")
            changed += 1
    return changed


def _insert(edits: Edits, body: Message, text: str, after: str) -> None:
    """Insert fields after the last one named `after`, or else after name, type, bottoms and tops."""
    anchor = body.get(after)
    if anchor is None:
        fields = [field for name in _BEFORE_PARAMS if (field := body.get(name))]
        anchor = max(fields, key=lambda field: field.start, default=None)
    edits.insert_field(body, text, after=anchor)


def _set_flag(edits: Edits, body: Message, block: str, name: str) -> list[str]:
    """Set the boolean `block { name }` to true."""
    blocks = body.messages(block)
    written = [scalar for message in blocks for scalar in message.scalars(name)]
    if not blocks:
        edits.append_field(body, f"{block} {{ {name}: true }}")
    elif not written:
        edits.append_field(blocks[-1], f"{name}: true")
    elif all(scalar.value in _TRUE for scalar in written):
        return []
    for scalar in written:
        if scalar.value not in _TRUE:
            edits.replace(scalar, "true")
    return [f"{name}: true"]


def _has(layer: TextLayer, block: str, *names: str) -> bool:
    return any(message.get(name) for message in layer.body.messages(block) for name in names)


def _stop_dropout(edits: Edits, layer: TextLayer) -> list[str]:
    """Set `dropout_ratio: 0`, which keeps all values and scales by 1."""
    blocks = [layer.body] if layer.version == 0 else layer.body.messages("dropout_param")
    ratios = [scalar for block in blocks for scalar in block.scalars("dropout_ratio")]
    if not blocks:
        edits.append_field(layer.body, "dropout_param { dropout_ratio: 0 }")
    elif not ratios:
        edits.append_field(blocks[-1], "dropout_ratio: 0")
    elif not _zero(edits, ratios):
        return []
    before = ratios[-1].raw if ratios else "0.5"
    return [f"dropout_ratio: {before} -> 0"]


def _counted(*counts: tuple[int, str]) -> list[str]:
    return [f"{count} x {change}" for count, change in counts if count]
