"""A net's layers in the text and as messages, for the operations that edit both."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fusion.errors import FusionError
from prototxt.schema.duplicate_names import check_layer_names
from prototxt.schema.load import load_net
from prototxt.schema.messages import LayerParameter, NetParameter
from prototxt.text.tree import Document, Field, Message

_DEPLOY = "make its deploy form first: fusion-convert NET.prototxt OUT.prototxt --deploy"


@dataclass(frozen=True)
class NetLayer:
    """A layer's field in the text, and its message."""

    field: Field
    message: LayerParameter

    @property
    def body(self) -> Message:
        """Return the text between the layer's braces."""
        return body_of(self.field)


def body_of(field: Field) -> Message:
    """Return the content of a field in braces."""
    value = field.values[0]
    assert isinstance(value, Message)
    return value


def net_layers(document: Document, net: NetParameter) -> list[NetLayer]:
    """Return the layers of the text; `net`, loaded from it, may have more: loading adds those of `input` fields.

    Raises: FusionError for a text in old syntax (`layers`), whose messages loading has changed.
    """
    fields = document.root.all("layer")
    if not fields or document.root.all("layers"):
        raise FusionError("this is no net in today's syntax", place=document.name, hint=_DEPLOY)
    return [NetLayer(*pair) for pair in zip(fields, list(net.layer)[len(net.layer) - len(fields) :], strict=True)]


def deploy_net(document: Document, action: str) -> NetParameter:
    """Load a net without phase rules. Raises: FusionError; `action` ends "cannot be ..."."""
    net = load_net(document)
    check_layer_names(net)
    if any(layer.include or layer.exclude for layer in net.layer):
        raise FusionError(f"a net with phases cannot be {action}", place=document.name, hint=_DEPLOY)
    return net


def name_pattern(text: str, examples: str) -> re.Pattern[str]:
    """Compile a regular expression for layer names. Raises: FusionError with `examples` if it is invalid."""
    try:
        return re.compile(text)
    except re.error as error:
        raise FusionError(f"'{text}' is no regular expression: {error}", hint=f"e.g. {examples}") from error
