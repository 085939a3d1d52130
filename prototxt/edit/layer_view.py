"""A uniform view of the layers in a net's text of any version: V0 (nested), V1 (enums) and V2.

It gives the editing modules the roles of names (layers, blobs, outside blobs); nothing is decoded, so fields that no
schema knows do no harm.
"""

from __future__ import annotations

from typing import NamedTuple

from prototxt.schema.params import makes_data, modern_type
from prototxt.text.tree import Document, Message, Scalar

NET_FIELDS = ("net_param", "train_net_param", "test_net_param")  # a solver may hold its nets in its own text


class TextLayer(NamedTuple):
    """One layer of a text.

    message  the block with `bottom` and `top`
    body     the block with `name`, `type` and parameters: the same, or V0's inner block
    version  0, 1 or 2: its syntax
    name     "" if it has none
    type     the current name of its type, "" if it has none
    """

    message: Message
    body: Message
    version: int
    name: str
    type: str

    @property
    def bottoms(self) -> list[Scalar]:
        """Return the names of its inputs, as scalars of the text."""
        return self.message.scalars("bottom")

    @property
    def tops(self) -> list[Scalar]:
        """Return the names of its outputs, as scalars of the text."""
        return self.message.scalars("top")

    @property
    def is_data(self) -> bool:
        """Return whether it is a data source."""
        return makes_data(self.type, len(self.bottoms))


def text_nets(document: Document) -> list[Message]:
    """Return the nets of a text: itself, or those inside a solver."""
    root = document.root
    inner = [net for name in NET_FIELDS for net in root.messages(name)]
    return inner if inner and not (root.messages("layer") or root.messages("layers")) else [root, *inner]


def text_layers(net: Message) -> list[TextLayer]:
    """Return the layers of a net, of all phases, in text order."""
    found = [_layer(message, 2) for message in net.messages("layer")]
    found += [_layer(message, 1) for message in net.messages("layers")]
    return sorted(found, key=lambda layer: layer.message.start)


def outside_blobs(net: Message, of: list[TextLayer]) -> set[str]:
    """Return the names of the blobs from outside: the net's inputs and the tops of its data layers."""
    return {scalar.value for scalar in net.scalars("input")} | {
        top.value for layer in of if layer.is_data for top in layer.tops
    }


def _layer(message: Message, version: int) -> TextLayer:
    inner = message.messages("layer") if version == 1 else []
    body = inner[-1] if inner else message
    type_name = modern_type(body.string("type") or "")
    return TextLayer(message, body, 0 if inner else version, body.string("name") or "", type_name)
