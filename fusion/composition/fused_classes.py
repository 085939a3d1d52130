"""The fused net's classes: their number and names by its class folders, and the classes of each source by name."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from fusion.composition.inputs import Inputs
from fusion.composition.net_text import LayerText, read_net, reparse
from fusion.composition.options import ComposeOptions
from fusion.composition.prepared_source import PreparedSource
from fusion.composition.preprocessing import list_and_batch
from fusion.composition.tasks import Goal
from fusion.data.image_list import listed_classes
from fusion.data.net_classes import common_classes
from fusion.errors import SHOWN, ComposeError, raise_all
from prototxt.errors import did_you_mean
from prototxt.text.class_names import read_names


@dataclass(frozen=True)
class FusedClasses:
    """The classes of a fused net with one classifier of classes.

    names    those given, or of the class folders that it reads; empty if neither is known
    folders  the names of these folders, that of class 0 first
    """

    names: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()

    @property
    def numbers(self) -> Mapping[str, int]:
        """Return the number of each class by its names."""
        return {name: number for names in (self.folders, self.names) for number, name in enumerate(names) if name}


def fused_classes(goals: Sequence[Goal], inputs: Inputs, options: ComposeOptions, notes: list[str]) -> FusedClasses:
    """Return the fused net's classes; adds notes.

    Raises: ComposeError where the class folders are not as many as the classes; DataError where they differ from each
    other, or from the given names; PrototxtError, OSError for a file of names.
    """
    labels, (goal, *others) = options.labels, goals
    names = read_names(labels) if isinstance(labels, (str, os.PathLike)) else tuple(labels or ())
    if others or goal.loss.kind.labels != "class":
        return FusedClasses(names)
    read = dict.fromkeys(_image_list(layer) for layer in read_net(reparse(inputs.text, "the data layers")).layers)
    paths = [path for path in read if path]
    folders = {os.path.normpath(path): found for path in paths if (found := listed_classes(path))}
    classes = common_classes(folders.items(), names)
    if not classes:
        return FusedClasses(names)
    path = next(iter(folders))
    if goal.num_output not in (None, len(classes)):
        message = f"num_output is {goal.num_output}, and there are {len(classes)} classes: {_listed(classes)}"
        raise ComposeError(message, place=path, hint=f"omit num_output, or give all {goal.num_output} classes")
    kind = "folders" if os.path.isdir(path) else "names"
    notes.append(f"data: the {len(classes)} classes are the {kind} of {path}: {_listed(classes)}")
    moved = [name for number, name in enumerate(classes) if name.isdecimal() and name != str(number)]
    if moved:
        notes.append(f"data: classes are numbered in the order of their names as text: '{moved[0]}' is class "
                     f"{classes.index(moved[0])}")  # fmt: skip
    lists = [path for path in paths if os.path.normpath(path) not in folders]
    if lists and not names:
        notes.append(f"data: the labels in {', '.join(lists)} must be these numbers, which cannot be compared here")
    return FusedClasses(names or classes, classes)


def with_classes(
    sources: Sequence[PreparedSource], goals: Sequence[Goal], known: FusedClasses, notes: list[str], *, scored: bool
) -> tuple[list[PreparedSource], list[Goal]]:
    """Return the sources with the numbers of their classes, and the goals with the number of all; adds notes.

    scored  whether the sources' own scores are used
    Raises: ComposeError for a class that is not one of the fused net's.
    """
    found, errors = [], []
    for source in sources:
        try:
            found.append(replace(source, classes=_numbers(source, known, notes, scored=scored)))
        except ComposeError as error:
            errors.append(error)
    raise_all(errors)
    if known.folders and goals[0].num_output is None:
        goals = [replace(goals[0], num_output=len(known.folders))]
    return found, [*goals]


def _numbers(source: PreparedSource, known: FusedClasses, notes: list[str], *, scored: bool) -> tuple[int, ...]:
    """Return the fused classes of a source's scores: as given, or by the names of the folders that it trains on."""
    given, numbers = source.spec.classes, known.numbers
    if given:
        unknown = [item for item in given if not isinstance(item, int) and item not in numbers]
        if unknown:
            raise _unknown(source, unknown[0], numbers)
        return tuple(item if isinstance(item, int) else numbers[item] for item in given)
    own = next(_own_classes(source), ())
    if not known.folders or not own or own == known.folders:
        return ()
    if missing := [name for name in own if name not in numbers]:
        if not scored:
            return ()
        message = f"{source} was trained on class folders that the fused net has not: {_listed(missing)}"
        raise source.error(message, f"name its classes: --classes {source.prefix}=CLASS,CLASS,... in their order")
    notes.append(f"{source}: its classes are those of its class folders: {', '.join(own)}")
    return tuple(numbers[name] for name in own)


def _own_classes(source: PreparedSource) -> Iterator[tuple[str, ...]]:
    """Yield the classes of the source's own training lists that name them."""
    paths = [_image_list(layer) for layer in source.data_layers if "TRAIN" in layer.phases]
    yield from (found for path in paths if path and (found := listed_classes(path)))


def _image_list(layer: LayerText) -> str | None:
    return list_and_batch(layer)[0] if layer.type == "ImageData" else None


def _unknown(source: PreparedSource, name: object, numbers: Mapping[str, int]) -> ComposeError:
    if not numbers:
        hint = "give their names (--labels FILE), class folders, or numbers"
        return ComposeError(f"{source}: class {name!r} is given by name, and the fused classes have none", hint=hint)
    hint = did_you_mean(str(name), numbers, f"one of {', '.join(list(numbers)[:SHOWN])}")
    return ComposeError(f"{source}: the fused net has no class {name!r}", hint=hint)


def _listed(classes: Sequence[str]) -> str:
    """Return the classes with their numbers, some of many."""
    shown = ", ".join(f"{number} {name}" for number, name in enumerate(classes[:SHOWN]))
    return shown + (f", ... {len(classes) - 1} {classes[-1]}" if len(classes) > SHOWN else "")
