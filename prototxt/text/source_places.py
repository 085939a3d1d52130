"""The places of a decoded net's layers in their file.

Protobuf messages carry neither lines nor attributes, so a table keyed by the layer's content does: it also finds
copies of a layer, for instance in a filtered net. The table is bounded; the oldest entries are dropped first.
"""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b

from google.protobuf.message import Message

from prototxt.errors import Place

LIMIT = 100_000

_places: OrderedDict[bytes, Place] = OrderedDict()


def remember(layer: Message, place: Place) -> None:
    """Record the layer's place; of two layers with equal content the last one is kept."""
    key = _key(layer)
    _places[key] = place
    _places.move_to_end(key)
    if len(_places) > LIMIT:
        _places.popitem(last=False)


def place_of(layer: Message) -> Place | None:
    """Return the layer's place in its file, None for a layer from elsewhere or changed since."""
    return _places.get(_key(layer))


def _key(layer: Message) -> bytes:
    return blake2b(layer.SerializePartialToString(), digest_size=16).digest()
