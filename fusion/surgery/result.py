"""The result of an operation on a net and its weights, with lists of the kept, changed, dropped and skipped layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from numpy.typing import NDArray

from prototxt.text.tree import Document

Weights: TypeAlias = "Mapping[str, Sequence[NDArray[Any]]]"


@dataclass(frozen=True)
class SurgeryResult:
    """A net's text (None where it is unchanged) and its weights.

    kept        layers whose weights are unchanged
    changed     layer -> the change
    dropped     layers that are gone, or whose weights are
    mismatched  layer -> why it was not changed
    """

    document: Document | None
    weights: dict[str, Sequence[NDArray[Any]]]
    kept: tuple[str, ...] = ()
    changed: dict[str, str] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    mismatched: dict[str, str] = field(default_factory=dict)

    def listing(self) -> str:
        """Return one line per list, and per layer that was changed or left alone."""
        lines = [f"kept: {', '.join(self.kept) or 'none'}"]
        lines += [] if self.changed or self.dropped else ["changed: none"]
        lines += [f"changed: {name}: {change}" for name, change in self.changed.items()]
        lines += [f"dropped: {', '.join(self.dropped)}"] if self.dropped else []
        lines += [f"left alone: {name}: {why}" for name, why in self.mismatched.items()]
        return "\n".join(lines)

    def to_json(self) -> dict[str, object]:
        """Return the listing as a JSON object."""
        return {
            "kept": list(self.kept),
            "changed": self.changed,
            "dropped": list(self.dropped),
            "mismatched": self.mismatched,
        }
