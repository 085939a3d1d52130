"""Whether one list for all sources is right for all: where they read different ones, it may hold those of one alone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from fusion.composition.lists import OPTIONS, Chosen, names_in_list
from fusion.composition.net_text import PHASES, Layer
from fusion.composition.preprocessing import list_and_batch
from fusion.composition.sources import PreparedSource
from fusion.errors import ComposeError, raise_all


@dataclass(frozen=True)
class _Replaced:
    """A data layer, its own list and what it reads, which nobody named for this layer or its source.

    shares  whether the two lists share records; None where that cannot be seen
    """

    part: PreparedSource
    own: str
    path: str
    shares: bool | None

    @property
    def shown(self) -> str:
        return f"'{self.part.prefix}' ({self.own})"


def check_replaced(parts: Sequence[PreparedSource], chosen: Chosen) -> list[str]:
    """Return a note for each phase where sources of different lists now read one, and nothing shows that it is right.

    Raises: ComposeError where that list holds records of one source's own list and none of another's.
    """
    notes: list[str] = []
    errors: list[ComposeError] = []
    for phase in PHASES:
        replaced = [
            item
            for part in parts
            for layer in part.data_layers
            if (item := _replaced(part, layer, phase, chosen)) is not None
        ]
        if len({os.path.normpath(item.own) for item in replaced}) < 2:
            continue
        strange = [item for item in replaced if not item.shares]
        known = [item for item in replaced if item.shares]
        without = [item for item in strange if item.shares is False]
        if known and without and chosen.lists.of(phase)[0] is not None:
            errors += [_error(item, known[0], phase) for item in without]
        elif strange:
            shown = " and ".join(dict.fromkeys(item.shown for item in strange))
            reads = "reads" if len({item.part.prefix for item in strange}) == 1 else "read"
            notes.append(f"data: in phase {phase} {shown} {reads} {strange[0].path} instead of its own list; "
                         f"see that it holds what each was trained on, or say {OPTIONS[phase]} P=FILE")  # fmt: skip
    raise_all(errors)
    return notes


def _replaced(part: PreparedSource, layer: Layer, phase: str, chosen: Chosen) -> _Replaced | None:
    """What a layer reads for its own list, which may be the same; None where the user named it for this layer."""
    key = (part.prefix, layer.number, phase)
    path, own = chosen.source(part, layer, phase), list_and_batch(layer)[0]
    if phase not in layer.phases or path is None or own is None or key in chosen.spoken:
        return None
    mine, given = names_in_list(layer.type, own), names_in_list(layer.type, path)
    same = os.path.normpath(own) == os.path.normpath(path)
    return _Replaced(part, own, path, True if same else bool(mine & given) if mine and given else None)


def _error(item: _Replaced, known: _Replaced, phase: str) -> ComposeError:
    p, option = item.part.prefix, OPTIONS[phase]
    return ComposeError(
        f"in phase {phase} all are to read {item.path}, which holds records that '{known.part.prefix}' was trained on, "
        f"and none of {item.own}, which '{p}' was trained on",
        place=item.part.raw.document.name,
        hint=f"give a list with the records of all, or one for each: {option} {known.part.prefix}={item.path} "
        f"{option} {p}={item.own} (or {p}={item.path}, if '{p}' is to read it all the same)",
    )
