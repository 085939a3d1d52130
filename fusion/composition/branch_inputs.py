"""Which blob of the fused net feeds a branch: one that holds the same, one that layers make, or one of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from fusion.composition.data_layers import Change, silenced
from fusion.composition.data_layout import Copy, Layout, converted, streams_of
from fusion.composition.lists import own_lists
from fusion.composition.net_text import PHASES, Layer
from fusion.composition.preprocessing import PARAMS, Affine, Stream, between, mirrors, stream
from fusion.composition.sources import PreparedSource
from fusion.composition.sources_without_data import fed_alike, from_lists, pixels_from
from fusion.errors import ComposeError


def feeds_of(part: PreparedSource, layout: Layout) -> dict[str, str]:
    """The fused net's blob for each input of a branch; adds the layers that this needs. Raises: ComposeError."""
    lists = own_lists(part)
    if part is layout.main:
        return {blob: blob for blob in part.branch.inputs}
    if lists is not None:
        return from_lists(part, lists, layout)
    found: dict[str, str] = {}
    own: dict[str, dict[str, Stream]] = {}
    for blob in part.branch.inputs:
        wanted: dict[str, Stream] = {}
        for layer in part.data_layers:
            if blob in layer.tops:
                wanted.update(streams_of(part, layer, blob, layout.chosen))
        if not wanted:
            continue
        shared = _shared(wanted, layout) or _added(blob, wanted, layout) or _mapped(part, blob, wanted, layout)
        found.update({blob: shared} if shared else {})
        own.update({} if shared else {blob: wanted})
    found.update(_own_layers(part, own, layout))
    rest = [blob for blob in part.branch.inputs if blob not in found]
    if rest and part.source.pixels:
        found[rest[0]] = pixels_from(part, rest[0], layout)
    elif rest:
        found.update(fed_alike(part, rest, layout))
    return {blob: found[blob] for blob in part.branch.inputs}


def _map(known: Mapping[str, Stream], wanted: Mapping[str, Stream]) -> Affine | None:
    """How the blob of the fused net becomes what a branch wants, if alike in all phases that the branch knows."""
    if set(known) != set(PHASES):
        return None
    maps = {between(known[phase], stream) for phase, stream in wanted.items()}
    return maps.pop() if len(maps) == 1 else None


def _shared(wanted: Mapping[str, Stream], layout: Layout) -> str | None:
    """The fused net's blob that holds the very same."""
    for blob, known in layout.streams.items():
        found = _map(known, wanted)
        if found is not None and found.identity:
            return blob
    return None


def _added(blob: str, wanted: Mapping[str, Stream], layout: Layout) -> str | None:
    """A further dataset from the HDF5 files that a layer reads anyway: its top is the dataset's name."""
    if blob in layout.streams:
        return None
    copies: dict[str, Copy] = {}
    for phase in PHASES:
        for copy in layout.copies:
            if copy.layer.type == "HDF5Data" and phase in copy.layer.phases:
                known = stream(copy.layer, copy.layer.tops[0], layout.chosen.source(copy.part, copy.layer, phase))
                if phase not in wanted or known.records == wanted[phase].records:
                    copies.setdefault(phase, copy)
    if set(copies) != set(PHASES) or any(item.records[0] != "HDF5Data" for item in wanted.values()):
        return None
    for copy in {id(copy): copy for copy in copies.values()}.values():
        copy.change = replace(copy.change, added=(*copy.change.added, blob))
    layout.streams[blob] = {phase: wanted.get(phase) or next(iter(wanted.values())) for phase in PHASES}
    layout.notes.append(f"data: '{blob}' is read from the same HDF5 files, as a further top of their layer")
    return blob


def _mapped(part: PreparedSource, blob: str, wanted: Mapping[str, Stream], layout: Layout) -> str | None:
    """A blob made from one of the fused net's by plain layers, where mean and scale alone differ."""
    for given, known in layout.streams.items():
        found = _map(known, wanted)
        if found is not None:
            p = part.prefix
            layout.notes.append(
                f"data: source '{p}' was trained with another mean or scale, made from '{given}' by layers at its front"
            )
            return converted(part, blob, given, found, layout, f"What '{p}' was trained on, from '{given}'.")
    return None


def _own_layers(part: PreparedSource, own: Mapping[str, Mapping[str, Stream]], layout: Layout) -> dict[str, str]:
    """Data layers of a branch's own, in step with the others, for what no other serves. Raises: ComposeError."""
    silent: dict[str, None] = {}
    found: dict[str, str] = {}
    for layer in part.data_layers if own else ():
        if not set(layer.tops) & set(own):
            continue
        _check_own(part, layer, own, layout)
        files = layer.type == "HDF5Data"  # whose tops are named after datasets
        names = {top: top if files else f"{part.prefix}/{top}" for top in layer.tops}
        dropped = [top for top in layer.tops if top not in own] if files else []
        if not files:
            silent.update(dict.fromkeys(names[top] for top in layer.tops if top not in own))
        name = f"{part.prefix}/{layer.name.removeprefix(part.prefix + '/')}"
        if mirrors(layer) and not any(
            mirrors(other) for other in layout.main.data_layers if other.phases == layer.phases
        ):
            layout.notes.append(f"data: '{part.prefix}' is not mirrored, since '{layout.main.prefix}' is not")
        layout.copies.append(Copy(part, layer, Change(name=name, blobs=names, dropped=dropped)))
        for top in set(layer.tops) & set(own):
            found[top] = names[top]
            streams = streams_of(part, layer, top, layout.chosen)
            layout.streams.setdefault(names[top], {}).update(streams)
    if found:
        layout.notes.append(
            f"data: source '{part.prefix}' reads or prepares its records in its own way and gets its own data layer"
        )
    layout.further += silenced(f"{part.prefix}/labels", silent)
    return found


def _check_own(part: PreparedSource, layer: Layer, own: Mapping[str, Mapping[str, Stream]], layout: Layout) -> None:
    """Raises: ComposeError if a data layer cannot stand in step beside others."""
    p, place = part.prefix, part.raw.place(layer)
    records = [
        one for one in layout.main.data_layers if one.type != "DummyData" and set(one.phases) & set(layer.phases)
    ]
    beside = (one.type for one in (layer, *records))
    unordered = next((kind for kind in beside if kind not in PARAMS or kind == "WindowData"), None)
    if unordered is not None:
        raise ComposeError(
            f"source '{p}' reads other records than '{layout.main.prefix}', or prepares them in its own way, and a "
            f"layer of type '{unordered}' cannot be held in step with others",
            place=place,
            hint="give the data of both as one of ImageData, Data, HDF5Data, or the same layer in both files",
        )
    for blob in set(layer.tops) & set(own):
        missing = [phase for phase in PHASES if phase not in own[blob]]
        if missing:
            what = f"source '{p}' needs a data layer of its own for '{blob}', and has none in phase {missing[0]}"
            raise ComposeError(what, place=place, hint="add one to its file, or give one list for all (--train-list)")
        if layer.type == "HDF5Data" and blob in layout.streams and not _is_own(part, blob, layout):
            raise _taken(part, layer, blob, layout)


def _taken(part: PreparedSource, layer: Layer, blob: str, layout: Layout) -> ComposeError:
    """What to say where the top of an HDF5Data layer, which names the dataset, is a blob of the fused net's already."""
    p, main, place = part.prefix, layout.main, part.raw.place(layer)
    if any(other.type == "HDF5Data" for other in main.data_layers if blob in other.tops):
        what = f"sources read the dataset '{blob}' from different HDF5 files, and only one blob can have this name"
        hint = "write both into one file under names of their own, or let all read one list (--train-list FILE)"
        return ComposeError(what, place=place, hint=hint)
    return ComposeError(
        f"source '{p}' reads the dataset '{blob}' of HDF5 files, whose blob must be called so, and '{main.prefix}' "
        f"calls another one '{blob}'",
        place=place,
        hint=f"take the data from '{p}' first, and name the list of '{main.prefix}': --data-from {p} --train-list "
        f"{main.prefix}=FILE --val-list {main.prefix}=FILE",
    )


def _is_own(part: PreparedSource, blob: str, layout: Layout) -> bool:
    return any(copy.part is part and blob in copy.layer.tops for copy in layout.copies)
