"""An ONNX file as a source: described as `Onnx` layers, one up to the cut and one from there to the class scores."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fusion.composition.net_text import format_layer, quoted, reparse
from fusion.composition.pixels import preprocessing_layers
from fusion.composition.source import SourceText
from fusion.errors import ComposeError, OnnxError
from prototxt.text.tree import Document

if TYPE_CHECKING:
    from fusion.composition.source import Source
    from fusion.onnx.graphs import Graph


def read_onnx(source: Source, *, reference: bool) -> SourceText:
    """Describe the file's net as prototxt. Values keep their names as blobs, without a leading slash.

    Raises: ComposeError if it cannot be cut as requested, or has operators that cannot be run; OSError.
    """
    from fusion.onnx.graphs import load_graph

    path = os.fspath(source.prototxt) if not isinstance(source.prototxt, Document) else ""
    try:
        graph = load_graph(path)
        cuts, notes = _cuts(source, graph)
        logits = _logits(source, graph) if reference else None
        document, blob = _document(source, graph, path, cuts, logits)
    except OnnxError as error:
        raise ComposeError(f"{source}: {error.message}", place=error.place, hint=error.hint) from error
    notes = [f"{source}: {note}" for note in (*graph.notes, *notes)]
    return SourceText(document, tuple(map(_blob, cuts)), blob, tuple(notes))


def _cuts(source: Source, graph: Graph) -> tuple[list[str], list[str]]:
    """Return the values to cut at, and notes. Raises: OnnxError with the values at which the net can be cut."""
    from fusion.onnx.graphs import classifier_input, scores_value
    from fusion.onnx.graphs.cut import list_features

    if source.at is None:
        found = classifier_input(graph)
        if found is None:
            hint = f"name the value: '{source.prefix}=...@VALUE', one of {list_features(graph)}"
            raise OnnxError("no classifier was found to cut before", place=graph.place, hint=hint)
        what = "its class scores" if found == scores_value(graph) else "which its classifier reads"
        return [found], [f"cut at '{_blob(found)}', {what}"]
    names: Sequence[str] = (source.at,) if isinstance(source.at, str) else source.at
    return [_value(graph, name.removeprefix(f"{source.prefix}/")) for name in names], []


def _value(graph: Graph, name: str) -> str:
    from fusion.onnx.graphs import find_value
    from fusion.onnx.graphs.cut import list_features, unknown_value

    found = find_value(graph, name)
    if found is None:
        error = unknown_value(graph, name)
        raise OnnxError(f"cut blob '{name}': {error.message}", place=graph.place, hint=error.hint)
    dims = graph.shapes.get(found)
    wrong = "an input of the net, so nothing of it would be left" if found in graph.inputs else None
    if dims is not None and None not in dims[:1]:
        wrong = (
            f"of shape {'x'.join('N' if dim is None else str(dim) for dim in dims)}: its first axis is not the batch"
        )
    if wrong is not None:
        hint = f"cut at one of (output side first): {list_features(graph)}"
        raise OnnxError(f"cut blob '{name}' is {wrong}", place=graph.place, hint=hint)
    return found


def _logits(source: Source, graph: Graph) -> str:
    from fusion.onnx.graphs import scores_value

    return _value(graph, source.logits) if source.logits is not None else scores_value(graph)


def _document(
    source: Source, graph: Graph, path: str, cuts: list[str], logits: str | None
) -> tuple[Document, str | None]:
    """Return the description, and the blob with the class scores. Raises: OnnxError."""
    from fusion.onnx.graphs import check_support, cut, image_entries

    entered = image_entries(graph)
    starts = [name if entered[name] in cuts else entered[name] for name in cut(graph, cuts).inputs]
    body = cut(graph, cuts, starts)
    check_support(body)
    name = os.path.splitext(os.path.basename(path))[0]
    text = [f"name: {quoted(name)}\n"]
    text += [_input(value, dims) for value, dims in body.inputs.items()]
    fed = {value: _blob(value) for value in body.inputs}
    for value, dims in body.inputs.items():
        if source.pixels:
            channels = 1 if _are_features(dims) else (*dims, None, None)[1]
            layers, fed[value] = preprocessing_layers(source.pixels, source.prefix, fed[value], channels)
            text += layers
        if _are_features(dims):  # like Caffe's InnerProduct, it takes images by their values
            flat = f"{_blob(value)}_flat"
            text.append(format_layer(flat, "Flatten", [fed[value]], [flat]))
            fed[value] = flat
    inputs = list(graph.inputs) != list(body.inputs)
    text.append(_layer("onnx", body, fed, cuts, explicit=inputs))
    if logits is None or logits in cuts:
        return reparse("\n".join(text), path), _blob(logits) if logits else None
    try:
        rest = cut(graph, [logits], cuts)
    except OnnxError:
        rest = cut(graph, [logits], starts)  # it needs more than the cut values: the whole net runs again
    check_support(rest)
    bottoms = {value: fed.get(value, _blob(value)) for value in rest.inputs}
    text.append(_layer("classifier", rest, bottoms, [logits], explicit=True))
    return reparse("\n".join(text), path), _blob(logits)


def _are_features(dims: Sequence[int | None]) -> bool:
    """Return whether an input is a row of several numbers per sample."""
    return len(dims) == 2 and dims[1] != 1


def _input(value: str, dims: Sequence[int | None]) -> str:
    """Return an Input layer; without a shape where the file leaves sizes open."""
    known = dims and None not in dims[1:]
    body = f"input_param {{ shape {{ {' '.join(f'dim: {dim}' for dim in (1, *dims[1:]))} }} }}" if known else ""
    return format_layer(_blob(value), "Input", [], [_blob(value)], body)


def _layer(name: str, part: Graph, fed: Mapping[str, str], outputs: list[str], *, explicit: bool) -> str:
    """Return an Onnx layer; fed: the values of the graph at which it starts -> the blobs with their values."""
    from fusion.onnx.graphs.initializers import has_trees

    lines = [f"  file: {quoted(part.place)}"]
    lines += [f"  input: {quoted(value)}" for value in fed] if explicit else []
    lines += [f"  output: {quoted(value)}" for value in outputs]
    lines += ["  frozen: true"] if has_trees(part) else []
    body = "\n".join(["onnx_param {", *lines, "}"])
    return format_layer(name, "Onnx", list(fed.values()), list(map(_blob, outputs)), body)


def _blob(value: str) -> str:
    return value.lstrip("/")
