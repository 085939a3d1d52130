"""What forks of Caffe add to its messages, and what nobody knows: both ride in the message and get lost nowhere.

    fields(layer).permute_param.order       # a field of the SSD fork, empty where the layer has none
    unknown(layer)                          # [("my_param", "{ a: 1 }")]: fields of no known fork, as text

A fork's fields are typed (fork_messages) and sit in extension 20000 of Caffe's message; unknown ones sit in protobuf's
own store of unknown fields. Caffe skips both when it reads a binary file, so neither can clash with its numbers.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from prototxt.schema import fork_messages

EXTENSION = 20000
UNKNOWN = 20001
_LENGTH_DELIMITED = 2

_EXTENSIONS: dict[str, Any] = {
    extension.containing_type.full_name: extension
    for extension in fork_messages.DESCRIPTOR.extensions_by_name.values()
    if extension.containing_type is not None
}


def extension_of(descriptor: Any) -> Any:
    """The extension that holds the forks' fields of this message type, None where no fork adds any."""
    return _EXTENSIONS.get(descriptor.full_name)


def fields(message: Message) -> Any:
    """The forks' fields of a message; empty where it has none. Changes to it are kept.

    Raises: TypeError for a message type that no fork extends.
    """
    extension = extension_of(message.DESCRIPTOR)
    if extension is None:
        raise TypeError(f"no fork extends {message.DESCRIPTOR.name}")
    return message.Extensions[extension]


def has_fields(message: Message) -> bool:
    """Whether the message itself (not the ones in it) holds fields of a fork."""
    extension = extension_of(message.DESCRIPTOR)
    return extension is not None and bool(message.HasExtension(extension))


def keep_unknown(message: Message, name: str, text: str) -> None:
    """Keep a field that no schema knows: its name and the text of its value, `: 1` or `{ ... }`."""
    content = fork_messages.UnknownField(name=name, text=text).SerializeToString()
    message.MergeFromString(_tag(UNKNOWN << 3 | _LENGTH_DELIMITED) + _tag(len(content)) + content)


def unknown(message: Message) -> list[tuple[str, str]]:
    """The kept unknown fields of the message itself: names, and the texts of the values."""
    kept = []
    for field in cast("Iterable[Any]", UnknownFieldSet(message)):
        if field.field_number == UNKNOWN and field.wire_type == _LENGTH_DELIMITED:
            content = fork_messages.UnknownField.FromString(field.data)
            kept.append((content.name, content.text))
    return kept


def _tag(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
