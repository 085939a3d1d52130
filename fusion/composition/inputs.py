"""Decide where the fused net's data comes from: one source's data layers, or given lists, and further ones if needed.

A branch is fed by a data layer of another source only if that reads the same records and prepares them alike. Where
only mean, scale or the order of channels differ, plain layers convert one into the other. Any other input (another
size, a mean file, another list) gets a data layer of its own, in step with the first, from which it takes the order of
the records and all random numbers. Lists that the user did not name are read side by side only if their labels agree.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from fusion.composition.branch_inputs import image_shape, only_input, resolve_feeds
from fusion.composition.data_layers import DataLayerCopy, DataLayout, data_layer_texts, image_data_layers, phase_streams
from fusion.composition.labels import SourceLabels, check_same_labels, prepared_labels
from fusion.composition.list_checks import check_common_list, check_image_lists, check_lists_in_step
from fusion.composition.lists import DataLists, choose_lists, lists_of_source
from fusion.composition.net_text import PHASES, format_layer
from fusion.composition.prepared_source import PreparedSource
from fusion.errors import ComposeError
from prototxt.errors import did_you_mean
from prototxt.formats.class_folders import is_image_folder


@dataclass(frozen=True)
class Inputs:
    """The fused net's data layers.

    text     the layers
    feeds    per prefix: the source's input blob -> the fused net's blob
    labels   the blobs with labels, and others that only the losses read
    front    per prefix: layers that compute its blobs from those of data layers
    origins  blobs that these compute -> blobs of data layers that they are computed from
    """

    text: str
    feeds: Mapping[str, Mapping[str, str]]
    labels: tuple[str, ...]
    notes: tuple[str, ...] = field(default=())
    warnings: tuple[str, ...] = field(default=())
    front: Mapping[str, str] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)

    def blobs(self, prefix: str) -> tuple[str, ...]:
        """Return the data layers' blobs that a branch reads, directly or through layers at its start."""
        return tuple(self.origins.get(blob, blob) for blob in self.feeds[prefix].values())


def resolve_inputs(
    sources: Sequence[PreparedSource],
    data_from: str | None,
    lists: DataLists,
    labels: Sequence[str] = (),
    classes: int | None = None,
    own: SourceLabels | None = None,
) -> Inputs:
    """Choose the data layers and the blob that feeds each branch.

    labels   the blobs that the losses read beside the scores; none: the only blob of the data that no branch reads
    classes  the number of classes, where labels are classes
    own      the labels of the sources' own losses, where the fused net uses these
    Raises: ComposeError.
    """
    main = main_source(sources, data_from)
    if main is None:
        return _copy_changed_blobs(sources, _image_layers(sources, lists, labels), ())
    labels = tuple(dict.fromkeys(labels)) or (_only_label(main),)
    prepared = prepared_labels(main, labels)
    layout = DataLayout(main, prepared.blobs, choose_lists(sources, main, data_from, lists))
    layout.note(f"the layers of {main}, blobs {', '.join(main.data_blobs)}")
    for layer in main.data_layers:
        layout.copies.append(DataLayerCopy(main, layer))
        for top in layer.tops:
            layout.streams.setdefault(top, {}).update(phase_streams(main, layer, top, layout.choice))
    if own is not None:
        check_same_labels(sources, own, layout)
    feeds = {source.prefix: resolve_feeds(source, layout) for source in sources}
    layout.notes += check_common_list(sources, layout.choice)
    check_lists_in_step(layout, classes)
    text = [piece for copy in layout.copies for piece in _text(copy, layout)] + layout.further
    if "in_step_with" in "".join(text):
        reason = "compares their labels when they are read" if layout.unseen else "gives them the same random numbers"
        layout.note(f"the data layers are held in step by in_step_with, which {reason}; Caffe does not know it")
    front = {prefix: "\n".join(layers) for prefix, layers in layout.front.items()}
    given = [*(source.spec.train_list for source in sources), *(source.spec.val_list for source in sources)]
    missing = _missing_list_notes([lists.train_list, lists.val_list, *given])
    notes = dict.fromkeys([*layout.notes, *prepared.notes, *missing])
    text += prepared.text
    planned = Inputs("\n".join(text), feeds, labels, tuple(notes), tuple(layout.warnings), front, layout.origins)
    return _copy_changed_blobs(sources, planned, (*labels, *prepared.blobs))


def _copy_changed_blobs(sources: Sequence[PreparedSource], inputs: Inputs, labels: Sequence[str]) -> Inputs:
    """Return the inputs with a copy for each branch that changes in place a blob that others read too."""
    found = _blob_copies(sources, inputs, labels)
    feeds = dict(inputs.feeds)
    front, origins, notes = dict(inputs.front), dict(inputs.origins), list(inputs.notes)
    for prefix, copied in found.items():
        feeds[prefix] = {blob: copied.get(fed, fed) for blob, fed in feeds[prefix].items()}
        # A Power without effect: a Split would share the memory.
        comment = "A copy, which the branch changes in place."
        layers = [format_layer(name, "Power", [blob], [name], comment=comment) for blob, name in copied.items()]
        front[prefix] = "\n".join([*([front[prefix]] if prefix in front else []), *layers])
        origins.update({name: blob for blob, name in copied.items()})
        notes.append(f"data: source '{prefix}' changes {', '.join(copied)} in place, and gets a copy")
    return replace(inputs, feeds=feeds, front=front, origins=origins, notes=tuple(notes))


def main_source(sources: Sequence[PreparedSource], data_from: str | None) -> PreparedSource | None:
    """Return the source whose data layers are used: the named one, else the first with any. Raises: ComposeError."""
    if data_from is not None:
        matches = [source for source in sources if source.prefix == data_from]
        if not matches:
            names = [source.prefix for source in sources]
            hint = did_you_mean(data_from, names, f"one of {', '.join(names)}")
            raise ComposeError(f"data_from names no source: '{data_from}'", hint=hint)
        if not matches[0].data_layers:
            raise ComposeError(f"{matches[0]} has no data layer", place=matches[0].raw.file)
        return matches[0]
    return next((source for source in sources if source.data_layers), None)


def _only_label(main: PreparedSource) -> str:
    """Return the blob of the data that the branch does not read. Raises: ComposeError unless it is one."""
    free = [top for top in main.data_blobs if top not in main.branch.inputs]
    if len(free) == 1:
        return free[0]
    message, hint = f"the data layers of {main} give no labels", "take the data from another source (--data-from), or "
    hint += "add a second top with the labels"
    if free:
        message = f"the blob of {main} with the labels is not known; it may be {', '.join(free)}"
        hint = f"name it: --loss SoftmaxWithLoss,label={free[0]}"
    raise main.error(message, hint, main.data_layers[0])


def _text(copy: DataLayerCopy, layout: DataLayout) -> list[str]:
    """Return a data layer's text, or one per phase; layers beside those of the main source take its batch sizes."""
    lists = layout.choice.for_layer(copy.source, copy.layer)
    if copy.source is not layout.main:
        train, test = (layout.choice.path(copy.source, copy.layer, phase) for phase in PHASES)
        lists = DataLists(train, test, *(layout.batch(phase) for phase in PHASES), split=lists.split)
    own = copy.change.name is None  # the main source's own layers keep their names
    leads = own and not layout.follows_shuffled(copy.layer)
    step = {} if leads else layout.step() if own else layout.step(copy.source, copy.layer)
    shuffle = layout.choice.needs_shuffle(copy.source, copy.layer, "TRAIN")
    change = replace(copy.change, lists=lists, follows=not leads, step=step, shuffle=shuffle)
    return data_layer_texts(copy.source.raw, copy.layer, change)


def _image_layers(sources: Sequence[PreparedSource], lists: DataLists, labels: Sequence[str]) -> Inputs:
    """Return new data layers if no source has any, as with deploy files: one per image shape and lists.

    Raises: ComposeError without lists, or for a source with several inputs.
    """
    if set(labels) - {"label"}:
        message = f"no source has a data layer that gives {', '.join(labels)}; image lists give 'label' alone"
        raise ComposeError(message, hint="give a source's train_val prototxt with such a data layer")
    tops: dict[tuple[object, ...], str] = {}
    feeds: dict[str, dict[str, str]] = {}
    text: list[str] = []
    read: list[tuple[PreparedSource, DataLists]] = []
    for source in sources:
        own = lists_of_source(source) or lists
        if own.train_list is None or own.val_list is None:
            hint = "give image lists (--train-list, --val-list), or a train_val prototxt as a source"
            raise source.error("no source has a data layer", hint)
        own = replace(own, train_batch=lists.train_batch, test_batch=lists.test_batch)
        blob, size = only_input(source), image_shape(source)
        if (size, own) not in tops:
            # Layers in the order of their lists are in step by themselves; those of a shuffled folder are not.
            step = {"TRAIN": "data"} if tops and is_image_folder(read[0][1].train_list or "") else {}
            tops[size, own] = f"{source.prefix}/data" if tops else "data"
            text += image_data_layers(own, tops[size, own], size, step)
            read.append((source, own))
        feeds[source.prefix] = {blob: tops[size, own]}
    notes = list(check_image_lists(read))
    if not all(source.spec.pixels for source in sources):
        notes.append("data: image lists without transform; add transform_param if the sources had a mean or a scale")
    sizes = {size for size, _ in tops}
    if len(sizes) > 1:
        notes.append(f"data: the sources take images of {len(sizes)} shapes, each gets its own data layer")
    notes += _missing_list_notes([path for _, own in read for path in (own.train_list, own.val_list)])
    return Inputs("\n".join(text), feeds, ("label",), tuple(notes))


def _missing_list_notes(given: Sequence[str | Mapping[str, str] | None]) -> list[str]:
    """Return a note for each given list that does not exist, perhaps because it is misspelt."""
    paths = [path for item in given if item for path in (item.values() if isinstance(item, Mapping) else (item,))]
    return [f"data: there is no {path} here yet" for path in dict.fromkeys(paths) if not os.path.exists(path)]


def _blob_copies(sources: Sequence[PreparedSource], inputs: Inputs, labels: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return per prefix the input blobs that its branch changes in place while another branch or a label needs them.

    labels   blobs that losses and the layers of labels read
    Returns  prefix -> blob of the fused net -> the name of its copy
    """
    feeds, origins = inputs.feeds, inputs.origins
    read = [(source.prefix, origins.get(blob, blob)) for source in sources for blob in feeds[source.prefix].values()]
    readers: dict[str, set[str]] = {}
    for prefix, blob in [*read, *(("", label) for label in labels)]:
        readers.setdefault(blob, set()).add(prefix)
    found: dict[str, dict[str, str]] = {}
    for source in sources:
        own = [layer for layer in source.net.layers if layer.number in source.branch.layers | source.classifier]
        written = {top for layer in own for top in layer.tops}
        names = written | {layer.name for layer in own} | set(origins)
        for blob, fed in feeds[source.prefix].items():
            if blob in written and fed not in origins and len(readers[fed]) > 1:
                name = f"{source.prefix}/{blob.removeprefix(source.prefix + '/')}_copy"
                while name in names:
                    name += "_"
                found.setdefault(source.prefix, {})[fed] = name
    return found
