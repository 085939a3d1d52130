"""Where the layers of a decoded net stand in their file.

Messages carry neither lines nor attributes, so a table keyed by a layer's content does: a copy of a layer, in a
filtered net for instance, is found as well. The table is bounded; the oldest entries go first.
"""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b

from google.protobuf.message import Message

from prototxt.errors import Place

LIMIT = 100_000

_places: OrderedDict[bytes, Place] = OrderedDict()


def remember(layer: Message, place: Place) -> None:
    """Keep the layer's place. Of two layers with equal content, the one remembered last is known."""
    key = _key(layer)
    _places[key] = place
    _places.move_to_end(key)
    if len(_places) > LIMIT:
        _places.popitem(last=False)


def place_of(layer: Message) -> Place | None:
    """Where the layer stands in its file, None for a layer that came from elsewhere or was changed since."""
    return _places.get(_key(layer))


def _key(layer: Message) -> bytes:
    return blake2b(layer.SerializePartialToString(), digest_size=16).digest()
