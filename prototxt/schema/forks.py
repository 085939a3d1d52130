"""Fields that forks of Caffe add to its messages, and unknown fields: both are kept inside the message.

    fields(layer).permute_param.order       # a field of the SSD fork, empty where the layer has none
    unknown(layer)                          # [("my_param", "{ a: 1 }")]: fields of no known fork, as text

The fields of forks are typed (fork_messages) and kept in extension 20000 of Caffe's message; unknown ones are kept in
protobuf's own store of unknown fields. Caffe skips both in a binary file, so neither can clash with its numbers.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from prototxt.schema import fork_messages
from prototxt.sniff.protobuf_wire import LENGTH, length_field

EXTENSION = 20000
UNKNOWN = 20001

_EXTENSIONS: dict[str, Any] = {
    extension.containing_type.full_name: extension
    for extension in fork_messages.DESCRIPTOR.extensions_by_name.values()
    if extension.containing_type is not None
}


def extension_of(descriptor: Any) -> Any:
    """Return the extension with the forks' fields of this message type, None if no fork adds any."""
    return _EXTENSIONS.get(descriptor.full_name)


def fields(message: Message) -> Any:
    """Return the forks' fields of a message, empty if it has none. Changes of the returned message are kept.

    Raises: TypeError for a message type that no fork extends.
    """
    extension = extension_of(message.DESCRIPTOR)
    if extension is None:
        raise TypeError(f"no fork extends {message.DESCRIPTOR.name}")
    return message.Extensions[extension]


def has_fields(message: Message) -> bool:
    """Return whether the message itself, not its submessages, has fields of a fork."""
    extension = extension_of(message.DESCRIPTOR)
    return extension is not None and bool(message.HasExtension(extension))


def keep_unknown(message: Message, name: str, text: str) -> None:
    """Keep a field that no schema knows: its name and the text of its value, `: 1` or `{ ... }`."""
    content = fork_messages.UnknownField(name=name, text=text).SerializeToString()
    message.MergeFromString(length_field(UNKNOWN, content))


def unknown(message: Message) -> list[tuple[str, str]]:
    """Return the unknown fields kept in the message itself: names and value texts."""
    kept = []
    for field in cast("Iterable[Any]", UnknownFieldSet(message)):
        if field.field_number == UNKNOWN and field.wire_type == LENGTH:
            content = fork_messages.UnknownField.FromString(field.data)
            kept.append((content.name, content.text))
    return kept
