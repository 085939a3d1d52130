"""An ONNX file as a source: described as `Onnx` layers, one up to the cut and one from there to the class scores."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fusion.composition.net_text import format_layer, quoted, reparse
from fusion.composition.pixels import preprocessing_layers
from fusion.composition.source import SourceText
from fusion.conversion.net_names import is_onnx_path
from fusion.errors import ComposeError, OnnxError
from prototxt.text.tree import Document

_SIDE = 224  # of images, where neither file nor data give it: the size of ImageNet's

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
    check_support(body if _is_sized(graph) else cut(_example(graph), cuts, starts))
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
    check_support(rest if _is_sized(graph) else cut(_example(graph), list(rest.outputs), list(rest.inputs)))
    bottoms = {value: fed.get(value, _blob(value)) for value in rest.inputs}
    text.append(_layer("classifier", rest, bottoms, [logits], explicit=True))
    return reparse("\n".join(text), path), _blob(logits)


def _is_sized(graph: Graph) -> bool:
    return all(None not in dims[1:] for dims in graph.inputs.values())


def _example(graph: Graph) -> Graph:
    """Return the graph for images of some size, where it leaves the size open: that of the data is not known yet."""
    from fusion.onnx.graphs import load_graph

    given = {name: (None, *dims[1:2], *(_SIDE if dim is None else dim for dim in dims[2:]))
             for name, dims in graph.inputs.items()}  # fmt: skip
    return load_graph(graph.place, given)


def check_sizes(source: Source, shapes: Mapping[str, Sequence[int | None]]) -> None:
    """Check that the net of an ONNX file that leaves sizes open can be run on those of the data.

    shapes  of the blobs that feed its inputs, by the inputs' names; empty where they are not known
    Raises: ComposeError.
    """
    from fusion.onnx.graphs import check_support, cut, find_value, load_graph

    if isinstance(source.prototxt, Document) or not is_onnx_path(source.prototxt):
        return
    path, names = os.fspath(source.prototxt), [*(source.at or ()), *([source.logits] if source.logits else [])]
    graph = load_graph(path)
    given = {name: tuple(dims) for name in graph.inputs if (dims := shapes.get(_blob(name)))}
    if _is_sized(graph):
        return
    try:
        sized = load_graph(path, given)
        check_support(cut(sized, [found for name in names if (found := find_value(sized, name))]))
    except OnnxError as error:
        unknown = any(None in given.get(name, (None,) * 2)[1:] for name in graph.inputs)
        hint = "give the size of the images: new_height and new_width of the data layer, or --input-shape 3,224,224"
        hint = hint if unknown else error.hint or ""
        raise ComposeError(f"{source}: {error.message}", place=error.place, hint=hint or None) from error


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
