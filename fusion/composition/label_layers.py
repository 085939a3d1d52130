"""The layers that make labels from what data layers give, such as a Slice of several labels: kept as they stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fusion.composition.branches import ancestors
from fusion.composition.net_text import PHASES, excerpt, layer_text
from fusion.composition.sources import PreparedSource
from fusion.errors import ComposeError
from prototxt.schema.params import param_count

_PAIRS = ("ContrastiveLoss",)


@dataclass(frozen=True)
class PreparedLabels:
    """The labels of the main source's data.

    blobs  those of the data layers that labels are, or are made from, and that no branch needs
    text   the layers that make labels from them
    notes  what was kept, one sentence each
    """

    blobs: tuple[str, ...]
    text: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def prepared_labels(main: PreparedSource, labels: Sequence[str]) -> PreparedLabels:
    """Return the data blobs and the layers that labels come from.

    Raises: ComposeError for a label that is not there, is missing in a phase, or is computed by layers with weights.
    """
    net = main.raw
    pairs = [layer.bottoms[2] for layer in net.layers if layer.type in _PAIRS and len(layer.bottoms) > 2]
    if set(pairs) & set(labels) and (error := pairs_error(main)):
        raise error
    tops = [top for layer in net.layers for top in layer.tops if layer.phases]
    for blob in labels:
        if blob not in tops:
            known = [top for layer in main.data_layers for top in layer.tops]
            what = f"source '{main.prefix}' has no blob '{blob}' to take labels from"
            hint = (
                f"its data has {', '.join(dict.fromkeys(known))}; all labels come from one source's data layers, where "
            )
            hint += "HDF5Data can have a further top for each that its files hold (or take another's: --data-from)"
            raise ComposeError(what, place=net.document.name, hint=hint)
    found = ancestors(net, tuple(labels))
    layers = [layer for layer in net.layers if layer.number in found.layers]
    for layer in layers:
        if param_count(layer.type, layer.message):
            what = f"source '{main.prefix}': the label '{labels[0]}' is computed by '{layer.name}', which has weights"
            raise ComposeError(what, place=net.place(layer), hint="name a label that comes from the data alone")
    _check_phases(main, [*main.branch.inputs, *found.inputs], labels)
    read = {bottom for layer in layers for bottom in layer.bottoms} | set(labels)
    unread = dict.fromkeys(top for layer in layers for top in layer.tops if top not in read)
    text = [excerpt(net, layer) for layer in layers]
    text += [layer_text("unread_labels", "Silence", list(unread), [])] if unread else []
    made = ", ".join(layer.name for layer in layers)
    shown = f"the labels {', '.join(labels)} are" if len(labels) > 1 else f"the label {labels[0]} is"
    notes = [f"data: {shown} made by {made}, as in source '{main.prefix}'"] if layers else []
    blobs = [blob for blob in dict.fromkeys([*found.inputs, *labels]) if blob not in main.branch.inputs]
    return PreparedLabels(tuple(blobs), tuple(text), tuple(notes))


def _check_phases(main: PreparedSource, needed: Sequence[str], labels: Sequence[str]) -> None:
    """Raises: ComposeError if pictures or labels are missing in a phase."""
    for phase in PHASES:
        there = [layer for layer in main.raw.layers if phase in layer.phases]
        given = {top for layer in there if layer.is_data for top in layer.tops}
        made = {top for layer in there for top in layer.tops}
        missing = [blob for blob in needed if blob not in given] + [blob for blob in labels if blob not in made]
        if missing:
            raise ComposeError(
                f"source '{main.prefix}' has no data layer that gives '{missing[0]}' in phase {phase}",
                place=main.raw.document.name,
                hint="take the data from a source with layers for both phases (--data-from), or add one to this file",
            )


def pairs_error(part: PreparedSource) -> ComposeError | None:
    """Return the error of a source whose labels tell whether two samples are alike, which no class label does."""
    layers = [layer for layer in part.raw.layers if layer.type in _PAIRS and layer.phases and len(layer.bottoms) > 2]
    if not layers:
        return None
    blob = layers[0].bottoms[2]
    return ComposeError(
        f"source '{part.prefix}' was trained on pairs: '{blob}' tells whether the two are alike, and is no class label",
        place=part.raw.place(layers[0]),
        hint="give the net of one side (its deploy prototxt), and lists with class labels (--train-list, --val-list)",
    )
