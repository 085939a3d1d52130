"""The learning rates of a net's layers for one run: layers frozen, thawed, and learning at another rate."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from fusion.errors import TrainingError
from prototxt.edit.freeze import FreezePatterns, freeze
from prototxt.edit.layer_view import text_layers
from prototxt.errors import raise_all
from prototxt.schema.decode import decode
from prototxt.schema.encode import to_text
from prototxt.schema.params import param_count
from prototxt.text.edits import Edits
from prototxt.text.parser import parse
from prototxt.text.source_places import place_of, remember

if TYPE_CHECKING:
    from prototxt.schema.messages import LayerParameter, NetParameter


def freeze_layers(net: NetParameter, pattern: str) -> NetParameter:
    """Return the net with every layer frozen whose name the regular expression finds.

    Raises: RenameError for a pattern that finds nothing, a layer whose number of blobs is unknown, or one that shares
    parameters with a layer that learns.
    """
    document = parse(to_text(net), "--freeze")
    found = text_layers(document.root)
    edits = Edits(document)
    raise_all(freeze(edits, found, FreezePatterns(pattern)).errors)
    changed: NetParameter = decode(edits.apply(), "NetParameter")
    result = type(net)()
    result.CopyFrom(net)
    for target, after in zip(result.layer, changed.layer, strict=True):
        if target != after:
            _replace(target, after)
    return result


def thaw_layers(net: NetParameter, pattern: str) -> tuple[NetParameter, frozenset[str]]:
    """Return the net with the frozen layers learning at the solver's rate whose name the regular expression finds.

    A BatchNorm continues to use its stored statistics, and a Dropout that freezing switched off stays off.

    Returns also the names of the thawed layers.
    Raises: TrainingError for a pattern that finds no frozen layer.
    """
    result, thawed = type(net)(), set()
    result.CopyFrom(net)
    for layer in _found(result, pattern, "--thaw"):
        after = type(layer)()
        after.CopyFrom(layer)
        for spec in after.param[_first_learned(layer) :]:
            spec.lr_mult = spec.lr_mult or 1.0
        if layer.type == "Onnx":
            after.onnx_param.frozen = False
        if after != layer:
            thawed.add(layer.name)
            _replace(layer, after)
    if not thawed:
        raise TrainingError(f"--thaw {pattern}: none of the layers that it finds is frozen", hint="leave it out")
    return result, frozenset(thawed)


def multiply_rates(net: NetParameter, text: str) -> NetParameter:
    """Return the net with the learning rates of layers multiplied: `REGEX=FACTOR`, such as `odd/=0.1`.

    Raises: TrainingError for a factor that is no number, and for a pattern that finds no layer that learns.
    """
    pattern, equals, factor = text.rpartition("=")
    try:
        value = float(factor)
    except ValueError:
        value = math.nan
    if not equals or not 0 <= value < math.inf:
        raise TrainingError(f"--lr-mult {text}: expected REGEX=FACTOR, from 0", hint="e.g. --lr-mult odd/=0.1")
    result = type(net)()
    result.CopyFrom(net)
    learning = False
    for layer in _found(result, pattern, "--lr-mult"):
        after = type(layer)()
        after.CopyFrom(layer)
        first, count = _first_learned(layer), param_count(layer.type, layer) or 0
        for _ in range(len(layer.param), count if count > first else 0):
            after.param.add()
        for spec in after.param[first:]:
            learning |= spec.lr_mult > 0
            spec.lr_mult *= value
        _replace(layer, after)
    if not learning:
        raise TrainingError(
            f"--lr-mult {text}: none of the layers that it finds learns", hint="thaw them: --thaw REGEX"
        )
    return result


def layers_found(nets: Sequence[NetParameter], pattern: str, option: str) -> None:
    """Check that a regular expression finds a layer of one of the nets. Raises: TrainingError."""
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise TrainingError(f"{option} {pattern}: no regular expression: {error}") from None
    names = [layer.name for net in nets for layer in net.layer if layer.bottom]
    if not any(expression.search(name) for name in names):
        hint = f"the layers are {', '.join(dict.fromkeys(names))[:300]}"
        raise TrainingError(f"{option} {pattern}: no layer's name matches", hint=hint)


def _found(net: NetParameter, pattern: str, option: str) -> Collection[LayerParameter]:
    layers_found([net], pattern, option)
    return [layer for layer in net.layer if layer.bottom and re.search(pattern, layer.name)]


def _first_learned(layer: LayerParameter) -> int:
    """Return the index of the first blob that learns; no gradient changes the three statistics of a BatchNorm."""
    return 3 if layer.type == "BatchNorm" else 0


def _replace(layer: LayerParameter, other: LayerParameter) -> None:
    """Change a layer in place; later errors name the lines of the original text."""
    place = place_of(layer)
    layer.CopyFrom(other)
    if place is not None:
        remember(layer, place)
