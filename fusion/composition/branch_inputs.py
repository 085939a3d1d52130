"""Find the blob of the fused net that feeds each branch: a shared one, a converted one, or a new data layer's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from fusion.composition.data_layers import (
    DataLayerChange,
    DataLayerCopy,
    DataLayout,
    image_data_layers,
    map_blob,
    phase_streams,
    silence_layer,
)
from fusion.composition.lists import DataLists, lists_of_source
from fusion.composition.net_text import PHASES, LayerText, excerpt, quoted, reparse
from fusion.composition.prepared_source import PreparedSource
from fusion.composition.preprocessing import (
    PARAMS,
    Affine,
    MeanScale,
    Stream,
    affine_between,
    describe_stream,
    mirrors,
    stated_size,
    stream_affine,
)
from fusion.conversion.net_names import is_onnx_path
from fusion.errors import ComposeError
from prototxt.shapes.sources import hdf5_rows

PhaseStreams = Mapping[str, Stream]
Size = tuple[int | None, ...]


def resolve_feeds(source: PreparedSource, layout: DataLayout) -> dict[str, str]:
    """Return the fused net's blob for each input of a branch; adds the layers that this needs. Raises: ComposeError."""
    lists = lists_of_source(source)
    if source is layout.main:
        return {blob: blob for blob in source.branch.inputs}
    if lists is not None:
        return feeds_from_lists(source, lists, layout)
    found: dict[str, str] = {}
    own: dict[str, dict[str, Stream]] = {}
    for blob in source.branch.inputs:
        needed: dict[str, Stream] = {}
        for layer in source.data_layers:
            if blob in layer.tops:
                needed.update(phase_streams(source, layer, blob, layout.choice))
        if not needed:
            continue
        shared = _same_blob(needed, layout) or _further_dataset(source, blob, needed, layout)
        shared = shared or _converted_blob(source, blob, needed, layout)
        found.update({blob: shared} if shared else {})
        own.update({} if shared else {blob: needed})
    found.update(_new_data_layers(source, own, layout))
    rest = [blob for blob in source.branch.inputs if blob not in found]  # no data layer describes these
    if rest and source.spec.pixels:
        found[rest[0]] = raw_pixels_blob(source, rest[0], layout)
    elif rest:
        found.update(feeds_from_main(source, rest, layout))
    return {blob: found[blob] for blob in source.branch.inputs}


def _map(known: PhaseStreams, needed: PhaseStreams) -> Affine | None:
    """Return the map from a blob of the fused net to a branch's input, if it is one in all phases of the branch."""
    if set(known) != set(PHASES):
        return None
    maps = {stream_affine(known[phase], stream) for phase, stream in needed.items()}
    return maps.pop() if len(maps) == 1 else None


def _same_blob(needed: PhaseStreams, layout: DataLayout) -> str | None:
    """Return the fused net's blob with the same content, if there is one."""
    for blob, known in layout.streams.items():
        found = _map(known, needed)
        if found is not None and found.identity:
            return blob
    return None


def _further_dataset(source: PreparedSource, blob: str, needed: PhaseStreams, layout: DataLayout) -> str | None:
    """Return a further dataset of the HDF5 files that a layer reads already: its top is the dataset's name.

    Raises: ComposeError if the files are there and do not have it.
    """
    if blob in layout.streams:
        return None
    copies: dict[str, DataLayerCopy] = {}
    for phase in PHASES:
        for copy in layout.copies:
            if copy.layer.type == "HDF5Data" and phase in copy.layer.phases:
                path = layout.choice.path(copy.source, copy.layer, phase)
                known = describe_stream(copy.layer, copy.layer.tops[0], path)
                if phase not in needed or known.records == needed[phase].records:
                    copies.setdefault(phase, copy)
    if set(copies) != set(PHASES):
        return None
    for phase, copy in copies.items():
        path = layout.choice.path(copy.source, copy.layer, phase) or ""
        first, further = hdf5_rows(path, [copy.layer.tops[0], blob])
        if first is not None and further is None:
            message = f"{source} reads '{blob}', which the HDF5 files of {path} do not have"
            hint = f"give its own: {'--train-list' if phase == 'TRAIN' else '--val-list'} {source.prefix}=FILE"
            raise source.error(message, hint)
    for copy in {id(copy): copy for copy in copies.values()}.values():  # one copy may serve both phases
        copy.change = replace(copy.change, added=(*copy.change.added, blob))
    layout.streams[blob] = {phase: needed.get(phase) or next(iter(needed.values())) for phase in PHASES}
    layout.note(f"'{blob}' is read from the same HDF5 files, as a further top of their layer")
    return blob


def _converted_blob(source: PreparedSource, blob: str, needed: PhaseStreams, layout: DataLayout) -> str | None:
    """Return a blob computed from one of the fused net's by plain layers, where only mean and scale differ."""
    for given, known in layout.streams.items():
        found = _map(known, needed)
        if found is not None:
            who = f"{source}"
            layout.note(f"{who} was trained with another mean or scale; layers at its start convert '{given}'")
            return map_blob(source, blob, given, found, layout, f"The input of {who}, from '{given}'.")
    return None


def _new_data_layers(source: PreparedSource, own: Mapping[str, PhaseStreams], layout: DataLayout) -> dict[str, str]:
    """Add data layers for inputs that no other layer gives, in step with the others. Raises: ComposeError."""
    silent: dict[str, None] = {}
    found: dict[str, str] = {}
    for layer in source.data_layers if own else ():
        if not set(layer.tops) & set(own):
            continue
        _check_in_step(source, layer, own, layout)
        files = layer.type == "HDF5Data"  # whose tops are named after datasets
        names = {top: top if files else f"{source.prefix}/{top}" for top in layer.tops}
        dropped = [top for top in layer.tops if top not in own] if files else []
        if not files:
            silent.update(dict.fromkeys(names[top] for top in layer.tops if top not in own))
        name = f"{source.prefix}/{layer.name.removeprefix(source.prefix + '/')}"
        beside = [other for other in layout.main.data_layers if other.phases == layer.phases]
        if mirrors(layer) and not any(map(mirrors, beside)):
            layout.note(f"'{source.prefix}' is not mirrored, since '{layout.main.prefix}' is not")
        layout.copies.append(DataLayerCopy(source, layer, DataLayerChange(name=name, blobs=names, dropped=dropped)))
        for top in set(layer.tops) & set(own):
            found[top] = names[top]
            streams = phase_streams(source, layer, top, layout.choice)
            layout.streams.setdefault(names[top], {}).update(streams)
    if found:
        layout.note(f"{source} reads or prepares its records in its own way and gets its own data layer")
    layout.further += silence_layer(f"{source.prefix}/labels", silent)
    return found


def _check_in_step(
    source: PreparedSource, layer: LayerText, own: Mapping[str, PhaseStreams], layout: DataLayout
) -> None:
    """Check that a data layer can be in step with others. Raises: ComposeError."""
    phases = set(layer.phases)
    beside = [one for one in layout.main.data_layers if one.type != "DummyData" and phases & set(one.phases)]
    # WindowData samples its windows at random, and layers outside PARAMS have no known order of records.
    unordered = [one.type for one in (layer, *beside) if one.type not in PARAMS or one.type == "WindowData"]
    if unordered:
        raise source.error(
            f"{source} reads other records than '{layout.main.prefix}', or prepares them in its own way, and a layer "
            f"of type '{unordered[0]}' cannot be held in step with others",
            "give the data of both as one of ImageData, Data, HDF5Data, or the same layer in both files",
            layer,
        )
    for blob in set(layer.tops) & set(own):
        missing = [phase for phase in PHASES if phase not in own[blob]]
        if missing:
            message = f"{source} needs a data layer of its own for '{blob}', and has none in phase {missing[0]}"
            raise source.error(message, "add one to its file, or give one list for all (--train-list)", layer)
        own_copy = any(copy.source is source and blob in copy.layer.tops for copy in layout.copies)
        if layer.type == "HDF5Data" and blob in layout.streams and not own_copy:
            raise _name_conflict(source, layer, blob, layout)


def _name_conflict(source: PreparedSource, layer: LayerText, blob: str, layout: DataLayout) -> ComposeError:
    """Return the error where the top of an HDF5Data layer, the dataset's name, is already a blob of the fused net."""
    p, main = source.prefix, layout.main
    beside = [copy for copy in layout.copies if blob in (*copy.layer.tops, *copy.change.added)]
    if any(copy.layer.type == "HDF5Data" for copy in beside):
        message = f"sources read the dataset '{blob}' from different HDF5 files, and only one blob can have this name"
        hint = "write both into one file under names of their own, or let all read one list (--train-list FILE)"
        return source.error(message, hint, layer)
    message = f"{source} reads the dataset '{blob}' of HDF5 files, whose blob must have this name"
    hint = f"take the data from '{p}' first, and name the list of '{main.prefix}': --data-from {p} "
    hint += f"--train-list {main.prefix}=FILE --val-list {main.prefix}=FILE"
    return source.error(f"{message}, and '{main.prefix}' calls another one '{blob}'", hint, layer)


def feeds_from_lists(source: PreparedSource, lists: DataLists, layout: DataLayout) -> dict[str, str]:
    """Add image layers over the lists named for this source. Raises: ComposeError for several inputs."""
    blob, size = only_input(source), image_shape(source)
    top = f"{source.prefix}/{blob.removeprefix(source.prefix + '/')}"
    sized = DataLists(lists.train_list, lists.val_list, *(layout.batch(phase) for phase in PHASES))
    layout.further += image_data_layers(sized, top, size, layout.step())
    layout.listed.append((source, lists))
    transform = "raw pixels" if source.spec.pixels else "no transform; is that how it was trained?"
    layout.note(f"{source} gets data layers of its own over the given lists, with {transform}")
    return {blob: top}


def only_input(source: PreparedSource) -> str:
    """Return the one input of a source without data layers. Raises: ComposeError if it has several."""
    if len(source.branch.inputs) > 1:
        raise source.error(f"{source} has several inputs and no data layer", "give its train_val prototxt")
    return source.branch.inputs[0]


def image_shape(source: PreparedSource) -> Size | None:
    """Return channels, height and width of the images that a source takes, None if its file does not give them.

    A source of rows takes grey images of any size, as far as is known here.
    """
    shape = source.input_shape or ()
    return shape[1:] if len(shape) == 4 else (1, None, None) if len(shape) == 2 else None


def feeds_from_main(source: PreparedSource, blobs: Sequence[str], layout: DataLayout) -> dict[str, str]:
    """Return the main source's blobs for inputs without a data layer: by name, or the only blob for the only input.

    Raises: ComposeError.
    """
    main = layout.main
    tops = [top for top in main.data_blobs if top not in layout.labels]
    _check_size(source, main)
    if not all(blob in tops for blob in blobs) and (len(blobs), len(tops)) != (1, 1):
        given = ", ".join(tops) or "nothing but labels"
        raise main.error(
            f"{source} reads {', '.join(blobs)}, but the data layers of '{main.prefix}' give {given}",
            "give the blobs the same names in both files, take the data from the other source (--data-from), or give "
            f"it lists of its own (--train-list {source.prefix}=FILE --val-list {source.prefix}=FILE)",
        )
    if not source.data_layers:
        note = f"{source} has no data layer and is fed the data of '{main.prefix}'"
        hint = f"if it was trained on other values, say so: --pixels {source.prefix}=unit"
        layout.note(f"{note}, mean and scale included; {hint}")
    return {blob: blob if blob in tops else tops[0] for blob in blobs}


def _check_size(source: PreparedSource, main: PreparedSource) -> None:
    """Check that images have the shape that a source without data layers takes. Raises: ComposeError."""
    shape = image_shape(source)
    if source.data_layers:
        return
    for layer in main.data_layers:
        _check_order(source, layer)
        given = stated_size(layer)
        if shape is not None and not _fits(shape, given):
            hint = f"name its pixels, which gives it a data layer of its own: --pixels {source.prefix}=unit"
            if not is_onnx_path(str(source.spec.prototxt)):
                hint += "; or give its train_val prototxt, whose data layer prepares them"
            given_size = "x".join("?" if dim is None else str(dim) for dim in given)
            message = f"{source} takes images of {'x'.join(map(str, shape))}"
            raise main.error(f"{message}, but the data of '{main.prefix}' has {given_size}", hint, layer)


def _check_order(source: PreparedSource, layer: LayerText) -> None:
    """Check that a source that takes rows of numbers reads no colour images. Raises: ComposeError."""
    shape, channels = source.input_shape, stated_size(layer)[0]
    if shape is not None and len(shape) == 2 and channels not in (None, 1):
        message = f"{source} takes {shape[1]} numbers per record, and the data layer '{layer.name}' gives colour images"
        hint = "their order in such a row is not known: write the rows into HDF5 files, or read grey images"
        raise source.error(f"{message} of {channels} channels", hint)


def _fits(needed: Size, given: Size) -> bool:
    return all(one == other or None in (one, other) for one, other in zip(needed, given, strict=True))


def raw_pixels_blob(source: PreparedSource, blob: str, layout: DataLayout) -> str:
    """Return a blob of raw pixels, 0 to 255: computed from the main source's, or of data layers of its own.

    Raises: ComposeError if the main source has several blobs of images.
    """
    main = layout.main
    tops = {top: layer for layer in main.data_layers for top in layer.tops[:1] if top not in layout.labels}
    if len(tops) != 1:
        message = f"{source} takes images, and the data layers of '{main.prefix}' give {', '.join(tops) or 'none'}"
        hint = f"give it lists of its own: --train-list {source.prefix}=FILE --val-list {source.prefix}=FILE"
        raise main.error(message, hint)
    (given,) = tops
    layers = [layer for layer in main.data_layers if given in layer.tops]
    for layer in layers:
        _check_order(source, layer)
    size = image_shape(source)
    affine = _to_pixels(layout.streams[given])
    if (
        affine is not None
        and (len(source.input_shape or ()) != 2 or _is_exact(affine))
        and all(_same_size(size, layer, layout) for layer in layers)
    ):
        kind = source.spec.pixels
        layout.note(f"{source} takes raw pixels ({kind}), computed from '{given}'")
        return map_blob(source, blob, given, affine, layout, f"Raw pixels, 0 to 255, from '{given}'.")
    return _raw_data_layers(source, layers, given, layout)


def _to_pixels(known: PhaseStreams) -> Affine | None:
    """Return the map from a blob of images back to raw pixels, if it is one in both phases."""
    maps = {affine_between(item.values, MeanScale()) if item.values is not None else None for item in known.values()}
    return maps.pop() if len(maps) == 1 else None


def _is_exact(affine: Affine) -> bool:
    """Return whether floats do not round: trees compare rows with thresholds that some pixels equal."""
    return not any(affine.shift) and all(math.frexp(scale)[0] == 0.5 for scale in affine.scale)


def _same_size(size: Size | None, layer: LayerText, layout: DataLayout) -> bool:
    """Return whether a data layer is known to give images of this size; a net of no fixed size takes any."""
    if size is None or size == (given := stated_size(layer)):
        return True
    if not _fits(size, given):
        return False
    first = _first_image_shape(layer, layout) if layer.type == "ImageData" else given
    return first is not None and all(one in (None, other) for one, other in zip(size, first, strict=True))


def _first_image_shape(layer: LayerText, layout: DataLayout) -> Size | None:
    """Return the shape of the first image of a list after its transform, None if it does not exist."""
    from prototxt.schema.load import load_net
    from prototxt.shapes import UNKNOWN
    from prototxt.shapes.net import infer_partly
    from prototxt.text.edits import Edits

    raw = layout.main.raw
    document = reparse(excerpt(raw, layer), raw.file)
    edits = Edits(document)
    source = layout.choice.path(layout.main, layer, layer.phases[0])
    # Shape inference opens the first image of the list in the layer's text.
    edits.set(document.root.messages("layer")[0].messages("image_data_param")[-1], "source", quoted(source or ""))
    shape = infer_partly(load_net(edits.apply(), strict=False))[0].blobs.get(layer.tops[0], UNKNOWN)
    return None if shape is UNKNOWN else tuple(shape[1:])


def _raw_data_layers(source: PreparedSource, layers: Sequence[LayerText], given: str, layout: DataLayout) -> str:
    """Add the main source's data layers once more, without their transform and in the size that the source takes."""
    name = f"{source.prefix}/data"
    labels: dict[str, None] = {}
    for layer in layers:
        names = {top: name if top == given else f"{source.prefix}/{top}" for top in layer.tops}
        change = DataLayerChange(name=name, blobs=names, raw=True, shape=source.input_shape)
        labels.update(dict.fromkeys(names[top] for top in names if top != given))
        layout.copies.append(DataLayerCopy(layout.main, layer, change))
    layout.further += silence_layer(f"{source.prefix}/labels", labels)
    layout.note(f"{source} takes raw pixels ({source.spec.pixels}), from its own data layer")
    return name
