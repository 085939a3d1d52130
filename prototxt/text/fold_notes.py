"""Notes about many layers, folded to one line per kind: a net has hundreds of layers that share most notes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

SHOWN = 4


def fold_notes(found: Iterable[tuple[str, str]]) -> list[str]:
    """Fold pairs (kind, layer name) to one line per kind: "layer 'a', 'b' and 12 more: kind"."""
    kinds: dict[str, list[str]] = {}
    for kind, name in found:
        kinds.setdefault(kind, []).append(name)
    return [f"layer {some_names(names)}: {kind}" for kind, names in kinds.items()]


def some_names(names: Sequence[str]) -> str:
    """Return the first names in quotes, and the number of the others."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(f"'{name}'" for name in names[:SHOWN]) + more
