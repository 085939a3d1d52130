"""Whether the sources' losses read the same label: of the same records, another part of them is another label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fusion.composition.data_layout import Layout
from fusion.composition.lists import Chosen
from fusion.composition.net_text import PHASES, Layer
from fusion.composition.preprocessing import parameters, stream
from fusion.composition.sources import PreparedSource
from fusion.composition.tasks import Aim
from fusion.errors import ComposeError, raise_all

_SAME_VALUES = ("Flatten", "Reshape", "Split")


@dataclass(frozen=True)
class OwnLabels:
    """What the sources' own losses read as their labels.

    loss   the type of the fused net's loss
    blobs  per prefix the blob, of sources that have a loss
    """

    loss: str
    blobs: Mapping[str, str]


def own_labels(aims: Sequence[Aim]) -> OwnLabels | None:
    """The labels that the sources agree on by having them; None where the user names labels."""
    (aim, *others) = aims
    if others or aim.loss.label is not None:
        return None
    labels = {prefix: item.label for prefix, item in aim.judges.items() if item.loss is not None}
    return OwnLabels(aim.loss.type, {prefix: label for prefix, label in labels.items() if label is not None})


def check_labels(parts: Sequence[PreparedSource], labels: OwnLabels, layout: Layout) -> None:
    """Check that the labels of the sources' own losses are one label, as far as their files tell.

    Raises: ComposeError where a source reads another part of the same records, or makes its label in another way.
    """
    main, own = layout.main.prefix, labels.blobs
    if main not in own:
        return
    mine = _origin(layout.main, own[main], layout.chosen)
    errors = []
    for part in parts:
        prefix, blob = part.prefix, own.get(part.prefix)
        if blob is None:
            continue
        theirs = _origin(part, blob, layout.chosen)
        if mine is None or theirs is None or mine == theirs or _records(mine) != _records(theirs):
            continue
        errors.append(
            ComposeError(
                f"the sources learn different labels of the same records: '{main}' learns "
                f"{_described(layout.main, own[main])}, and '{prefix}' learns {_described(part, blob)}",
                place=part.raw.document.name,
                hint=f"say which is meant: --loss {labels.loss},label={own[main]}, or that of '{prefix}' by "
                f"--data-from {prefix} --loss {labels.loss},label={blob}; data with both can have a --task for each",
            )
        )
    raise_all(errors)


def _described(part: PreparedSource, blob: str) -> str:
    """A label by its name, and by the last layer that makes it from what is read."""
    makers = [layer.name for layer in part.raw.layers if blob in layer.tops and not layer.is_data]
    return f"'{blob}'" + (f" as '{makers[-1]}' makes it" if makers else "")


def _origin(part: PreparedSource, blob: str, chosen: Chosen) -> tuple[object, ...] | None:
    """Where a label comes from: a top of a data layer, and what becomes of it; None where no data layer gives it."""
    for phase in PHASES:
        writers: dict[str, tuple[object, ...]] = {}
        for layer in part.raw.layers:
            if phase in layer.phases:
                writers.update(_made(part, layer, phase, chosen, writers))
        if blob in writers:
            return writers[blob]
    return None


def _made(
    part: PreparedSource, layer: Layer, phase: str, chosen: Chosen, known: Mapping[str, tuple[object, ...]]
) -> dict[str, tuple[object, ...]]:
    """The origin of each top of a layer, where that of all its bottoms is known."""
    if layer.is_data:
        streams = {top: stream(layer, top, chosen.source(part, layer, phase)) for top in layer.tops}
        return {top: ("data", item.records, item.top) for top, item in streams.items()}
    if not all(bottom in known for bottom in layer.bottoms):
        return {}
    read = tuple(known[bottom] for bottom in layer.bottoms)
    if layer.type in _SAME_VALUES and len(read) == 1:
        return dict.fromkeys(layer.tops, read[0])
    return {top: ("made", layer.type, parameters(layer), number, read) for number, top in enumerate(layer.tops)}


def _records(origin: tuple[object, ...]) -> frozenset[object]:
    """All records that a label is made from."""
    if origin[0] == "data":
        return frozenset((origin[1],))
    read = origin[-1]
    assert isinstance(read, tuple)
    return frozenset().union(*map(_records, read))
