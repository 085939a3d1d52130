"""Prefix the names of a net by their role in the graph, never by text search, and freeze the net.

Only the necessary bytes change: comments, blanks, order, unknown fields and old syntax are kept.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypedDict

from prototxt.edit.freeze import FreezePatterns, freeze as freeze_layers, select_layers, shared_names, stop_gradients
from prototxt.edit.layer_view import TextLayer, outside_blobs, text_layers, text_nets
from prototxt.errors import PrototxtError, RenameError, did_you_mean, raise_all
from prototxt.text.edits import Edits
from prototxt.text.fold_notes import fold_notes
from prototxt.text.tree import Document, Scalar

if TYPE_CHECKING:
    from typing_extensions import Unpack

# An unreadable span with one of these may hide a name or a layer; any other can be kept unchanged.
_ESSENTIAL = re.compile(
    r"\b(?:name|type|top|bottom|param|layers?|input|lr_mult|blobs_lr|(?:dropout|batch_norm|net)\w*_param)\b|^[{}<>\[\]]"
)


class RenameKeywords(TypedDict, total=False):
    """The keywords of `rename`, for type checkers."""

    freeze: bool
    freeze_pattern: str | None
    thaw_pattern: str | None
    keep: Collection[str]
    all: bool
    again: bool
    propagate_down: bool
    blob_counts: Mapping[str, int] | None


@dataclass(frozen=True)
class RenameOptions:
    """The options of `rename`, described there."""

    freeze: bool = True
    freeze_pattern: str | None = None
    thaw_pattern: str | None = None
    keep: Collection[str] = ()
    all: bool = False
    again: bool = False
    propagate_down: bool = False
    blob_counts: Mapping[str, int] | None = None


class LayerChange(NamedTuple):
    """The change of one layer: its old and new name, its type, and the freezing in words."""

    name: str
    renamed: str
    type: str
    done: tuple[str, ...]


class RenameResult(NamedTuple):
    """A renamed document, the change of each layer, and notes for the user."""

    document: Document
    changes: tuple[LayerChange, ...]
    notes: tuple[str, ...] = ()


class _Names:
    """The new names of one net's layers, blobs and shared parameters."""

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


def rename(doc: Document, prefix: str, **options: Unpack[RenameKeywords]) -> Document:
    """Return a net with `prefix/` before the names of its layers, blobs and shared parameters, frozen by default.

    The net's inputs and the tops of its data layers keep their names, so that several nets can share them.

    freeze          freeze the layers (default True)
    freeze_pattern  freeze only the layers whose names this regular expression finds
    thaw_pattern    freeze no layer whose name this regular expression finds
    keep            further blobs to leave unchanged
    all             rename inputs and the tops of data layers too (default False)
    again           rename even if all layers have the prefix already (default False)
    propagate_down  write `propagate_down: false` at the frozen boundary as well (default False)
    blob_counts     number of blobs by layer name, for layers whose description does not determine it

    Raises: RenameError with all obstacles; ParseError if an unreadable part of the text may contain names.
    """
    return rename_reported(doc, prefix, RenameOptions(**options)).document


def rename_reported(
    doc: Document, prefix: str, options: RenameOptions | None = None, outputs: Collection[str] = ()
) -> RenameResult:
    """Rename as `rename` does, and report the changes of each layer. Raises: as `rename`.

    outputs  blobs that layers outside this net will read, and learn through it
    """
    options = options or RenameOptions()
    prefix = _checked_prefix(prefix)
    _check_readable(doc)
    patterns = FreezePatterns(options.freeze_pattern, options.thaw_pattern)
    if not options.freeze and patterns != (None, None):
        raise RenameError("patterns for freezing are given, but freezing is off")
    outlines = [(net, text_layers(net)) for net in text_nets(doc)]
    every = [layer for _, found in outlines for layer in found]
    if not every:
        raise RenameError("there are no layers in this text", place=doc.name, hint=_net_hint(doc))
    if not options.again:
        _check_not_prefixed(doc, every, prefix)
    edits = Edits(doc)
    errors: list[PrototxtError] = []
    notes: list[str] = []
    known = {scalar.value for _, found in outlines for layer in found for scalar in layer.bottoms + layer.tops}
    for net, found in outlines:
        outside = outside_blobs(net, found)
        known |= outside
        names = _Names(prefix, (set() if options.all else outside) | set(options.keep))
        for scalar in net.scalars("input"):
            _write(edits, scalar, names.blob(scalar.value))
        for layer in found:
            _rename_layer(edits, layer, names)
        errors += _collisions(doc, found, names)
        notes += [] if options.all else _shared_in_place(found, outside)
    errors += _unknown_kept(doc, options.keep, known)
    done: dict[int, tuple[str, ...]] = {}
    if options.freeze:
        freezing = freeze_layers(edits, every, patterns, options.blob_counts, outputs)
        done = freezing.done
        errors += freezing.errors
        notes += freezing.notes
        if options.propagate_down:
            written, refused = stop_gradients(edits, every, select_layers(doc, every, patterns))
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
    for block in layer.body.messages("pct_param"):  # a loss may name a layer whose weights it compares
        named += block.scalars("classifier")
    for scalar in named:
        _write(edits, scalar, names.prefixed(scalar.value))


def _write(edits: Edits, scalar: Scalar, new: str) -> None:
    """Rename by inserting the prefix, so that the spelling of the old name keeps its bytes."""
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
        hint = "use a word such as odd: layers become odd/conv1 and so on"
        raise RenameError(f"{prefix!r} is not a valid prefix", hint=hint)
    return prefix


def _check_readable(doc: Document) -> None:
    """Check that no unreadable part of the text may hide a name; others are kept. Raises: ParseError."""
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
            hint="use another prefix, or --again to add it once more",
        )


def _collisions(doc: Document, found: list[TextLayer], names: _Names) -> list[PrototxtError]:
    """Return errors for blobs that would get the same name; layers and parameters all get the prefix, so cannot."""
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
    return [
        RenameError(f"there is no blob {name!r} to keep", place=doc.name, hint=did_you_mean(name, sorted(known)))
        for name in keep
        if name not in known
    ]


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
