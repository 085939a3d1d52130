"""Nets one after another: a source that reads the cut of an earlier source instead of the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fusion.composition.inputs import Inputs
from fusion.composition.prepared_source import PreparedSource
from fusion.composition.source import Source
from fusion.errors import ComposeError
from prototxt.errors import did_you_mean

_PREPARATION = ("mean_value", "mean_file", "scale", "crop_size", "mirror")


def reads_errors(sources: Sequence[Source]) -> list[ComposeError]:
    """Return the errors of sources that read another source which does not come before them."""
    errors = []
    for index, source in enumerate(sources):
        before = [one.prefix for one in sources[:index]]
        if source.reads is not None and source.reads not in before:
            hint = did_you_mean(source.reads, before, f"one of {', '.join(before) or 'none'}")
            message = f"{source} reads source '{source.reads}', which is not named before it"
            errors.append(ComposeError(message, hint=hint))
    return errors


def last_sources(sources: Sequence[PreparedSource]) -> list[PreparedSource]:
    """Return the sources that no other reads: those whose cuts the head joins."""
    read = {source.spec.reads for source in sources}
    return [source for source in sources if source.prefix not in read]


def chain_inputs(sources: Sequence[PreparedSource], inputs: Inputs) -> Inputs:
    """Return the inputs of all branches, given those of the branches that read data.

    Raises: ComposeError for a source that reads another one and has several inputs, or reads one with several cuts.
    """
    feeds, origins, notes = dict(inputs.feeds), dict(inputs.origins), list(inputs.notes)
    known = {source.prefix: source for source in sources}
    for source in sources:
        if source.spec.reads is None:
            continue
        first = known[source.spec.reads]
        if len(source.branch.inputs) > 1 or len(first.cuts) > 1:
            several = f"{source} has several inputs" if len(source.branch.inputs) > 1 else f"{first} has several cuts"
            message = f"{source} reads {first} by one blob, and {several}"
            raise source.error(message, "cut both so that one blob passes from one to the other (@BLOB)")
        (blob,), (cut,) = source.branch.inputs, first.cuts
        feeds[source.prefix] = {blob: cut}
        origins[cut] = replace(inputs, feeds=feeds, origins=origins).blobs(first.prefix)[0]
        notes += _notes(source, cut)
    return replace(inputs, feeds=feeds, origins=origins, notes=tuple(notes))


def _notes(source: PreparedSource, cut: str) -> list[str]:
    """Return the note on a source's input, with the preparation of its own data that it no longer has."""
    lost = {
        name
        for layer in source.data_layers
        for block in layer.message.messages("transform_param")
        for name in _PREPARATION
        if block.get(name) is not None
    }
    own = f", without the {', '.join(sorted(lost))} of its own data layer" if lost else ""
    return [f"data: {source} reads '{cut}' as it is{own}"]
