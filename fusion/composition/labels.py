"""The labels of the fused net: the layers that compute them from data, and whether all sources learn the same ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fusion.composition.branches import ancestors
from fusion.composition.data_layers import DataLayout
from fusion.composition.lists import ListChoice
from fusion.composition.net_text import PHASES, LayerText, excerpt, format_layer
from fusion.composition.prepared_source import PreparedSource
from fusion.composition.preprocessing import describe_stream, parameters
from fusion.errors import ComposeError, raise_all
from prototxt.schema.params import param_count

_PAIRS = ("ContrastiveLoss",)


@dataclass(frozen=True)
class PreparedLabels:
    """The labels of the main source's data.

    blobs  those of the data layers that are labels, or from which labels are computed, and that no branch reads
    text   the layers that compute labels from them, such as a Slice of several labels, unchanged
    notes  one sentence about these layers
    """

    blobs: tuple[str, ...]
    text: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def prepared_labels(main: PreparedSource, labels: Sequence[str]) -> PreparedLabels:
    """Return the data blobs and the layers that labels come from.

    Raises: ComposeError for a label that does not exist, is missing in a phase, or is computed by layers with weights.
    """
    net = main.raw
    pairs = [layer.bottoms[2] for layer in net.layers if layer.type in _PAIRS and len(layer.bottoms) > 2]
    if set(pairs) & set(labels) and (error := pairs_error(main)):
        raise error
    tops = [top for layer in net.layers for top in layer.tops if layer.phases]
    for blob in labels:
        if blob not in tops:
            hint = f"its data has {', '.join(main.data_blobs)}; all labels come from one source's data layers, where "
            hint += "HDF5Data can have a further top for each that its files hold (or take another's: --data-from)"
            raise main.error(f"{main} has no blob '{blob}' to take labels from", hint)
    found = ancestors(net, tuple(labels))
    layers = [layer for layer in net.layers if layer.number in found.layers]
    for layer in layers:
        if param_count(layer.type, layer.message):
            message = f"{main}: the label '{labels[0]}' is computed by '{layer.name}', which has weights"
            raise main.error(message, "name a label that comes from the data alone", layer)
    _check_phases(main, [*main.branch.inputs, *found.inputs], labels)
    read = {bottom for layer in layers for bottom in layer.bottoms} | set(labels)
    unread = dict.fromkeys(top for layer in layers for top in layer.tops if top not in read)
    text = [excerpt(net, layer) for layer in layers]
    text += [format_layer("unread_labels", "Silence", list(unread), [])] if unread else []
    names = ", ".join(layer.name for layer in layers)
    shown = f"the labels {', '.join(labels)} are" if len(labels) > 1 else f"the label {labels[0]} is"
    notes = [f"data: {shown} computed by {names}, as in {main}"] if layers else []
    blobs = [blob for blob in dict.fromkeys([*found.inputs, *labels]) if blob not in main.branch.inputs]
    return PreparedLabels(tuple(blobs), tuple(text), tuple(notes))


def _check_phases(main: PreparedSource, needed: Sequence[str], labels: Sequence[str]) -> None:
    """Check that inputs and labels exist in both phases. Raises: ComposeError."""
    for phase in PHASES:
        present = [layer for layer in main.raw.layers if phase in layer.phases]
        given = {top for layer in present if layer.is_data for top in layer.tops}
        computed = {top for layer in present for top in layer.tops}
        missing = [blob for blob in needed if blob not in given] + [blob for blob in labels if blob not in computed]
        if missing:
            raise main.error(
                f"{main} has no data layer that gives '{missing[0]}' in phase {phase}",
                "take the data from a source with layers for both phases (--data-from), or add one to this file",
            )


def pairs_error(source: PreparedSource) -> ComposeError | None:
    """Return the error of a source whose labels say whether two samples are alike; None if its labels do not."""
    layers = [layer for layer in source.raw.layers if layer.type in _PAIRS and layer.phases and len(layer.bottoms) > 2]
    if not layers:
        return None
    blob = layers[0].bottoms[2]
    return source.error(
        f"{source} was trained on pairs: '{blob}' says whether the two are alike, and is no class label",
        "give the net of one side (its deploy prototxt), and lists with class labels (--train-list, --val-list)",
        layers[0],
    )


_SAME_VALUES = ("Flatten", "Reshape", "Split")


@dataclass(frozen=True)
class SourceLabels:
    """The labels of the sources' own losses.

    loss   the type of the fused net's loss
    blobs  per prefix the label, of sources that have a loss
    """

    loss: str
    blobs: Mapping[str, str]


def check_same_labels(sources: Sequence[PreparedSource], labels: SourceLabels, layout: DataLayout) -> None:
    """Check that the sources' own losses read the same label, as far as their files show.

    Raises: ComposeError if a source reads another part of the same records, or computes its label in another way.
    """
    main, own = layout.main.prefix, labels.blobs
    if main not in own:
        return
    mine = _origin(layout.main, own[main], layout.choice)
    errors = []
    for source in sources:
        prefix, blob = source.prefix, own.get(source.prefix)
        if blob is None:
            continue
        theirs = _origin(source, blob, layout.choice)
        if mine is None or theirs is None or mine == theirs or _records(mine) != _records(theirs):
            continue
        errors.append(
            ComposeError(
                f"the sources learn different labels of the same records: '{main}' learns "
                f"{_label_name(layout.main, own[main])}, and '{prefix}' learns {_label_name(source, blob)}",
                place=source.raw.file,
                hint=f"choose one: --loss {labels.loss},label={own[main]}, or that of '{prefix}' by "
                f"--data-from {prefix} --loss {labels.loss},label={blob}; data with both can have a --task for each",
            )
        )
    raise_all(errors)


def _label_name(source: PreparedSource, blob: str) -> str:
    """Return a label's name, with the last layer that computes it."""
    makers = [layer.name for layer in source.raw.layers if blob in layer.tops and not layer.is_data]
    return f"'{blob}'" + (f" as '{makers[-1]}' computes it" if makers else "")


def _origin(source: PreparedSource, blob: str, choice: ListChoice) -> tuple[object, ...] | None:
    """Return the origin of a label: a top of a data layer and the layers after it; None without a data layer."""
    for phase in PHASES:
        writers: dict[str, tuple[object, ...]] = {}
        for layer in source.raw.layers:
            if phase in layer.phases:
                writers.update(_origins(source, layer, phase, choice, writers))
        if blob in writers:
            return writers[blob]
    return None


def _origins(
    source: PreparedSource, layer: LayerText, phase: str, choice: ListChoice, known: Mapping[str, tuple[object, ...]]
) -> dict[str, tuple[object, ...]]:
    """Return the origin of each top of a layer, if that of all its bottoms is known."""
    if layer.is_data:
        streams = {top: describe_stream(layer, top, choice.path(source, layer, phase)) for top in layer.tops}
        return {top: ("data", item.records, item.top) for top, item in streams.items()}
    if not all(bottom in known for bottom in layer.bottoms):
        return {}
    read = tuple(known[bottom] for bottom in layer.bottoms)
    if layer.type in _SAME_VALUES and len(read) == 1:
        return dict.fromkeys(layer.tops, read[0])
    return {top: ("layer", layer.type, parameters(layer), number, read) for number, top in enumerate(layer.tops)}


def _records(origin: tuple[object, ...]) -> frozenset[object]:
    """Return all records that a label is computed from."""
    if origin[0] == "data":
        return frozenset((origin[1],))
    read = origin[-1]
    assert isinstance(read, tuple)
    return frozenset().union(*map(_records, read))
