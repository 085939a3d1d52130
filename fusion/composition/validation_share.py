"""A share of the training records kept back for validation: the fused net's lists, written beside it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from fusion.composition.lists import OPTIONS
from fusion.composition.net_text import LayerText, quoted, read_net
from fusion.composition.options import ComposeOptions
from fusion.composition.preprocessing import PARAMS, list_and_batch
from fusion.composition.source import Source
from fusion.data.image_list import ImageList, read_list
from fusion.data.list_files import ListParts, split_list, write_list
from fusion.errors import ComposeError
from prototxt.text.edits import Edits
from prototxt.text.tree import Document

_NAMES = {"TRAIN": "train_list", "TEST": "val_list"}


@dataclass(frozen=True)
class WrittenLists:
    """The two parts of each training list, by the names of their files."""

    images: Mapping[str, ImageList] = field(default_factory=dict)
    parts: ListParts | None = None

    def records(self, name: str) -> int | None:
        """Return the number of records of a file, None if it is none of these."""
        if name not in self.images or self.parts is None:
            return None
        return len(self._part(name, self.parts))

    def write(self, folder: Path) -> tuple[Path, ...]:
        """Write the lists into a folder. Raises: OSError, DataError."""
        if self.parts is not None:
            for name, images in self.images.items():
                write_list(folder / name, images, self._part(name, self.parts))
        return tuple(folder / name for name in self.images)

    def in_folder(self, net: Document, folder: Path) -> Document:
        """Return the net, reading these lists in a folder."""
        return _with_lists(net, {name: (folder / name).as_posix() for name in self.images}) if self.images else net

    @staticmethod
    def _part(name: str, parts: ListParts) -> np.ndarray:
        return parts.training if name.startswith(_NAMES["TRAIN"]) else parts.validation


def with_training_lists(sources: Sequence[Source], options: ComposeOptions) -> tuple[Sequence[Source], ComposeOptions]:
    """Return sources and options that validate on the training lists, of which the share is taken later.

    Raises: ComposeError where there is no training list, or a validation list too.
    """
    if options.val_share is None:
        return sources, options
    given = [options.val_list, *(source.val_list for source in sources)]
    if any(given):
        raise ComposeError("a validation list and a share of the training list exclude each other",
                           hint="omit --val-list or --val-share")  # fmt: skip
    if not options.train_list and not any(source.train_list for source in sources):
        hint = f"give the list or folder with all of them: {OPTIONS['TRAIN']} photos/train"
        raise ComposeError("--val-share keeps back a part of the training records, and no list is given", hint=hint)
    changed = [replace(source, val_list=source.train_list) for source in sources]
    return changed, replace(options, val_list=options.train_list)


def split_lists(net: Document, share: float, notes: list[str]) -> tuple[Document, WrittenLists]:
    """Return the fused net, reading the two parts of its training lists, and these lists; adds a note.

    Raises: ComposeError for layers that read no image list, and for lists that are not split alike; DataError for
    lists that cannot be read.
    """
    layers = [layer for layer in read_net(net).layers if layer.is_data and layer.phases]
    if other := next((layer for layer in layers if layer.type != "ImageData"), None):
        message = f"--val-share is of image lists, and layer '{other.name}' of type {other.type} reads none"
        raise ComposeError(message, hint="give a validation list: --val-list")
    paths = {phase: {_path(layer) for layer in layers if phase in layer.phases} for phase in _NAMES}
    if unlike := sorted(paths["TRAIN"] ^ paths["TEST"]):
        message = f"--val-share splits the lists that are trained on, and {unlike[0]} is read in one phase alone"
        raise ComposeError(message, hint="give a training list for all (--train-list FILE), or one for each source")
    found: dict[str, ImageList] = {}
    parts: ListParts | None = None
    numbers: dict[str, int] = {}
    for path in dict.fromkeys(map(_path, layers)):
        images = read_list(path)
        own = split_list(images, share)
        if parts is not None and not np.array_equal(parts.validation, own.validation):
            message = f"{path} cannot be split as {next(iter(found.values())).path} is: their records differ"
            raise ComposeError(message, hint="write the parts yourself, and give them: --train-list, --val-list")
        parts = parts or own
        numbers[path] = len(numbers) + 1
        found.update({_name(phase, numbers[path]): images for phase in _NAMES})
        notes.append(f"data: {len(own.validation)} of the {len(images.names)} records of {path} are kept back for "
                     f"validation, {share:g} of each class: {_name('TEST', numbers[path])}")  # fmt: skip
    written = WrittenLists(found, parts)
    edits = Edits(net)
    for layer in layers:
        _set_list(edits, layer, _name(layer.phases[0], numbers[_path(layer)]))
    return edits.apply(), written


def _path(layer: LayerText) -> str:
    return os.path.normpath(list_and_batch(layer)[0] or "")


def _name(phase: str, number: int) -> str:
    return f"{_NAMES[phase]}{f'_{number}' if number > 1 else ''}.txt"


def _with_lists(net: Document, renamed: Mapping[str, str]) -> Document:
    edits = Edits(net)
    for layer in read_net(net).layers:
        path = list_and_batch(layer)[0] or ""
        if path in renamed:
            _set_list(edits, layer, renamed[path])
    return edits.apply()


def _set_list(edits: Edits, layer: LayerText, path: str) -> None:
    edits.set(layer.message.messages(PARAMS[layer.type])[-1], "source", quoted(path))
