"""Give a net a prefix, by the role that each name has in the graph and never by text; freeze it on the way.

Only the bytes that must change do: comments, blanks, order, unknown fields and old syntax survive.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import NamedTuple

from prototxt.edit.freeze import FreezePatterns, freeze as freeze_layers, select_layers, shared_names, stop_gradients
from prototxt.edit.layer_view import TextLayer, outside_blobs, text_layers, text_nets
from prototxt.errors import PrototxtError, RenameError, raise_all
from prototxt.text.edits import Edits
from prototxt.text.notes import fold_notes
from prototxt.text.tree import Document, Scalar

# A broken span that holds one of these may hide a name or a layer; any other can stay as it is.
_ESSENTIAL = re.compile(
    r"\b(?:name|type|top|bottom|param|layers?|input|lr_mult|blobs_lr|(?:dropout|batch_norm|net)\w*_param)\b|^[{}<>\[\]]"
)


class LayerChange(NamedTuple):
    """What was done to one layer: its name before and after, its type, and the freezing in words."""

    name: str
    renamed: str
    type: str
    done: tuple[str, ...]


class RenameResult(NamedTuple):
    """A renamed document, what was done per layer, and what the reader should know."""

    document: Document
    changes: tuple[LayerChange, ...]
    notes: tuple[str, ...] = ()


class _Names:
    """The names of one net by role: layers, blobs and shared parameters, each old -> new."""

    __slots__ = ("blobs", "fixed", "prefix")

    def __init__(self, prefix: str, fixed: set[str]) -> None:
        self.prefix = prefix
        self.fixed = fixed
        self.blobs: dict[str, str] = {}

    def prefixed(self, name: str) -> str:
        return f"{self.prefix}/{name}" if name else name

    def blob(self, name: str) -> str:
        new = name if name in self.fixed else self.prefixed(name)
        self.blobs[name] = new
        return new


def rename(
    doc: Document,
    prefix: str,
    *,
    freeze: bool = True,
    freeze_pattern: str | None = None,
    thaw_pattern: str | None = None,
    keep: Collection[str] = (),
    all: bool = False,
    again: bool = False,
    propagate_down: bool = False,
    blob_counts: Mapping[str, int] | None = None,
) -> Document:
    """A net with `prefix/` before the names of its layers, blobs and shared parameters, frozen unless told otherwise.

    The net's inputs and the tops of its data layers keep their names, so that several nets can share them.

    freeze            whether to freeze; freeze_pattern and thaw_pattern choose layers by searching their names
    keep              further blobs to leave alone
    all               rename inputs and the tops of data layers too
    again             rename although all layers bear the prefix already
    propagate_down    write `propagate_down: false` at the frozen boundary as well
    blob_counts       the number of blobs by layer name, for layers whose description does not tell

    Raises: RenameError with everything that stands against it; ParseError if a broken part of the text matters.
    """
    return rename_reported(
        doc,
        prefix,
        freeze=freeze,
        freeze_pattern=freeze_pattern,
        thaw_pattern=thaw_pattern,
        keep=keep,
        all=all,
        again=again,
        propagate_down=propagate_down,
        blob_counts=blob_counts,
    ).document


def rename_reported(
    doc: Document,
    prefix: str,
    *,
    freeze: bool = True,
    freeze_pattern: str | None = None,
    thaw_pattern: str | None = None,
    keep: Collection[str] = (),
    all: bool = False,
    again: bool = False,
    propagate_down: bool = False,
    blob_counts: Mapping[str, int] | None = None,
    outputs: Collection[str] = (),
) -> RenameResult:
    """`rename`, with a report of what was done to each layer. Raises: as `rename`.

    outputs  blobs that layers outside of this net will read, and learn through it
    """
    prefix = _checked_prefix(prefix)
    _check_readable(doc)
    if not freeze and (freeze_pattern is not None or thaw_pattern is not None):
        raise RenameError("layers are chosen for freezing, but freezing is off")
    outlines = [(net, text_layers(net)) for net in text_nets(doc)]
    every = [layer for _, found in outlines for layer in found]
    if not every:
        raise RenameError("there are no layers in this text", place=doc.name, hint=_net_hint(doc))
    if not again:
        _check_not_prefixed(doc, every, prefix)
    edits = Edits(doc)
    errors: list[PrototxtError] = []
    notes: list[str] = []
    known = {scalar.value for _, found in outlines for layer in found for scalar in layer.bottoms + layer.tops}
    for net, found in outlines:
        outside = outside_blobs(net, found)
        known |= outside
        names = _Names(prefix, (set() if all else outside) | set(keep))
        for scalar in net.scalars("input"):
            _write(edits, scalar, names.blob(scalar.value))
        for layer in found:
            _rename_layer(edits, layer, names)
        errors += _collisions(doc, found, names)
        notes += [] if all else _shared_in_place(found, outside)
    errors += _unknown_kept(doc, keep, known)
    done: dict[int, tuple[str, ...]] = {}
    if freeze:
        choice = FreezePatterns(freeze_pattern, thaw_pattern)
        freezing = freeze_layers(edits, every, choice, blob_counts, outputs)
        done = freezing.done
        errors += freezing.errors
        notes += freezing.notes
        if propagate_down:
            written, refused = stop_gradients(edits, every, select_layers(doc, every, choice))
            errors += refused
            done |= {key: (*done.get(key, ()), text) for key, text in written.items()}
    raise_all(errors)
    changes = tuple(
        LayerChange(layer.name, f"{prefix}/{layer.name}" if layer.name else "", layer.type, done.get(id(layer), ()))
        for layer in every
    )
    return RenameResult(edits.apply(), changes, tuple(notes))


def _rename_layer(edits: Edits, layer: TextLayer, names: _Names) -> None:
    for scalar in layer.body.scalars("name"):
        _write(edits, scalar, names.prefixed(scalar.value))
    for scalar in layer.bottoms + layer.tops + layer.body.scalars("in_step_with"):
        _write(edits, scalar, names.blob(scalar.value))
    named = shared_names(layer)
    for block in layer.body.messages("pct_param"):  # a loss may name the layer whose weights it compares with
        named += block.scalars("classifier")
    for scalar in named:
        _write(edits, scalar, names.prefixed(scalar.value))


def _write(edits: Edits, scalar: Scalar, new: str) -> None:
    """Change a name by what is put before it, so that its own spelling keeps its bytes."""
    old = scalar.value
    if new == old:
        return
    added = new.removesuffix(old)
    if scalar.kind == "string":
        mark = scalar.raw[0]
        edits.insert_text(scalar.start + 1, added.replace("\\", "\\\\").replace(mark, "\\" + mark))
    else:
        edits.replace(scalar, f'"{added}{scalar.raw}"')


def _checked_prefix(prefix: str) -> str:
    prefix = prefix.rstrip("/")
    if not prefix or prefix.startswith("/") or not prefix.isprintable() or prefix != prefix.strip():
        raise RenameError(f"{prefix!r} is no prefix", hint="use a word such as odd; layers become odd/conv1 and so on")
    return prefix


def _check_readable(doc: Document) -> None:
    """Refuse a text of which a broken part may hide a name; other broken parts stay as they are."""
    if doc.errors and (len(doc.broken) < len(doc.errors) or any(_matters(doc, *span) for span in doc.broken)):
        raise_all(doc.errors)


def _matters(doc: Document, start: int, end: int) -> bool:
    return start == end or _ESSENTIAL.search(doc.text[start : min(end, start + 10_000)]) is not None


def _check_not_prefixed(doc: Document, every: list[TextLayer], prefix: str) -> None:
    named = [layer.name for layer in every if layer.name and not layer.is_data]
    if named and len([name for name in named if name.startswith(prefix + "/")]) == len(named):
        raise RenameError(
            f"every layer already starts with {prefix + '/'!r}",
            place=doc.name,
            hint="use another prefix, or --again to put it before the names once more",
        )


def _collisions(doc: Document, found: list[TextLayer], names: _Names) -> list[PrototxtError]:
    """Errors for two blobs that would bear one name; layers and parameters all get the prefix and stay apart."""
    owners: dict[str, str] = {}
    errors: list[PrototxtError] = []
    for old, new in names.blobs.items():
        other = owners.setdefault(new, old)
        if other != old:
            place = next(
                (scalar.start for layer in found for scalar in layer.bottoms + layer.tops if scalar.value == old), 0
            )
            errors.append(
                RenameError(
                    f"the blobs {other!r} and {old!r} would both be called {new!r}",
                    place=doc.place(place),
                    hint="use another prefix, or --all to rename inputs and data too",
                )
            )
    return errors


def _unknown_kept(doc: Document, keep: Collection[str], known: set[str]) -> list[PrototxtError]:
    from difflib import get_close_matches  # not needed by most runs, which it would slow down

    errors: list[PrototxtError] = []
    for name in keep:
        if name not in known:
            close = get_close_matches(name, sorted(known), n=1)
            hint = f"did you mean {close[0]!r}?" if close else None
            errors.append(RenameError(f"there is no blob {name!r} to keep", place=doc.name, hint=hint))
    return errors


def _shared_in_place(found: list[TextLayer], outside: set[str]) -> list[str]:
    return fold_notes(
        (f"changes the shared blob {top.value!r} in place: nets that share it would see the change", layer.name)
        for layer in found
        if not layer.is_data
        for top in layer.tops
        if top.value in outside and top.value in [bottom.value for bottom in layer.bottoms]
    )


def _net_hint(doc: Document) -> str | None:
    for name in ("net", "train_net", "test_net"):
        path = doc.root.string(name)
        if path:
            return f"this looks like a solver: rename its net, {path}"
    return None
