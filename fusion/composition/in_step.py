"""Whether data layers that stand side by side give records that belong together: lists of the same labels in order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fusion.composition.data_layout import Layout
from fusion.composition.lists import OPTIONS, Lists
from fusion.composition.net_text import PHASES
from fusion.composition.recorded_labels import Labels, labels_in_image_list, labels_of
from fusion.composition.sources import PreparedSource
from fusion.errors import ComposeError, raise_all


@dataclass(frozen=True)
class _Reader:
    """A data layer in one phase, and the labels of its list where they can be read.

    prefix  of its source
    name    as it is named on the command line: `P` or `P/LAYER`
    spoken  whether the user named this list for it, or one for another layer of its source
    """

    prefix: str
    name: str
    path: str
    type: str
    labels: Labels | None
    spoken: bool
    of_main: bool = False

    @property
    def shown(self) -> str:
        return f"'{self.name}' {self.path}"


def check_steps(layout: Layout, classes: int | None) -> None:
    """Check that lists side by side belong together, and that there are labels of all classes.

    Adds notes and warnings. Raises: ComposeError where lists are not in step, or where nobody said that they are.
    """
    notes: list[str] = []
    errors: list[ComposeError] = []
    doubtful: dict[str, list[_Reader]] = {}
    reasons: list[str] = []
    for phase in PHASES:
        readers = _readers(layout, phase)
        if not readers:
            continue
        first, main = readers[0], _read_by_main(layout, phase)
        for other in readers[1:]:
            if not other.of_main and (other.type, other.path) in main:
                continue
            reason = _out_of_step(first, other)
            if reason and other.spoken:
                errors.append(_mismatch(first, other, phase, reason))
            elif other.spoken or (reason is None and _all_classes(first, classes)):
                notes.append(_in_step(first, other, phase))
                layout.unseen |= {(other.prefix, phase)} if reason == "" else set()
            else:
                doubtful.setdefault(phase, [first]).append(other)
                reasons += [reason] if reason else []
        if phase == "TRAIN":
            layout.warnings += _missing_classes(first, classes)
    raise_all(errors)
    if doubtful:
        raise _ask(layout, doubtful, reasons)
    layout.notes += notes


def check_image_lists(read: Sequence[tuple[PreparedSource, Lists]]) -> list[str]:
    """Notes on lists that were named for sources without data layers. Raises: ComposeError if they are out of step."""
    notes: list[str] = []
    errors: list[ComposeError] = []
    for phase in PHASES:
        first, *others = [_listed(part, lists, phase) for part, lists in read]
        for other in others:
            if other.path != first.path:
                reason = _out_of_step(first, other)
                errors += [_mismatch(first, other, phase, reason)] if reason else []
                notes.append(_in_step(first, other, phase))
    raise_all(errors)
    return notes


def _readers(layout: Layout, phase: str) -> list[_Reader]:
    """All that reads a list in a phase, the main source's first."""
    chosen, main = layout.chosen, layout.main
    found: list[_Reader] = []
    for copy in layout.copies:
        path = chosen.source(copy.part, copy.layer, phase)
        key = (copy.part.prefix, copy.layer.number, phase)
        if phase not in copy.layer.phases or path is None:
            continue
        if copy.part is main and found and not any((main.prefix, phase) == (key[0], key[2]) for key in chosen.spoken):
            continue
        several = len(
            {id(item.layer) for item in layout.copies if item.part is copy.part and phase in item.layer.phases}
        )
        name = copy.part.prefix if several == 1 else f"{copy.part.prefix}/{copy.layer.name}"
        labels = labels_of(copy.part, copy.layer, path)
        found.append(
            _Reader(
                key[0],
                name,
                path,
                copy.layer.type,
                labels,
                key in chosen.spoken or copy.part is main,
                copy.part is main,
            )
        )
    return found + [_listed(part, lists, phase) for part, lists in layout.listed]


def _read_by_main(layout: Layout, phase: str) -> set[tuple[str, str | None]]:
    """The main source's lists, with the types of its layers: they belong together as they are."""
    main = layout.main
    layers = [layer for layer in main.data_layers if phase in layer.phases]
    return {(layer.type, layout.chosen.source(main, layer, phase)) for layer in layers}


def _listed(part: PreparedSource, lists: Lists, phase: str) -> _Reader:
    path = lists.of(phase)[0] or ""
    return _Reader(part.prefix, part.prefix, path, "ImageData", labels_in_image_list(path), spoken=True)


def _out_of_step(one: _Reader, other: _Reader) -> str | None:
    """Why two lists do not hold the same labels in the same order, "" where that cannot be seen; None if they do."""
    if one.labels is None or other.labels is None:
        return ""
    if one.labels.records != other.labels.records:
        return f"{one.path} has {one.labels.records} records and {other.path} {other.labels.records}"
    for number, (mine, theirs) in enumerate(zip(one.labels.values, other.labels.values, strict=False), 1):
        if mine != theirs:
            return f"record {number} has the label {mine} in {one.path} and {theirs} in {other.path}"
    return None if one.labels.whole and other.labels.whole else ""


def _mismatch(one: _Reader, other: _Reader, phase: str, reason: str) -> ComposeError:
    return ComposeError(
        f"the lists of '{one.name}' and '{other.name}' are not in step in phase {phase}: {reason}",
        place=other.path,
        hint="lists side by side have a line for each record, with the same labels in the same order",
    )


def _in_step(one: _Reader, other: _Reader, phase: str) -> str:
    seen = "whether they have the same labels is not seen here"
    if one.labels and other.labels:
        looked_at = min(len(one.labels.values), len(other.labels.values))
        whole = one.labels.whole and other.labels.whole
        seen = "their labels are the same" if whole else f"the labels of the first {looked_at} records are the same"
    return f"data: in phase {phase} {other.shown} is read in step with {one.shown}; {seen}"


def _all_classes(reader: _Reader, classes: int | None) -> bool:
    return reader.labels is not None and (classes is None or len(set(reader.labels.values)) >= classes)


def _missing_classes(reader: _Reader, classes: int | None) -> list[str]:
    """A warning where a list does not hold all classes that the fused net is to learn."""
    if reader.labels is None or not reader.labels.whole or _all_classes(reader, classes):
        return []
    labels = sorted(set(reader.labels.values), key=lambda label: (len(label), label))
    shown = ", ".join(labels[:12]) + (", ..." if len(labels) > 12 else "")
    return [
        f"data: {reader.path} holds {len(labels)} of the {classes} classes ({shown}), so the others are never "
        "learnt; give a list with all classes (--train-list)"
    ]


def _ask(layout: Layout, doubtful: dict[str, list[_Reader]], reasons: Sequence[str]) -> ComposeError:
    """What to say where sources read different lists, and nobody said which is meant.

    reasons  why these lists cannot stand side by side, as far as that is seen
    """
    shown = "; ".join(f"{phase}: {', '.join(dict.fromkeys(reader.shown for reader in readers))}"
                      for phase, readers in doubtful.items())  # fmt: skip
    one = " ".join(f"{OPTIONS[phase]} FILE" for phase in doubtful)
    each = " ".join(_options(doubtful, as_they_are=not reasons))
    ways = [f"each its own, with the same labels in the same order: {each}"]
    if all(len({reader.type for reader in readers}) == 1 for readers in doubtful.values()):
        ways = [f"one list with all classes for all: {one}", *ways]
        ways.append(f"or all what one source reads: --data-from {layout.main.prefix}")
    seen = f" ({reasons[0]})" if reasons else ""
    return ComposeError(
        "the sources read different data, and a branch must not be fed by chance what it was not trained on: "
        f"{shown}{seen}",
        place=layout.main.raw.document.name,
        hint="; ".join(ways),
    )


def _options(doubtful: dict[str, list[_Reader]], *, as_they_are: bool) -> Iterable[str]:
    found = [
        f"{OPTIONS[phase]} {reader.name}={reader.path if as_they_are else 'FILE'}"
        for phase, readers in doubtful.items()
        for reader in readers
    ]
    return dict.fromkeys(found)
