"""Freezing layers of a net for one run, by the same rules as freezing them in its text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prototxt.decoding import decode
from prototxt.editing import Edits
from prototxt.encoding import to_text
from prototxt.errors import raise_all
from prototxt.freezing import Choice, freeze
from prototxt.outline import layers
from prototxt.parser import parse
from prototxt.places import place_of, remember

if TYPE_CHECKING:
    from prototxt.messages import NetParameter


def frozen(net: NetParameter, pattern: str) -> NetParameter:
    """The net with every layer frozen whose name the regular expression finds.

    Raises: RenameError for a pattern that finds nothing, a layer whose number of blobs is not known, or one that shares
    parameters with a layer that learns.
    """
    document = parse(to_text(net), "--freeze")
    found = layers(document.root)
    edits = Edits(document)
    raise_all(freeze(edits, found, Choice(pattern)).errors)
    changed: NetParameter = decode(edits.apply(), "NetParameter")
    result = type(net)()
    result.CopyFrom(net)
    for before, target, after in zip(net.layer, result.layer, changed.layer, strict=True):
        place = place_of(before)
        if before != after:
            target.CopyFrom(after)
        if place is not None:
            remember(target, place)
    return result
