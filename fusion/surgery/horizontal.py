"""Branches of one architecture as one branch with grouped convolutions: the same numbers from fewer, larger layers.

    outcome = fuse_horizontally(parse_file("deploy.prototxt"), read_weights("fused.caffemodel"), ["odd", "even"])

One blob has the channels of all branches. A convolution of each becomes one with as many groups, a dense layer a
grouped convolution whose kernel covers its bottom; pooling and activations become one layer. Where that is not exact
(LRN across channels, Softmax, settings that differ), blobs are sliced, the layers are not changed, and their tops are
joined again. The result is plain Caffe. Source of the idea: HFTA (Wang et al. 2021), here for frozen branches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusion.errors import FusionError
from fusion.surgery.matching_layers import LayerGroup, group_layers
from fusion.surgery.result import SurgeryResult, Weights
from fusion.surgery.stack_params import Stacked, dense_as_convolution, stack
from fusion.surgery.text_layers import deploy_net
from prototxt.schema.encode import to_text
from prototxt.schema.filter import filter_net
from prototxt.schema.messages import LayerParameter
from prototxt.schema.shared_memory import check_unshared
from prototxt.shapes import UNKNOWN, Shape, infer
from prototxt.text.parser import parse
from prototxt.text.tree import Document

Array = NDArray[Any]
Key = tuple[str, ...]


@dataclass
class _Draft:
    """The fused net under construction.

    shapes    of the blobs of the original net
    joined    the blobs of all branches -> the blob with the channels of all, while that is up to date
    groups    blob of a branch -> the key in `joined`
    separate  blobs of branches that exist as single blobs and are up to date
    """

    layers: Sequence[LayerParameter]
    weights: Weights
    shapes: Mapping[str, Shape]
    prefixes: Sequence[str]
    dense: bool
    pieces: list[LayerParameter] = field(default_factory=list)
    blobs: dict[str, Sequence[Array]] = field(default_factory=dict)
    joined: dict[Key, str] = field(default_factory=dict)
    groups: dict[str, Key] = field(default_factory=dict)
    separate: set[str] = field(default_factory=set)
    used_names: set[str] = field(default_factory=set)
    changed: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)


def fuse_horizontally(
    document: Document,
    weights: Weights,
    prefixes: Sequence[str],
    inputs: Mapping[str, Sequence[int]] | None = None,
    *,
    dense: bool = False,
) -> SurgeryResult:
    """Fuse the branches with these prefixes; list the layers that must stay separate with the reason.

    document  a deploy net in today's syntax
    weights   layer name -> blobs in Caffe's order
    inputs    shapes of inputs that the net does not have
    dense     convert dense layers to grouped convolutions too; large ones are slower as such on CPUs
    Raises: FusionError for a net with phase rules, fewer than two prefixes, or branches that have nothing in common;
            ShapeError for the net itself.
    """
    if len(set(prefixes)) < 2:
        raise FusionError("there is nothing to fuse side by side", hint="give two prefixes or more: odd even")
    net = deploy_net(document, "fused horizontally")
    check_unshared(net, "fusing horizontally")
    shapes = infer(filter_net(net, phase="TEST"), inputs, unknown="ignore").blobs
    draft = _Draft(list(net.layer), weights, shapes, prefixes, dense)
    draft.used_names.update(blob for layer in net.layer for blob in (layer.name, *layer.top))
    for unit in group_layers(draft.layers, prefixes):
        if len(unit.members) == 1 or not _emit_joined(draft, unit):
            for index in unit.members:
                _emit_single(draft, draft.layers[index])
    outputs = _outputs(draft.layers)
    for blob in outputs:
        _split(draft, blob)
    _silence(draft, [blob for blob in _outputs(draft.pieces) if blob not in outputs])
    fused = deepcopy(net)
    del fused.layer[:]
    fused.layer.extend(draft.pieces)
    kept = tuple(name for name in draft.blobs if name in weights)
    dropped = tuple(name for name in weights if name not in draft.blobs)
    text = f"# Branches {', '.join(prefixes)} side by side, as groups.\n{to_text(fused)}"
    return SurgeryResult(parse(text, document.name), draft.blobs, kept, draft.changed, dropped, draft.reasons)


def _outputs(layers: Sequence[LayerParameter]) -> list[str]:
    """Return the net's outputs: the blobs that no layer reads."""
    unread: dict[str, None] = {}
    for layer in layers:
        for blob in layer.bottom:
            unread.pop(blob, None)
        unread.update(dict.fromkeys(layer.top))
    return list(unread)


def _emit_joined(draft: _Draft, unit: LayerGroup) -> bool:
    """Emit one layer for all members, if that is exact; join its bottoms before it where needed."""
    members = [draft.layers[index] for index in unit.members]
    first = members[0]
    keys = [tuple(blobs) for blobs in zip(*(layer.bottom for layer in members), strict=True)]
    tops = tuple(layer.top[0] for layer in members) if len(first.top) == 1 else ()
    shared = len(keys) == 1 and len(set(keys[0])) == 1
    # In place on blobs that also exist separately, one layer would leave the separate ones unchanged.
    if any(layer.top[0] in layer.bottom for layer in members if layer.top) and not _fresh(draft, keys[0]):
        return False
    stacked, reason = _stacked(draft, members, keys, shared)
    if stacked is None or not tops:
        draft.reasons[", ".join(layer.name for layer in members)] = reason
        return False
    layer, arrays = stacked
    name = _new(draft, _name_for_all(draft, first.name))
    bottoms = [key[0] for key in keys] if shared else [_join(draft, key) for key in keys]
    in_place = first.top[0] in first.bottom
    top = bottoms[list(first.bottom).index(first.top[0])] if in_place else _new_blob(draft, tops, name)
    # A grouped convolution reads maps, and its top must have the two axes of a dense layer's again.
    convolved = first.type == "InnerProduct" and layer.type == "Convolution"
    if convolved and len(draft.shapes[keys[0][0]]) == 2:
        bottoms = [_add(draft, f"{name}_map", "Reshape", bottoms, reshape=(0, -1, 1, 1))]
    layer.name = name
    del layer.bottom[:], layer.top[:]
    layer.bottom.extend(bottoms)
    layer.top.append(f"{name}_out" if convolved else top)
    draft.pieces.append(layer)
    if convolved:
        _add(draft, f"{name}_flat", "Flatten", [f"{name}_out"], top=top)
    if arrays:
        draft.blobs[name] = arrays
    draft.changed[name] = f"{len(members)} {first.type} layers" + (", as grouped convolution" if convolved else "")
    _set_joined(draft, tops, top)
    return True


def _stacked(
    draft: _Draft, members: Sequence[LayerParameter], keys: Sequence[Key], shared: bool
) -> tuple[Stacked | None, str]:
    """Return the layer that replaces all members, or the reason why there is none."""
    first = members[0]
    # Each bottom must be one blob for all members or a different one for each, and all bottoms alike.
    if any(len(set(key)) not in (1, len(key)) for key in keys) or (not shared and any(len(set(k)) == 1 for k in keys)):
        return None, "only some of the branches read a common blob"
    shapes = {key: [draft.shapes[blob] for blob in key] for key in keys}
    if any(len(set(known)) > 1 or known[0] is UNKNOWN for known in shapes.values()):
        return None, "the branches' shapes differ or are not known"
    blobs = [draft.weights.get(layer.name, []) for layer in members]
    if len({tuple(np.shape(blob) for blob in own) for own in blobs}) > 1:
        return None, "the branches' weights have different shapes"
    if first.type == "InnerProduct" and not shared and blobs[0]:
        if not draft.dense:
            return None, "dense layers with separate bottoms stay separate without --dense"
        found = dense_as_convolution(first, blobs, shapes[keys[0]][0])
    else:
        found = stack(first, blobs, shared=shared)
    return found, f"one {first.type} layer cannot replace several with these settings"


def _emit_single(draft: _Draft, layer: LayerParameter) -> None:
    """Emit an unchanged layer; a Concat of all branches reads their joined blob."""
    copy = deepcopy(layer)
    del copy.bottom[:]
    bottoms = list(layer.bottom)
    while bottoms:
        key = draft.groups.get(bottoms[0])
        if layer.type == "Concat" and layer.concat_param.axis == 1 and key == tuple(bottoms[: len(key or ())]):
            copy.bottom.append(draft.joined[key])
            bottoms = bottoms[len(key) :]
        else:
            copy.bottom.append(_split(draft, bottoms.pop(0)))
    draft.pieces.append(copy)
    if layer.name in draft.weights:
        draft.blobs[layer.name] = draft.weights[layer.name]
    for top in layer.top:  # written again: the joined blob has the old values
        key = draft.groups.pop(top, None)
        if key is not None:
            draft.joined.pop(key, None)
        draft.separate.add(top)


def _fresh(draft: _Draft, key: Key) -> bool:
    """Return whether the blobs exist joined only, so that changing them in place leaves no stale copy."""
    return key in draft.joined and not draft.separate.intersection(key)


def _join(draft: _Draft, key: Key) -> str:
    """Return the blob with the channels of all branches; emit a Concat if there is none yet."""
    if key not in draft.joined:
        blobs = [_split(draft, blob) for blob in key]
        name = _new(draft, f"{_name_for_all(draft, key[0])}_joined")
        draft.joined[key] = _add(draft, name, "Concat", blobs)
        draft.groups.update(dict.fromkeys(key, key))
    return draft.joined[key]


def _split(draft: _Draft, blob: str) -> str:
    """Return the blob of one branch; emit a Slice if only the joined one exists."""
    key = draft.groups.get(blob)
    if key is not None and blob not in draft.separate:
        name = _new(draft, f"{draft.joined[key]}_slice")
        layer = LayerParameter(name=name, type="Slice", bottom=[draft.joined[key]], top=list(key))
        layer.slice_param.axis = 1
        draft.pieces.append(layer)
        draft.separate.update(key)
    return blob


def _silence(draft: _Draft, blobs: Sequence[str]) -> None:
    """Read the tops of Slice layers that nothing else reads, so that they are no outputs of the net."""
    if blobs:
        draft.pieces.append(LayerParameter(name=_new(draft, "unread"), type="Silence", bottom=blobs))


def _set_joined(draft: _Draft, tops: Key, joined: str) -> None:
    """Record that the tops now exist joined only."""
    draft.joined[tops] = joined
    draft.groups.update(dict.fromkeys(tops, tops))
    draft.separate.difference_update(tops)


def _add(
    draft: _Draft, name: str, kind: str, bottoms: Sequence[str], top: str = "", reshape: Sequence[int] = ()
) -> str:
    layer = LayerParameter(name=name, type=kind, bottom=bottoms, top=[top or name])
    if reshape:
        layer.reshape_param.shape.dim.extend(reshape)
    draft.pieces.append(layer)
    return top or name


def _new_blob(draft: _Draft, tops: Key, name: str) -> str:
    if tops[0].rpartition("/")[2] == name.rpartition("/")[2]:
        return name  # Caffe's custom: a layer's only top has its name
    return _new(draft, _name_for_all(draft, tops[0]))


def _name_for_all(draft: _Draft, name: str) -> str:
    """Return the name under all prefixes of a layer or blob of the first branch."""
    return f"{'+'.join(draft.prefixes)}/{name.removeprefix(f'{draft.prefixes[0]}/')}"


def _new(draft: _Draft, name: str) -> str:
    while name in draft.used_names:
        name += "_"
    draft.used_names.add(name)
    return name
