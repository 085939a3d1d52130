"""Prepare a net for fusion: read it, upgrade its syntax, cut it, rename it with its prefix, and freeze it."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from fusion.composition.branches import (
    Branch,
    ancestors,
    check_cut,
    cut_candidates,
    default_cut,
    readers_of,
    scores_blobs,
)
from fusion.composition.net_text import LayerText, NetText, keep_layers, read_net, reparse
from fusion.composition.onnx_sources import read_onnx
from fusion.composition.source import Source, SourceText
from fusion.composition.stages import resolve_stages
from fusion.conversion.net_names import is_onnx_path
from fusion.errors import ComposeError, raise_all
from prototxt.errors import did_you_mean
from prototxt.schema.layer_types import not_run
from prototxt.schema.params import KNOWN_TYPES
from prototxt.text.fold_notes import fold_notes
from prototxt.text.tree import Document


@dataclass(frozen=True)
class PreparedSource:
    """A source with its branch renamed and frozen, and its data layers as they were.

    spec        the source as the user gave it, its cuts and scores resolved

    raw         the whole net in today's syntax, names as in the file
    net         the renamed and frozen net: data layers, the branch, and the classifier if it is a reference
    branch      names are those of `net`
    classifier  the layers between the cut and `logits`, for references
    cuts        the cut blobs, renamed; `plain` are the same without the prefix, `raw_cuts` as in the file
    reader      name without prefix of the layer that reads the (first) cut in the source, if just one does
    unknown     notes on fields that no schema knows, with their places: a fork's, or misspelt
    stages      the stages that the file's rules name
    classes     the fused classes of its scores by number, once the fused net's classes are known; () for all
    """

    spec: Source
    raw: NetText
    net: NetText
    branch: Branch
    classifier: frozenset[int]
    cuts: tuple[str, ...]
    plain: tuple[str, ...]
    raw_cuts: tuple[str, ...]
    logits: str | None
    reader: str | None
    notes: tuple[str, ...] = field(default=())
    unknown: tuple[str, ...] = field(default=())
    stages: tuple[str, ...] = field(default=())
    classes: tuple[int, ...] = field(default=())

    def __str__(self) -> str:
        return str(self.spec)

    @property
    def prefix(self) -> str:
        """Return the source's prefix."""
        return self.spec.prefix

    @property
    def data_layers(self) -> tuple[LayerText, ...]:
        """Return the data layers of the source that read a file or a database."""
        return tuple(layer for layer in self.raw.layers if layer.is_data and layer.type != "Input")

    @property
    def data_blobs(self) -> tuple[str, ...]:
        """Return the tops of these data layers, in order, each once."""
        return tuple(dict.fromkeys(top for layer in self.data_layers for top in layer.tops))

    @property
    def input_shape(self) -> tuple[int, ...] | None:
        """Return the shape of the source's first input by its Input layer or `input_dim`; None if it has none."""
        blob, root = self.branch.inputs[0], self.raw.document.root
        for layer in self.raw.layers:
            if layer.type == "Input" and blob in layer.tops:
                shapes = [shape for param in layer.message.messages("input_param") for shape in param.messages("shape")]
                # One shape may serve all tops.
                index = min(layer.tops.index(blob), len(shapes) - 1)
                return tuple(int(dim.value) for dim in shapes[index].scalars("dim")) if shapes else None
        if not self.raw.inputs:
            return None
        index, shapes = self.raw.inputs.index(blob), root.messages("input_shape")
        if len(shapes) > index:
            return tuple(int(dim.value) for dim in shapes[index].scalars("dim"))
        dims = [int(dim.value) for dim in root.scalars("input_dim")]  # the oldest form: four per input
        return tuple(dims[4 * index : 4 * index + 4]) or None

    def error(self, message: str, hint: str, layer: LayerText | None = None) -> ComposeError:
        """Return an error in the source's file, at a layer of `raw` if given."""
        return ComposeError(message, place=self.raw.place(layer) if layer else self.raw.file, hint=hint)


def prepare_source(source: Source, *, reference: bool) -> PreparedSource:
    """Read a source and cut, rename and freeze its branch; with `reference` its classifier stays.

    Raises: ComposeError, PrototxtError, OSError.
    """
    text = _read_source(source, reference=reference)
    source = replace(source, at=text.at, logits=text.logits)
    notes, document = list(text.notes), text.document
    unknown = _unknown_fields(document)
    raw, stages = resolve_stages(_upgraded(document, source, notes), source, notes)
    names = [layer.name for layer in raw.layers if layer.name and not layer.is_data]
    renamed = bool(names) and all(name.startswith(f"{source.prefix}/") for name in names)
    if renamed:
        notes.append(f"{source}: its names already start with '{source.prefix}/'")
    cuts = _cuts(source, raw, renamed, notes)
    branch = ancestors(raw, cuts)
    if not branch.inputs:
        raise ComposeError(f"{source}: blob '{cuts[0]}' does not depend on any input", place=raw.file)
    logits = _logits(source, raw, renamed) if reference else None
    # The classifier is all that the scores need beyond the branch; it may branch off before the cut.
    both = ancestors(raw, (*cuts, logits)) if logits else branch
    classifier = both.layers - branch.layers
    data = frozenset(layer.number for layer in raw.layers if layer.is_data)
    outputs = (*cuts, logits) if logits else cuts
    net, numbers = _prefixed(raw, both.layers | data, source, renamed, outputs, notes)
    prefixed = {name: name if renamed else f"{source.prefix}/{name}" for name in outputs}
    readers = {layer.name for layer in readers_of(raw, cuts[0]) if layer.name}
    return PreparedSource(
        spec=source,
        raw=raw,
        net=net,
        branch=Branch(frozenset(numbers[number] for number in branch.layers), branch.inputs),
        classifier=frozenset(numbers[number] for number in classifier),
        cuts=tuple(prefixed[name] for name in cuts),
        plain=tuple(name.removeprefix(f"{source.prefix}/") for name in cuts),
        raw_cuts=cuts,
        logits=prefixed[logits] if logits else None,
        reader=readers.pop().removeprefix(f"{source.prefix}/") if len(readers) == 1 else None,
        notes=tuple(notes),
        unknown=unknown,
        stages=stages,
    )


def _read_source(source: Source, *, reference: bool) -> SourceText:
    """Read a source's file.

    reference  whether its class scores are needed beside the blobs to cut at
    Raises: ComposeError, PrototxtError, OSError.
    """
    net = source.prototxt
    if not isinstance(net, Document) and is_onnx_path(net):
        return read_onnx(source, reference=reference)
    from fusion.composition.pixels import with_pixels
    from prototxt.text.parser import parse_file

    document = net if isinstance(net, Document) else parse_file(net)
    if source.pixels is not None:
        document = with_pixels(document, source.pixels, source.prefix)
    return SourceText(document, source.at, source.logits)


def _unknown_fields(document: Document) -> tuple[str, ...]:
    """Return a note for each field that no schema knows and that is kept: it may be a fork's, or misspelt."""
    from prototxt.schema.decode import UnknownFieldWarning
    from prototxt.schema.load import load_net

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load_net(document, strict=False)
    unknown = [warning.message for warning in caught if isinstance(warning.message, UnknownFieldWarning)]
    places: dict[str, list[str]] = {}
    for place, text in (each for warning in unknown for each in warning.unknown):
        places.setdefault(text, []).append(str(place))
    return tuple(
        f"{at[0]}: no schema knows {text}" + (f" (and {len(at) - 1} more of them)" if len(at) > 1 else "")
        for text, at in places.items()
    )


def _upgraded(document: Document, source: Source, notes: list[str]) -> NetText:
    """Return the net in current syntax: unchanged, or rewritten from one of Caffe's first two syntaxes."""
    root = document.root
    has_lists = any(len(field.values) != 1 for field in root.all("layer"))  # layer: [{...}, {...}]
    if not has_lists and not root.all("layers") and not any(layer.all("layer") for layer in root.messages("layer")):
        net = read_net(document)
        if not net.layers:
            raise ComposeError(f"{source}: this is no net: it has no layers", place=document.name)
        return net
    from prototxt.schema.encode import to_text
    from prototxt.schema.load import load_net

    notes.append(f"{source}: its old syntax is upgraded, without the comments of the file")
    return read_net(reparse(to_text(load_net(document)), document.name))


def _cuts(source: Source, raw: NetText, renamed: bool, notes: list[str]) -> tuple[str, ...]:
    """Return the cut blobs by their names in the file. Raises: ComposeError for a blob that cannot be cut at."""
    if source.at is None:
        found = _before_classifiers(source, raw, renamed)
        if found is None:
            hint = f"name the blob: '{source.prefix}=...@BLOB', one of {', '.join(cut_candidates(raw)[:12])}"
            raise ComposeError(f"{source}: no classifier was found to cut before", hint=hint)
        notes.append(f"{source}: cut at '{found}', which its classifier reads")
        return (found,)
    names = (source.at,) if isinstance(source.at, str) else tuple(source.at)
    cuts = tuple(_in_file(blob, raw, source.prefix, renamed) for blob in names)
    for blob in cuts:
        check_cut(raw, blob, source.prefix)
    return cuts


def _before_classifiers(source: Source, raw: NetText, renamed: bool) -> str | None:
    """Return the blob that the classifier reads, of the named scores if given. Raises: ComposeError for several."""
    logits = None if source.logits is None else _in_file(source.logits, raw, source.prefix, renamed)
    scores = scores_blobs(raw) if logits is None else (logits,)
    cuts = {blob: default_cut(raw, blob) for blob in scores}
    if len(set(cuts.values())) > 1:
        blobs = ", ".join(f"'{blob}' (reads {repr(cut) if cut else 'another'})" for blob, cut in cuts.items())
        found = [cut for cut in cuts.values() if cut]
        hint = f"say where to cut: '{source.prefix}=...@{(found or scores)[0]}'; several blobs are cut as @BLOB,BLOB"
        raise ComposeError(f"{source} has several classifiers: {blobs}", place=raw.file, hint=hint)
    return next(iter(cuts.values()), None)


def _in_file(blob: str, raw: NetText, prefix: str, renamed: bool) -> str:
    """Return a blob's name in the file, whether it was given with the prefix or without."""
    names = cut_candidates(raw)
    if blob in names:
        return blob
    other = f"{prefix}/{blob}" if renamed else blob.removeprefix(f"{prefix}/")
    return other if other in names else blob


def _logits(source: Source, raw: NetText, renamed: bool) -> str:
    if source.logits is not None:
        blob = _in_file(source.logits, raw, source.prefix, renamed)
        check_cut(raw, blob, source.prefix)
        return blob
    scores = scores_blobs(raw)
    if len(scores) > 1:
        hint = f"name the one to keep as a reference: --logits {source.prefix}={scores[0]} (Source.logits)"
        raise ComposeError(f"{source} has several classifiers: {', '.join(scores)}", place=raw.file, hint=hint)
    if not scores or scores[0] in raw.input_blobs:
        hint = "name the blob with its class scores (Source.logits), or compose without references"
        raise ComposeError(f"{source}: no classifier was found to keep as a reference", place=raw.file, hint=hint)
    return scores[0]


def _prefixed(
    raw: NetText, kept: frozenset[int], source: Source, renamed: bool, outputs: Sequence[str], notes: list[str]
) -> tuple[NetText, dict[int, int]]:
    """Return the kept layers renamed and frozen, and the new number of each.

    Raises: ComposeError, RenameError; WeightsError, OSError for the weights.
    """
    from prototxt.edit.rename import RenameOptions, rename_reported
    from prototxt.formats.scan import blob_counts

    document = keep_layers(raw, kept).document
    counts = None
    if source.weights is not None:
        found = blob_counts(source.weights)
        counts = {**{f"{source.prefix}/{name}": count for name, count in found.items()}, **found}
    _check_types([layer for layer in raw.layers if layer.number in kept], raw, counts or {})
    if renamed:
        document, done, details = _freeze(document, counts, outputs)
    else:
        report = rename_reported(document, source.prefix, RenameOptions(blob_counts=counts), outputs)
        document, details = report.document, report.notes
        done = {change.renamed: change.done for change in report.changes}
    layers = [layer for layer in raw.layers if layer.number in kept]
    idle = fold_notes((words, layer.name) for layer in layers if (words := not_run(layer.type)))
    notes += [f"{source}: {note}" for note in (*details, *idle, *_freeze_notes(done))]
    return read_net(document), {old: new for new, old in enumerate(sorted(kept))}


def _check_types(layers: Sequence[LayerText], raw: NetText, counts: Mapping[str, int]) -> None:
    """Check for misspelt types. Raises: ComposeError for types close to a known one that the weights do not have."""
    errors = []
    for layer in layers:
        if layer.is_data or layer.type in KNOWN_TYPES or layer.name in counts:
            continue
        # Types of forks pass; only a type very close to a known one is taken for a misspelling.
        near = did_you_mean(layer.type, KNOWN_TYPES, cutoff=0.9)
        if near:
            message = f"layer '{layer.name}': unknown type '{layer.type}'"
            hint = f"{near} if it is a fork's, give the source's weights (--weights)"
            errors.append(ComposeError(message, place=raw.place(layer), hint=hint))
    raise_all(errors)


def _freeze(
    document: Document, counts: Mapping[str, int] | None, outputs: Collection[str]
) -> tuple[Document, dict[str, tuple[str, ...]], tuple[str, ...]]:
    """Return a document with all its layers frozen, the changes per layer, and notes. Raises: RenameError."""
    from prototxt.edit.freeze import FreezePatterns, freeze
    from prototxt.edit.layer_view import text_layers
    from prototxt.errors import raise_all
    from prototxt.text.edits import Edits

    every = text_layers(document.root)
    edits = Edits(document)
    freezing = freeze(edits, every, FreezePatterns(), counts, outputs)
    raise_all(freezing.errors)
    return edits.apply(), {layer.name: freezing.done.get(id(layer), ()) for layer in every}, freezing.notes


def _freeze_notes(done: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the changes of freezing, one line per kind of change."""
    changed: dict[str, list[str]] = {}
    for name, steps in done.items():
        for step in steps:
            changed.setdefault(step, []).append(name)
    return [
        f"{step}: {', '.join(names[:4])}{f' and {len(names) - 4} more' if len(names) > 4 else ''}"
        for step, names in changed.items()
    ]
