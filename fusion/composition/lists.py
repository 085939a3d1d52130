"""Which list each data layer reads: its own, or one that the user gave, to all or by name.

A list given for all is refused where a source has several data layers with lists of their own: which of them it is for
is only the user's to say.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from fusion.composition.net_text import PHASES, Layer
from fusion.composition.preprocessing import PARAMS, list_and_batch
from fusion.composition.sources import PreparedSource
from fusion.errors import ComposeError, raise_all

OPTIONS = {"TRAIN": "--train-list", "TEST": "--val-list"}
_DATABASE_FILES = ("data.mdb", "CURRENT")  # of LMDB and LevelDB


@dataclass(frozen=True)
class Lists:
    """Lists (or databases) and batch sizes that replace those of the data layers; None leaves them."""

    train_list: str | None = None
    val_list: str | None = None
    train_batch: int | None = None
    test_batch: int | None = None

    def of(self, phase: str) -> tuple[str | None, int | None]:
        """List and batch size of a phase."""
        return (self.train_list, self.train_batch) if phase == "TRAIN" else (self.val_list, self.test_batch)


@dataclass(frozen=True)
class Chosen:
    """The lists that replace those of data layers.

    by_layer  by prefix, number of the layer and phase
    spoken    those of these that the user named for this source, which are to be in step
    """

    lists: Lists
    by_layer: Mapping[tuple[str, int, str], str] = field(default_factory=dict)
    spoken: frozenset[tuple[str, int, str]] = frozenset()

    def source(self, part: PreparedSource, layer: Layer, phase: str) -> str | None:
        """What a data layer reads in the end."""
        return self.by_layer.get((part.prefix, layer.number, phase)) or list_and_batch(layer)[0]

    def of(self, part: PreparedSource, layer: Layer) -> Lists:
        """The lists and batch sizes that replace a layer's own."""
        train, test = (self.by_layer.get((part.prefix, layer.number, phase)) for phase in PHASES)
        return replace(self.lists, train_list=train, val_list=test)


def own_lists(part: PreparedSource) -> Lists | None:
    """The lists given for a source by name, where it has no data layers to put them into; None if there are none.

    Raises: ComposeError for only one of the two, and for layers that are named.
    """
    given = (part.source.train_list, part.source.val_list)
    if part.data_layers or given == (None, None):
        return None
    train, val = given
    if not isinstance(train, str) or not isinstance(val, str):
        p = part.prefix
        what = f"source '{p}' has no data layer, so it takes one list per phase"
        hint = f"give both, without the name of a layer: --train-list {p}=FILE --val-list {p}=FILE"
        raise ComposeError(what, place=part.raw.document.name, hint=hint)
    return Lists(train, val)


def choose(parts: Sequence[PreparedSource], main: PreparedSource, data_from: str | None, lists: Lists) -> Chosen:
    """Say which list each data layer reads. Raises: ComposeError with all that is not clear."""
    found: dict[tuple[str, int, str], str] = {}
    spoken: set[tuple[str, int, str]] = set()
    errors: list[ComposeError] = []
    for part in parts:
        for phase in PHASES:
            layers = _listed(part, phase, main)
            given = part.source.train_list if phase == "TRAIN" else part.source.val_list
            try:
                if isinstance(given, Mapping):
                    named = {_named(part, layers, phase, name).number: path for name, path in given.items()}
                elif given is not None and part.data_layers:
                    named = dict.fromkeys(_same_list(part, layers, phase, given), given)
                else:
                    named = {}
                spoken |= {(part.prefix, number, phase) for number in named}
                rest = [layer for layer in layers if layer.number not in named]
                whole = lists.of(phase)[0]
                if whole is not None and part.data_layers and (rest or not named):
                    named.update(dict.fromkeys(_same_list(part, rest, phase, whole), whole))
                elif data_from is not None and part is not main:
                    named.update(_of_main(part, rest, main, phase, found))
                for layer in layers:
                    if layer.number in named:
                        _check_kind(part, layer, named[layer.number], phase)
                found.update({(part.prefix, number, phase): path for number, path in named.items()})
            except ComposeError as error:
                errors.append(error)
    raise_all(errors)
    return Chosen(lists, found, frozenset(spoken))


def _listed(part: PreparedSource, phase: str, main: PreparedSource) -> list[Layer]:
    """The data layers of a phase that read a list or a database, as far as they are used."""
    return [
        layer
        for layer in part.data_layers
        if phase in layer.phases
        and list_and_batch(layer)[0] is not None
        and (part is main or set(layer.tops) & set(part.branch.inputs))
    ]


def _same_list(part: PreparedSource, layers: Sequence[Layer], phase: str, path: str) -> list[int]:
    """The numbers of the layers, which must read one list so far. Raises: ComposeError."""
    if not layers and phase in {phase for layer in part.data_layers for phase in layer.phases}:
        types = ", ".join(sorted({layer.type for layer in part.data_layers if phase in layer.phases}))
        what = f"source '{part.prefix}' takes no list in phase {phase}: its data layer is of type {types}"
        raise ComposeError(what, place=part.raw.document.name, hint=f"give the data as one of {', '.join(PARAMS)}")
    if len({list_and_batch(layer)[0] for layer in layers}) > 1:
        choices = " ".join(f"{OPTIONS[phase]} {part.prefix}/{layer.name}=FILE" for layer in layers)
        shown = ", ".join(f"'{layer.name}' {list_and_batch(layer)[0]}" for layer in layers)
        raise ComposeError(
            f"source '{part.prefix}' has several data layers in phase {phase} ({shown}), and it is not clear which of "
            f"them is to read {path}",
            place=part.raw.place(layers[0]),
            hint=f"name the layer, or one of its tops: {choices}",
        )
    return [layer.number for layer in layers]


def _named(part: PreparedSource, layers: Sequence[Layer], phase: str, name: str) -> Layer:
    """The data layer of this name, or with this top. Raises: ComposeError."""
    found = [layer for layer in layers if name in (layer.name, *layer.tops)]
    if len(found) == 1:
        return found[0]
    choices = ", ".join(f"{part.prefix}/{layer.name} ({', '.join(layer.tops)})" for layer in layers) or "none"
    what = f"source '{part.prefix}' has {'several data layers' if found else 'no data layer'} '{name}' in phase {phase}"
    raise ComposeError(what, place=part.raw.document.name, hint=f"its data layers with a list are {choices}")


def _of_main(
    part: PreparedSource,
    layers: Sequence[Layer],
    main: PreparedSource,
    phase: str,
    found: Mapping[tuple[str, int, str], str],
) -> dict[int, str]:
    """The lists of the main source for another's layers: of the layer of that name, or the only one."""
    offered = _listed(main, phase, main)
    result = {}
    for layer in layers:
        alike = [other for other in offered if other.type == layer.type]
        same = [other for other in alike if other.name == layer.name]
        paths = {found.get((main.prefix, other.number, phase)) or list_and_batch(other)[0] for other in same or alike}
        if len(paths) != 1:
            given = " and ".join(sorted({f"'{other.type}'" for other in offered})) or "missing"
            what = f"source '{part.prefix}' cannot read what '{main.prefix}' does in phase {phase}: its data is " + (
                f"'{layer.type}', that of '{main.prefix}' is {given}" if not alike else "one of several lists there"
            )
            hint = f"name a list: {OPTIONS[phase]} {part.prefix}/{layer.name}=FILE"
            raise ComposeError(what, place=part.raw.place(layer), hint=hint)
        result[layer.number] = paths.pop() or ""
    return result


def _check_kind(part: PreparedSource, layer: Layer, path: str, phase: str) -> None:
    """Raises: ComposeError if a layer that reads a database is given a list, or the other way round."""
    place, who = part.raw.place(layer), f"layer '{layer.name}' of source '{part.prefix}'"
    file = Path(path)
    database = file.is_dir() and any((file / name).exists() for name in _DATABASE_FILES)
    if layer.type == "Data" and (
        (file.is_file() and not _is_lmdb_file(file)) or (not file.exists() and file.suffix.lower() in (".txt", ".lst"))
    ):
        raise ComposeError(
            f"{who} reads a database, and {path} is a list",
            place=place,
            hint=f"make a database of it (fusion-convert images {path} FOLDER {file.stem}_lmdb --lmdb) and give that, "
            f"or give the source an ImageData layer for phase {phase}",
        )
    if layer.type != "Data" and file.is_dir():
        what = "a database" if database else "a folder"
        raise ComposeError(
            f"{who} of type '{layer.type}' reads a list, and {path} is {what}",
            place=place,
            hint=f"give a list of lines: {OPTIONS[phase]} {part.prefix}/{layer.name}=FILE",
        )
    if layer.type in ("ImageData", "HDF5Data") and (first := next(iter(_lines(path)), None)) is not None:
        labelled = first.rstrip().rpartition(" ")[2].lstrip("+-").isdecimal()
        if labelled != (layer.type == "ImageData"):
            wanted = "'path label' per line" if layer.type == "ImageData" else "one HDF5 file per line"
            raise ComposeError(f"{who} of type '{layer.type}' reads {wanted}, and {path} begins {first[:60]!r}",
                               place=place, hint="give a list of that kind")  # fmt: skip


def _is_lmdb_file(file: Path) -> bool:
    """Whether a regular file may be an LMDB without a folder: these are binary."""
    with file.open("rb") as opened:
        return b"\0" in opened.read(64)


def _lines(path: str) -> list[str]:
    """The lines of a list that hold anything; none where it cannot be read."""
    try:
        if not os.path.isfile(path):
            return []
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return [line for line in file if line.strip()]
    except OSError:
        return []


def labels_in_list(path: str) -> list[str]:
    """The labels of an image list, none where it is not here."""
    return [line.rstrip().rpartition(" ")[2] for line in _lines(path)]


def names_in_list(kind: str, path: str) -> set[str]:
    """The files that the list of a data layer of this type names; none where it is not here, or is no list."""
    if kind not in ("ImageData", "HDF5Data"):
        return set()
    return {line.rstrip().rpartition(" ")[0] if kind == "ImageData" else line.strip() for line in _lines(path)}
