"""Shapes of the branches and of the fused net, as far as sources, lists and given sizes determine them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

from fusion.composition.inputs import Inputs
from fusion.composition.net_text import reparse
from fusion.composition.prepared_source import PreparedSource
from fusion.errors import ComposeError, raise_all
from prototxt.errors import PrototxtError
from prototxt.text.tree import Document

Shape = tuple[int | None, ...]


def blob_shapes(
    sources: Sequence[PreparedSource],
    inputs: Inputs,
    branches: Mapping[str, Mapping[int, str]],
    given: Mapping[str, Shape],
) -> dict[str, Shape]:
    """Return the shapes of blobs of data and branches; those of unknown rank are left out. Raises: ShapeError."""
    layers = [text for branch in branches.values() for text in branch.values()]
    body = "\n".join([inputs.text, *inputs.front.values(), *layers])
    known = dict(given)
    for source in sources:
        own = source.input_shape
        if own is not None and len(own) == 4 and source.spec.reads is None:
            known.setdefault(inputs.blobs(source.prefix)[0], (None, *own[1:]))
    return _infer(reparse(body, "the branches"), "TEST", known)


def source_shapes(source: PreparedSource, inputs: Inputs, shapes: Mapping[str, Shape]) -> Mapping[str, Shape]:
    """Return the known shapes of a source's own blobs with the fused net's data."""
    feed = inputs.feeds[source.prefix]
    known = {blob: shapes[top] for blob, top in feed.items() if top in shapes}
    try:
        return _infer(source.raw.document, "TEST", known)
    except PrototxtError:  # in its labels or losses, which the fused net does not use
        return {}


def check_whole(train_val: Document, given: Mapping[str, Shape]) -> None:
    """Check the shapes of the fused net in both phases. Raises: ComposeError with every error that Caffe would find."""
    for phase in ("TRAIN", "TEST"):
        try:
            _infer(train_val, phase, given)
        except PrototxtError as error:
            raise_all([ComposeError(one.message, place=one.place, hint=one.hint) for one in error.errors])


def shape_error(deploy: Document) -> str | None:
    """Return the first error in the shapes of the net to deploy, None if there is none."""
    try:
        _infer(deploy, "TEST", {})
    except PrototxtError as error:
        return error.errors[0].message
    return None


def _infer(document: Document, phase: str, given: Mapping[str, Shape]) -> dict[str, Shape]:
    """Return the shapes of all blobs whose rank is known. Raises: ShapeError."""
    from prototxt.schema.filter import filter_net
    from prototxt.schema.load import load_net
    from prototxt.shapes import UNKNOWN, infer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fields of a fork are kept; building the net warns about them
        net = filter_net(load_net(document, strict=False), phase=phase)
    tops = {top for layer in net.layer for top in layer.top}  # infer() refuses shapes of blobs that do not exist
    found = infer(net, {blob: shape for blob, shape in given.items() if blob in tops}, unknown="ignore").blobs
    return {blob: shape for blob, shape in found.items() if shape is not UNKNOWN}
