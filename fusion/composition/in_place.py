"""Data that a branch changes in place: it gets a copy of its own where others read the same blob."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fusion.composition.net_text import layer_text
from fusion.composition.sources import PreparedSource

Feeds = Mapping[str, Mapping[str, str]]


def copies(
    parts: Sequence[PreparedSource], feeds: Feeds, origins: Mapping[str, str], labels: Sequence[str]
) -> dict[str, dict[str, str]]:
    """Return per prefix the fed blobs that its branch changes in place while another branch or a label needs them.

    feeds    per prefix: the source's input blob -> the fused net's blob
    origins  blobs that layers at the front of branches make, and what these are made from
    labels   blobs that losses and the layers of labels read
    Returns  prefix -> fed blob -> the name of its copy
    """
    read = [(part.prefix, origins.get(blob, blob)) for part in parts for blob in feeds[part.prefix].values()]
    readers: dict[str, set[str]] = {}
    for prefix, blob in [*read, *(("", label) for label in labels)]:
        readers.setdefault(blob, set()).add(prefix)
    found: dict[str, dict[str, str]] = {}
    for part in parts:
        own = [layer for layer in part.net.layers if layer.number in part.branch.layers | part.classifier]
        written = {top for layer in own for top in layer.tops}
        names = written | {layer.name for layer in own} | set(origins)
        for blob, fed in feeds[part.prefix].items():
            if blob in written and fed not in origins and len(readers[fed]) > 1:
                name = f"{part.prefix}/{blob.removeprefix(part.prefix + '/')}_copy"
                while name in names:
                    name += "_"
                found.setdefault(part.prefix, {})[fed] = name
    return found


def copy_layers(copied: Mapping[str, str]) -> list[str]:
    """Return the layers that make the copies: a Power that changes nothing (a Split would share the memory)."""
    comment = "A copy, which the branch changes in place."
    return [layer_text(name, "Power", [blob], [name], comment=comment) for blob, name in copied.items()]
