"""The classes of folders (and CSV lists) that a net reads: never matched by position where their names differ.

The label of a class folder is its place among the folders of its class, so a folder that lacks one class would shift
the labels of all classes after it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from fusion.data.image_list import listed_classes
from fusion.errors import SHOWN, DataError

if TYPE_CHECKING:
    from prototxt.schema.messages import NetParameter


def classes_of_nets(nets: Iterable[NetParameter], names: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the classes of the folders that the nets' image layers read; () where they read none that exists.

    names   those of the nets' classes, where they are known
    Raises  DataError where folders have different classes, or others than `names`
    """
    found = dict(folder for net in nets for folder in _folders(net))
    return common_classes(found.items(), names)


def common_classes(folders: Iterable[tuple[str, tuple[str, ...]]], names: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the classes of folders, given as pairs of path and classes, which are the same for all; () for none.

    Raises: DataError, as `classes_of_nets` does.
    """
    first, *others = [*folders] or [("", ())]
    for path, classes in others:
        if classes != first[1]:
            raise _difference(path, classes, first[0], first[1])
    path, classes = first
    # Names in other words ("tabby cat" for n02123045) were given by number, so that each class has its own.
    translated = len(names) == len(classes) and not set(names) & set(classes)
    if classes and names and tuple(names) != classes and not translated:
        raise _difference(path, classes, "the net's class names", names)
    return classes


def _folders(net: NetParameter) -> Iterator[tuple[str, tuple[str, ...]]]:
    for layer in net.layer:
        path = layer.image_data_param.source
        if layer.type == "ImageData" and (classes := listed_classes(path)):
            yield os.path.normpath(path), classes


def _difference(path: str, classes: Sequence[str], other: str, known: Sequence[str]) -> DataError:
    """Return the error that names the classes of only one of the two."""
    parts = [
        f"only {where} has {_listed(only)}"
        for where, only in ((path, set(classes) - set(known)), (other, set(known) - set(classes)))
        if only
    ]
    reason = "; ".join(parts) or f"the same in another order: {_listed(classes, known)}"
    return DataError(
        f"its classes are not those of {other}: {reason}",
        place=path,
        hint=f"give both the same classes, or a list with the labels of the net's classes by name: "
        f"fusion-convert list {path} -o LIST --labels NAMES",
    )


def _listed(classes: Iterable[str], order: Sequence[str] | None = None) -> str:
    if order is not None:
        moved = next((one, order.index(one)) for number, one in enumerate(classes) if order[number] != one)
        return f"'{moved[0]}' is class {moved[1]} there"
    names = sorted(classes)
    return ", ".join(f"'{name}'" for name in names[:SHOWN]) + (f" and {len(names) - SHOWN} more" * (len(names) > SHOWN))
