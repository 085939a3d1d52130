"""Choose the list that each data layer reads: its own, or one that the user gave, for all or by name.

A list given for all is refused where a source has several data layers with lists of their own: only the user knows
which of them it is for.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path

from fusion.composition.net_text import PHASES, LayerText
from fusion.composition.prepared_source import PreparedSource
from fusion.composition.preprocessing import PARAMS, list_and_batch
from fusion.data.image_list import LABEL, names_classes, read_list
from fusion.errors import ComposeError, raise_all
from prototxt.formats.class_folders import is_database, is_image_folder

OPTIONS = {"TRAIN": "--train-list", "TEST": "--val-list"}


@dataclass(frozen=True)
class DataLists:
    """Lists (or folders, or databases) and batch sizes that replace those of the data layers; None leaves them.

    split  the two lists are one, of which each phase gets a part later
    """

    train_list: str | None = None
    val_list: str | None = None
    train_batch: int | None = None
    test_batch: int | None = None
    _: KW_ONLY
    split: bool = False

    def for_phase(self, phase: str) -> tuple[str | None, int | None]:
        """Return the list and batch size of a phase."""
        return (self.train_list, self.train_batch) if phase == "TRAIN" else (self.val_list, self.test_batch)


@dataclass(frozen=True)
class ListChoice:
    """The lists that replace those of data layers.

    by_layer  (prefix, number of the layer, phase) -> list
    explicit  keys of `by_layer` that the user named for this source, whose lists are to be in step
    """

    lists: DataLists
    by_layer: Mapping[tuple[str, int, str], str] = field(default_factory=dict)
    explicit: frozenset[tuple[str, int, str]] = frozenset()

    def path(self, source: PreparedSource, layer: LayerText, phase: str) -> str | None:
        """Return the list or database that a data layer reads in the fused net."""
        return self.by_layer.get((source.prefix, layer.number, phase)) or list_and_batch(layer)[0]

    def needs_shuffle(self, source: PreparedSource, layer: LayerText, phase: str) -> bool:
        """Return whether a data layer trains on a folder, whose records are sorted by class."""
        path = self.path(source, layer, phase)
        return phase == "TRAIN" and layer.type == "ImageData" and path is not None and is_image_folder(path)

    def for_layer(self, source: PreparedSource, layer: LayerText) -> DataLists:
        """Return the lists and batch sizes that replace a layer's own."""
        train, test = (self.by_layer.get((source.prefix, layer.number, phase)) for phase in PHASES)
        return replace(self.lists, train_list=train, val_list=test)


def lists_of_source(source: PreparedSource) -> DataLists | None:
    """Return the lists given by name for a source without data layers; None if there are none.

    Raises: ComposeError for only one of the two, and for lists with the name of a layer.
    """
    given = (source.spec.train_list, source.spec.val_list)
    if source.data_layers or given == (None, None):
        return None
    train, val = given
    if not isinstance(train, str) or not isinstance(val, str):
        hint = f"--train-list {source.prefix}=FILE --val-list {source.prefix}=FILE"
        message = f"{source} has no data layer, so it takes one list per phase"
        raise source.error(message, f"give both, without the name of a layer: {hint}")
    return DataLists(train, val)


def choose_lists(
    sources: Sequence[PreparedSource], main: PreparedSource, data_from: str | None, lists: DataLists
) -> ListChoice:
    """Choose the list that each data layer reads. Raises: ComposeError with every ambiguity."""
    found: dict[tuple[str, int, str], str] = {}
    explicit: set[tuple[str, int, str]] = set()
    errors: list[ComposeError] = []
    for source in sources:
        for phase in PHASES:
            layers = _layers_with_lists(source, phase, main)
            given = source.spec.train_list if phase == "TRAIN" else source.spec.val_list
            # A list for a layer counts before one for its source, and that before one for all.
            try:
                if isinstance(given, Mapping):
                    named = {_layer_named(source, layers, phase, name).number: path for name, path in given.items()}
                elif given is not None and source.data_layers:
                    named = dict.fromkeys(_layers_of_one_list(source, layers, phase, given), given)
                else:
                    named = {}
                explicit |= {(source.prefix, number, phase) for number in named}
                rest = [layer for layer in layers if layer.number not in named]
                common = lists.for_phase(phase)[0]
                if common is not None and source.data_layers and (rest or not named):
                    named.update(dict.fromkeys(_layers_of_one_list(source, rest, phase, common), common))
                elif data_from is not None and source is not main:
                    named.update(_lists_of_main(source, rest, main, phase, found))
                for layer in layers:
                    if layer.number in named:
                        _check_kind(source, layer, named[layer.number], phase)
                found.update({(source.prefix, number, phase): path for number, path in named.items()})
            except ComposeError as error:
                errors.append(error)
    raise_all(errors)
    return ListChoice(lists, found, frozenset(explicit))


def _layers_with_lists(source: PreparedSource, phase: str, main: PreparedSource) -> list[LayerText]:
    """Return the data layers of a phase that read a list or a database and are used."""
    return [
        layer
        for layer in source.data_layers
        if phase in layer.phases
        and list_and_batch(layer)[0] is not None
        and (source is main or set(layer.tops) & set(source.branch.inputs))
    ]


def _layers_of_one_list(source: PreparedSource, layers: Sequence[LayerText], phase: str, path: str) -> list[int]:
    """Return the numbers of the layers. Raises: ComposeError unless their own lists are one."""
    if not layers and phase in {phase for layer in source.data_layers for phase in layer.phases}:
        types = ", ".join(sorted({layer.type for layer in source.data_layers if phase in layer.phases}))
        message = f"{source} takes no list in phase {phase}: its data layer is of type {types}"
        raise source.error(message, f"give the data as one of {', '.join(PARAMS)}")
    if len({list_and_batch(layer)[0] for layer in layers}) > 1:
        choices = " ".join(f"{OPTIONS[phase]} {source.prefix}/{layer.name}=FILE" for layer in layers)
        shown = ", ".join(f"'{layer.name}' {list_and_batch(layer)[0]}" for layer in layers)
        message = f"{source} has several data layers in phase {phase} ({shown}), and {path} may be for any of them"
        raise source.error(message, f"name the layer, or one of its tops: {choices}", layers[0])
    return [layer.number for layer in layers]


def _layer_named(source: PreparedSource, layers: Sequence[LayerText], phase: str, name: str) -> LayerText:
    """Return the data layer of this name, or with this top. Raises: ComposeError unless it is one."""
    found = [layer for layer in layers if name in (layer.name, *layer.tops)]
    if len(found) == 1:
        return found[0]
    choices = ", ".join(f"{source.prefix}/{layer.name} ({', '.join(layer.tops)})" for layer in layers) or "none"
    message = f"{source} has {'several data layers' if found else 'no data layer'} '{name}' in phase {phase}"
    raise source.error(message, f"its data layers with a list are {choices}")


def _lists_of_main(
    source: PreparedSource,
    layers: Sequence[LayerText],
    main: PreparedSource,
    phase: str,
    found: Mapping[tuple[str, int, str], str],
) -> dict[int, str]:
    """Return the main source's lists for another's layers: that of the layer of the same name, or the only one."""
    candidates = _layers_with_lists(main, phase, main)
    result = {}
    for layer in layers:
        alike = [other for other in candidates if other.type == layer.type]
        same = [other for other in alike if other.name == layer.name]
        paths = {found.get((main.prefix, other.number, phase)) or list_and_batch(other)[0] for other in same or alike}
        if len(paths) != 1:
            given = " and ".join(sorted({f"'{other.type}'" for other in candidates})) or "missing"
            message = f"{source} cannot read the list of '{main.prefix}' in phase {phase}: its data is " + (
                f"'{layer.type}', that of '{main.prefix}' is {given}" if not alike else "one of several lists there"
            )
            raise source.error(message, f"name a list: {OPTIONS[phase]} {source.prefix}/{layer.name}=FILE", layer)
        result[layer.number] = paths.pop() or ""
    return result


def _check_kind(source: PreparedSource, layer: LayerText, path: str, phase: str) -> None:
    """Check that a layer gets a list, a folder or a database as its type reads it. Raises: ComposeError, DataError."""
    who = f"layer '{layer.name}' of {source}"
    file = Path(path)
    if layer.type == "ImageData" and names_classes(path):
        read_list(path)  # raises the errors of a folder or a CSV
        return
    # A regular file may be an LMDB without a folder; a missing path is judged by its suffix.
    if layer.type == "Data" and (
        (file.is_file() and not _is_lmdb_file(file))
        or is_image_folder(path)
        or (not file.exists() and file.suffix.lower() in (".txt", ".lst"))
    ):
        kind, root = ("a folder of images", "''") if file.is_dir() else ("a list", "FOLDER/")
        raise source.error(
            f"{who} reads a database, and {path} is {kind}",
            f"make a database of it (fusion-convert images {path} {root} {file.stem}_lmdb --lmdb) and give that, "
            f"or give the source an ImageData layer for phase {phase}",
            layer,
        )
    if layer.type != "Data" and file.is_dir():
        kind = "a database" if is_database(path) else "a folder"
        hint = f"give a list of lines: {OPTIONS[phase]} {source.prefix}/{layer.name}=FILE"
        raise source.error(f"{who} of type '{layer.type}' reads a list, and {path} is {kind}", hint, layer)
    if layer.type in ("ImageData", "HDF5Data") and (first := next(iter(_lines(path)), None)) is not None:
        labelled = LABEL.fullmatch(first.rstrip().rpartition(" ")[2]) is not None
        if labelled != (layer.type == "ImageData"):
            form = "'path label' per line" if layer.type == "ImageData" else "one HDF5 file per line"
            message = f"{who} of type '{layer.type}' reads {form}, and {path} begins {first[:60]!r}"
            raise source.error(message, "give a list of that kind", layer)


def _is_lmdb_file(file: Path) -> bool:
    """Return whether a regular file may be an LMDB without a folder: these are binary."""
    with file.open("rb") as opened:
        return b"\0" in opened.read(64)


def _lines(path: str) -> list[str]:
    """Return the non-empty lines of a list; none if it cannot be read."""
    try:
        if not os.path.isfile(path):
            return []
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return [line for line in file if line.strip()]
    except OSError:
        return []


def labels_in_list(path: str) -> list[str]:
    """Return the labels of an image list, none if it does not exist. Raises: DataError for a folder or a CSV."""
    if names_classes(path):
        return [str(label) for label in read_list(path).labels.tolist()]
    return [line.rstrip().rpartition(" ")[2] for line in _lines(path)]


def names_in_list(kind: str, path: str) -> set[str]:
    """Return the files in the list of a data layer of this type; none if it does not exist, or is no list."""
    if kind not in ("ImageData", "HDF5Data"):
        return set()
    if names_classes(path):
        return set(read_list(path).names)
    return {line.rstrip().rpartition(" ")[0] if kind == "ImageData" else line.strip() for line in _lines(path)}
