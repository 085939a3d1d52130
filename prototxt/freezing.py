"""Freezing on the text: after it, no training run changes what a layer learned or what it keeps.

Learning rates become 0, missing `param {}` blocks are added (exactly as many as the layer has blobs), BatchNorm uses
its stored statistics, Dropout becomes the identity.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prototxt.editing import Edits
from prototxt.errors import PrototxtError, RenameError
from prototxt.outline import TextLayer
from prototxt.params import param_count
from prototxt.tree import Document, Field, Message, Scalar

_ZERO = re.compile(r"-?\s*(?:0[xX]0+|(?:0+\.?0*|\.0+)(?:[eE][-+]?[0-9]+)?[fF]?)")
_TRUE = ("true", "True", "t", "1")
_BEFORE_PARAMS = ("name", "type", "bottom", "top")
_ENDS = ("Accuracy", "Silence", "HDF5Output")


@dataclass(frozen=True, slots=True)
class Choice:
    """Which layers to freeze: those that `freeze` finds, or all; but none that `thaw` finds. Patterns are searched."""

    freeze: str | None = None
    thaw: str | None = None


def chosen(document: Document, layers: Sequence[TextLayer], choice: Choice) -> list[TextLayer]:
    """The layers to freeze, data layers never among them.

    Raises: RenameError for a pattern that is none, or that finds no layer.
    """
    learners = [layer for layer in layers if not layer.is_data]
    keep = _found(document, learners, choice.freeze, "freeze") if choice.freeze is not None else learners
    if choice.thaw is None:
        return keep
    thawed = {id(layer) for layer in _found(document, learners, choice.thaw, "thaw")}
    return [layer for layer in keep if id(layer) not in thawed]


def freeze(
    edits: Edits, layer: TextLayer, blob_counts: Mapping[str, int] | None = None
) -> tuple[list[str], PrototxtError | None]:
    """Freeze one layer; returns what was done, and the reason if it cannot be done.

    blob_counts  the number of blobs by layer name, from its weights, for types whose description does not tell it
    """
    if layer.type == "Onnx":
        return _set_flag(edits, layer.body, "onnx_param", "frozen"), None
    count = param_count(layer.type, layer.body)
    if count is None:
        count = (blob_counts or {}).get(layer.name)
    if count is None:
        return [], _unknown(edits.document, layer)
    done = _stop_v2(edits, layer, count) if layer.version == 2 else _stop_old(edits, layer, count)
    if layer.type == "BatchNorm":
        done += _set_flag(edits, layer.body, "batch_norm_param", "use_global_stats")
    if layer.type == "Dropout":
        done += _stop_dropout(edits, layer)
    return done, None


def torn_shares(document: Document, layers: Sequence[TextLayer], frozen: Sequence[TextLayer]) -> list[PrototxtError]:
    """Errors for parameters that a frozen and a learning layer share: Caffe refuses two learning rates."""
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
                        f"layer {one.name!r} is to be frozen, but it shares the parameter {scalar.value!r} with layer "
                        f"{other.name!r}, which is not",
                        place=document.place(scalar.start),
                        hint="freeze both or neither",
                    )
                )
    return errors


def shared_names(layer: TextLayer) -> list[Scalar]:
    """Where a layer names its parameters, in order to share them: `param { name }`, in V1 `param: "name"`."""
    named = [scalar for block in layer.body.messages("param") for scalar in block.scalars("name")]
    if layer.version < 2:
        named += [scalar for message in {layer.body, layer.message} for scalar in message.scalars("param")]
    return [scalar for scalar in named if scalar.value]


def stop_gradients(
    edits: Edits, layers: Sequence[TextLayer], frozen: Sequence[TextLayer]
) -> tuple[dict[int, str], list[PrototxtError]]:
    """Write `propagate_down: false` where the gradient would enter what is frozen.

    That is at learning layers that read frozen blobs, and at frozen layers whose tops leave the net or feed only its
    losses. Returns what was done by `id(layer)`, and the reasons where it cannot be written.
    """
    stopped = {id(layer) for layer in frozen}
    learning: dict[str, bool] = {}  # by blob: whether a gradient for it is of use; data needs none and blocks none
    done: dict[int, str] = {}
    errors: list[PrototxtError] = []
    leaving = _leaving(layers)
    for layer in layers:
        names = [bottom.value for bottom in layer.bottoms]
        own = id(layer) not in stopped and not layer.is_data and param_count(layer.type, layer.body) != 0
        useful = own or any(learning.get(name, False) for name in names)
        made_here = [name in learning for name in names]
        learning.update({top.value: useful for top in layer.tops} if not layer.is_data else {})
        wanted = [
            learning_of or not inside
            for learning_of, inside in zip(
                [
                    learning.get(name, False) if name not in {top.value for top in layer.tops} else useful
                    for name in names
                ],
                made_here,
                strict=True,
            )
        ]
        if useful and all(wanted):
            continue
        if not useful:
            if id(layer) not in leaving or not names:
                continue
            wanted = [False] * len(names)
        if layer.version < 2:
            errors.append(
                RenameError(
                    f"layer {layer.name!r}: the old syntax has no propagate_down",
                    place=edits.document.place(layer.message.start),
                    hint="upgrade the file first: fusion-convert",
                )
            )
        elif text := _write_propagate_down(edits, layer, wanted):
            done[id(layer)] = text
    return done, errors


def _leaving(layers: Sequence[TextLayer]) -> set[int]:
    """Layers with a top that no layer reads but losses, accuracies and the like; in-place followers count."""
    last: dict[str, TextLayer] = {}
    used: set[int] = set()
    for layer in layers:
        ends = layer.type.endswith("Loss") or "Loss" in layer.type or layer.type in _ENDS
        for bottom in layer.bottoms:
            if bottom.value in last and not ends:
                used.add(id(last[bottom.value]))
        if not ends:
            last.update({top.value: layer for top in layer.tops})
    return {id(layer) for layer in last.values() if id(layer) not in used and not layer.is_data}


def _write_propagate_down(edits: Edits, layer: TextLayer, wanted: list[bool]) -> str:
    written = layer.body.scalars("propagate_down")
    if written:
        changed = 0
        for scalar, use in zip(written, wanted, strict=False):
            if not use and scalar.value in _TRUE:
                edits.replace(scalar, "false")
                changed += 1
        return f"{changed} propagate_down set to false" if changed else ""
    for use in wanted:
        _insert(edits, layer.body, f"propagate_down: {'true' if use else 'false'}", ())
    return "propagate_down: " + ", ".join("true" if use else "false" for use in wanted)


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
    escaped = re.escape(layer.name) if layer.name else ""
    return RenameError(
        f"layer {layer.name!r} {kind} cannot be frozen: its description does not tell how many blobs it has",
        place=document.place(layer.message.start),
        hint=f"leave it as it is with --thaw '^{escaped}$', or give the net's weights with --weights",
    )


def _stop_v2(edits: Edits, layer: TextLayer, count: int) -> list[str]:
    """V2: `lr_mult` in as many `param {}` blocks as there are blobs."""
    blocks = layer.body.messages("param")
    changed = added = 0
    for block in blocks:
        rates = block.scalars("lr_mult")
        changed += _zero(edits, rates)
        if not rates:
            edits.append_field(block, "lr_mult: 0")
            added += 1
    missing = max(0, count - len(blocks))
    for _ in range(missing):
        _insert(edits, layer.body, "param { lr_mult: 0 }", ("param",))
    return _told((changed, "lr_mult set to 0"), (added, "lr_mult: 0 added"), (missing, "param { lr_mult: 0 } added"))


def _stop_old(edits: Edits, layer: TextLayer, count: int) -> list[str]:
    """V1 and V0: one `blobs_lr` per blob."""
    rates = layer.body.scalars("blobs_lr")
    changed = _zero(edits, rates)
    missing = max(0, count - len(rates))
    for _ in range(missing):
        _insert(edits, layer.body, "blobs_lr: 0", ("blobs_lr",))
    return _told((changed, "blobs_lr set to 0"), (missing, "blobs_lr: 0 added"))


def _zero(edits: Edits, scalars: Sequence[Scalar]) -> int:
    changed = 0
    for scalar in scalars:
        if not _ZERO.fullmatch(scalar.raw):
            edits.replace(scalar, "0")
            changed += 1
    return changed


def _insert(edits: Edits, body: Message, text: str, after: tuple[str, ...]) -> None:
    """Insert a field behind the last field named in `after`, or else behind name, type, bottoms and tops."""
    anchors = _last(body, after) or _last(body, _BEFORE_PARAMS)
    edits.insert_field(body, text, after=anchors)


def _last(body: Message, names: tuple[str, ...]) -> Field | None:
    fields = [field for name in names for field in body.all(name)]
    return max(fields, key=lambda field: field.start, default=None)


def _set_flag(edits: Edits, body: Message, block: str, name: str) -> list[str]:
    """Make the boolean `block { name }` true."""
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


def _stop_dropout(edits: Edits, layer: TextLayer) -> list[str]:
    """`dropout_ratio: 0` keeps everything and scales by 1."""
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


def _told(*counts: tuple[int, str]) -> list[str]:
    return [f"{count} x {what}" for count, what in counts if count]
