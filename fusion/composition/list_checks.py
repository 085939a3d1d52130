"""Checks that data layers side by side read lists that belong together: the same labels in the same order."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from fusion.composition.data_layers import DataLayout
from fusion.composition.lists import OPTIONS, DataLists, ListChoice, labels_in_list, names_in_list
from fusion.composition.net_text import PHASES, LayerText
from fusion.composition.prepared_source import PreparedSource
from fusion.composition.preprocessing import PARAMS, list_and_batch
from fusion.data.image_list import LABEL
from fusion.errors import ComposeError, DataError, raise_all


@dataclass(frozen=True)
class _ListReader:
    """A data layer in one phase, and the labels of its list where they can be read.

    prefix    of its source
    name      its name on the command line: `P` or `P/LAYER`
    explicit  whether the user named this list for it, or one for another layer of its source
    """

    prefix: str
    name: str
    path: str
    type: str
    labels: RecordedLabels | None
    explicit: bool
    of_main: bool = False

    @property
    def shown(self) -> str:
        return f"'{self.name}' {self.path}"


def check_lists_in_step(layout: DataLayout, classes: int | None) -> None:
    """Check that lists side by side belong together, and that there are labels of all classes.

    Adds notes and warnings. Raises: ComposeError where lists are not in step, or where the user did not name them.
    """
    # Lists in step: named by the user, or seen to have the same labels. Lists that cannot be compared are an error
    # unless the user named them.
    notes: list[str] = []
    errors: list[ComposeError] = []
    ambiguous: dict[str, list[_ListReader]] = {}
    reasons: list[str] = []
    for phase in PHASES:
        readers = _readers(layout, phase)
        if not readers:
            continue
        first = readers[0]
        own = [layer for layer in layout.main.data_layers if phase in layer.phases]
        of_main = {(layer.type, layout.choice.path(layout.main, layer, phase)) for layer in own}
        for other in readers[1:]:
            if not other.of_main and (other.type, other.path) in of_main:  # reads a list that belongs to the first
                continue
            reason = _mismatch_reason(first, other)
            if reason and other.explicit:
                errors.append(_mismatch_error(first, other, phase, reason))
            elif other.explicit or (reason is None and _all_classes(first, classes)):
                notes.append(_in_step_note(first, other, phase))
                # "" is a mismatch that could not be excluded: training and testing then compare the labels.
                layout.unseen |= {(other.prefix, phase)} if reason == "" else set()
            else:
                ambiguous.setdefault(phase, [first]).append(other)
                reasons += [reason] if reason else []
        if phase == "TRAIN":
            layout.warnings += _missing_classes(first, classes)
    raise_all(errors)
    if ambiguous:
        raise _choice_error(layout, ambiguous, reasons)
    layout.notes += notes


def check_image_lists(read: Sequence[tuple[PreparedSource, DataLists]]) -> list[str]:
    """Return notes on lists named for sources without data layers. Raises: ComposeError if they are out of step."""
    notes: list[str] = []
    errors: list[ComposeError] = []
    for phase in PHASES:
        first, *others = [_image_list_reader(source, lists, phase) for source, lists in read]
        for other in others:
            if other.path != first.path:
                reason = _mismatch_reason(first, other)
                errors += [_mismatch_error(first, other, phase, reason)] if reason else []
                notes.append(_in_step_note(first, other, phase))
    raise_all(errors)
    return notes


def _readers(layout: DataLayout, phase: str) -> list[_ListReader]:
    """Return everything that reads a list in a phase, the main source's layers first."""
    choice, main = layout.choice, layout.main
    found: list[_ListReader] = []
    for copy in layout.copies:
        path = choice.path(copy.source, copy.layer, phase)
        key = (copy.source.prefix, copy.layer.number, phase)
        if phase not in copy.layer.phases or path is None:
            continue
        of_main = copy.source is main
        # The main source's further layers belong to its first as they are, unless the user gave it lists.
        if of_main and found and not any((prefix, part) == (main.prefix, phase) for prefix, _, part in choice.explicit):
            continue
        layers = [item.layer for item in layout.copies if item.source is copy.source]
        several = len({layer.number for layer in layers if phase in layer.phases}) > 1
        name = f"{copy.source.prefix}/{copy.layer.name}" if several else copy.source.prefix
        labels, explicit = recorded_labels(copy.source, copy.layer, path), of_main or key in choice.explicit
        found.append(_ListReader(copy.source.prefix, name, path, copy.layer.type, labels, explicit, of_main))
    return found + [_image_list_reader(source, lists, phase) for source, lists in layout.listed]


def _image_list_reader(source: PreparedSource, lists: DataLists, phase: str) -> _ListReader:
    path = lists.for_phase(phase)[0] or ""
    return _ListReader(source.prefix, source.prefix, path, "ImageData", image_list_labels(path), explicit=True)


def _mismatch_reason(one: _ListReader, other: _ListReader) -> str | None:
    """Return why two lists do not have the same labels in the same order, "" if that is unknown; None if they do."""
    if one.labels is None or other.labels is None:
        return ""
    if one.labels.records != other.labels.records:
        return f"{one.path} has {one.labels.records} records and {other.path} {other.labels.records}"
    for number, (mine, theirs) in enumerate(zip(one.labels.values, other.labels.values, strict=False), 1):
        if mine != theirs:
            return f"record {number} has the label {mine} in {one.path} and {theirs} in {other.path}"
    return None if one.labels.is_complete and other.labels.is_complete else ""


def _mismatch_error(one: _ListReader, other: _ListReader, phase: str, reason: str) -> ComposeError:
    return ComposeError(
        f"the lists of '{one.name}' and '{other.name}' are not in step in phase {phase}: {reason}",
        place=other.path,
        hint="lists side by side have a line for each record, with the same labels in the same order",
    )


def _in_step_note(one: _ListReader, other: _ListReader, phase: str) -> str:
    result = "whether they have the same labels cannot be compared here"
    if one.labels and other.labels:
        count = min(len(one.labels.values), len(other.labels.values))
        whole = one.labels.is_complete and other.labels.is_complete
        result = "their labels are the same" if whole else f"the labels of the first {count} records are the same"
    return f"data: in phase {phase} {other.shown} is read in step with {one.shown}; {result}"


def _all_classes(reader: _ListReader, classes: int | None) -> bool:
    return reader.labels is not None and (classes is None or len(set(reader.labels.values)) >= classes)


def _missing_classes(reader: _ListReader, classes: int | None) -> list[str]:
    """Return a warning if a list lacks classes that the fused net is to learn."""
    if reader.labels is None or not reader.labels.is_complete or _all_classes(reader, classes):
        return []
    labels = sorted(set(reader.labels.values), key=lambda label: (len(label), label))
    shown = ", ".join(labels[:12]) + (", ..." if len(labels) > 12 else "")
    message = f"data: {reader.path} holds {len(labels)} of the {classes} classes ({shown}), so the others are never"
    return [f"{message} learned; give a list with all classes (--train-list)"]


def _choice_error(layout: DataLayout, ambiguous: dict[str, list[_ListReader]], reasons: Sequence[str]) -> ComposeError:
    """Return the error where sources read different lists and the user has not chosen.

    reasons  why these lists cannot be read side by side, as far as that is known
    """
    shown = "; ".join(f"{phase}: {', '.join(dict.fromkeys(reader.shown for reader in readers))}"
                      for phase, readers in ambiguous.items())  # fmt: skip
    common = " ".join(f"{OPTIONS[phase]} FILE" for phase in ambiguous)
    pairs = [(phase, reader) for phase, readers in ambiguous.items() for reader in readers]
    # Their own lists can be suggested unless they are known not to match.
    options = [f"{OPTIONS[phase]} {one.name}={'FILE' if reasons else one.path}" for phase, one in pairs]
    each = " ".join(dict.fromkeys(options))
    ways = [f"each its own, with the same labels in the same order: {each}"]
    if all(len({reader.type for reader in readers}) == 1 for readers in ambiguous.values()):
        ways = [f"one list with all classes for all: {common}", *ways]
        ways.append(f"or the list of one source for all: --data-from {layout.main.prefix}")
    reason = f" ({reasons[0]})" if reasons else ""
    message = "the sources read different data, and a branch must not be fed data that it was not trained on"
    return layout.main.error(f"{message}: {shown}{reason}", "; ".join(ways))


_COMPARED_RECORDS = 1000  # of a database, where each record is a page to read from the disk


@dataclass(frozen=True)
class RecordedLabels:
    """The labels of the first records, in order, and the number of all records."""

    values: tuple[str, ...]
    records: int

    @property
    def is_complete(self) -> bool:
        """Return whether these are the labels of all records."""
        return len(self.values) == self.records


def recorded_labels(source: PreparedSource, layer: LayerText, path: str | None) -> RecordedLabels | None:
    """Return the labels that a data layer reads from this list or database; None if it does not exist or has none."""
    if path is None or not os.path.exists(path):
        return None
    try:
        if layer.type == "Data":
            blocks = layer.message.messages(PARAMS[layer.type])
            return _in_database(path, bool(blocks) and blocks[-1].string("backend") in ("LMDB", "1"))
        if layer.type == "HDF5Data":
            return _in_hdf5(path, [top for top in layer.tops if top not in source.branch.inputs])
    except (DataError, OSError, ImportError):
        return None  # training reports the error when it reads the records
    return image_list_labels(path) if layer.type == "ImageData" else None


def image_list_labels(path: str) -> RecordedLabels | None:
    """Return the labels of an image list, None if it does not exist."""
    found = labels_in_list(path)
    return RecordedLabels(tuple(map(_normalize, found)), len(found)) if found else None


def _normalize(label: str) -> str:
    return str(int(label)) if LABEL.fullmatch(label) else label


def _in_database(path: str, lmdb: bool) -> RecordedLabels | None:
    from fusion.data.data_layer import datum_label
    from fusion.data.lmdb_leveldb import open_database

    database = open_database(path, lmdb=lmdb)
    try:
        values = tuple(str(datum_label(value)) for value in islice(database.values(), _COMPARED_RECORDS))
    except (IndexError, ValueError, OverflowError):
        return None
    return RecordedLabels(values, len(database.keys))


def _in_hdf5(path: str, tops: Iterable[str]) -> RecordedLabels | None:
    """Return the labels of the only dataset beside the inputs, if it has a whole number per record."""
    from fusion.data.hdf5_data import open_hdf5_file, top_data_set

    (label, *others) = [*tops, None]
    if label is None or others != [None]:
        return None
    values: list[str] = []
    with open(path, encoding="utf-8", errors="surrogateescape") as lines:
        names = [line.strip() for line in lines if line.strip()]
    for name in names:
        with open_hdf5_file(name) as file:
            found = top_data_set(file, label, name)
            if found.size != len(found):
                return None
            row = found[:].reshape(-1)
            if (row != row.round()).any():  # values of a regression, which lists in step need not share
                return None
            values += [str(int(value)) for value in row]
    return RecordedLabels(tuple(values), len(values)) if values else None


@dataclass(frozen=True)
class _ReplacedList:
    """A data layer whose list is replaced by one that was not named for this layer or its source.

    own     its own list
    path    the list that it reads
    shares  whether the two lists share records; None if that is unknown
    """

    source: PreparedSource
    own: str
    path: str
    shares: bool | None

    @property
    def shown(self) -> str:
        return f"'{self.source.prefix}' ({self.own})"


def check_common_list(sources: Sequence[PreparedSource], choice: ListChoice) -> list[str]:
    """Return a note for each phase where sources of different lists now read one, and nothing shows that it suits all.

    Raises: ComposeError where that list has records of one source's own list and none of another's.
    """
    notes: list[str] = []
    errors: list[ComposeError] = []
    for phase in PHASES:
        layers = [(source, layer) for source in sources for layer in source.data_layers]
        replaced = [item for pair in layers if (item := _replaced(*pair, phase, choice)) is not None]
        if len({os.path.normpath(item.own) for item in replaced}) < 2:
            continue
        unproven = [item for item in replaced if not item.shares]
        known = [item for item in replaced if item.shares]
        without = [item for item in unproven if item.shares is False]
        if known and without and choice.lists.for_phase(phase)[0] is not None:
            errors += [_error(item, known[0], phase) for item in without]
        elif unproven:
            shown = " and ".join(dict.fromkeys(item.shown for item in unproven))
            one = len({item.source.prefix for item in unproven}) == 1
            reads, own = ("reads", "its own list") if one else ("read", "their own lists")
            notes.append(f"data: in phase {phase} {shown} {reads} {unproven[0].path} instead of {own}; "
                         f"check that it suits each, or give {OPTIONS[phase]} P=FILE")  # fmt: skip
    raise_all(errors)
    return notes


def _replaced(source: PreparedSource, layer: LayerText, phase: str, choice: ListChoice) -> _ReplacedList | None:
    """Return a layer's own list and the list that it reads; None if the user named it for this layer."""
    key = (source.prefix, layer.number, phase)
    path, own = choice.path(source, layer, phase), list_and_batch(layer)[0]
    if phase not in layer.phases or path is None or own is None or key in choice.explicit:
        return None
    mine, given = names_in_list(layer.type, own), names_in_list(layer.type, path)
    same = os.path.normpath(own) == os.path.normpath(path)
    return _ReplacedList(source, own, path, True if same else bool(mine & given) if mine and given else None)


def _error(item: _ReplacedList, known: _ReplacedList, phase: str) -> ComposeError:
    p, option, other = item.source.prefix, OPTIONS[phase], known.source.prefix
    return item.source.error(
        f"in phase {phase} all are to read {item.path}, which holds records that '{other}' was trained on, and none of "
        f"{item.own}, which '{p}' was trained on",
        f"give a list with the records of all, or one for each: {option} {other}={item.path} {option} {p}={item.own} "
        f"(or {p}={item.path}, if '{p}' is to read it all the same)",
    )
