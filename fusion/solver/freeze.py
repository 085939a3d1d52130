"""Freezing of a net's layers for one run, by the same rules as in its text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prototxt.edit.freeze import FreezePatterns, freeze
from prototxt.edit.layer_view import text_layers
from prototxt.errors import raise_all
from prototxt.schema.decode import decode
from prototxt.schema.encode import to_text
from prototxt.text.edits import Edits
from prototxt.text.parser import parse
from prototxt.text.source_places import place_of, remember

if TYPE_CHECKING:
    from prototxt.schema.messages import NetParameter


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
    for before, target, after in zip(net.layer, result.layer, changed.layer, strict=True):
        place = place_of(before)
        if before != after:
            target.CopyFrom(after)
        if place is not None:
            remember(target, place)  # later errors name lines of the original text
    return result
