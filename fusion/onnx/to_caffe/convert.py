"""An ONNX graph as a Caffe net with its weights; all that Caffe cannot compute is listed at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from fusion.errors import OnnxError
from fusion.onnx.graphs.graph import Graph
from fusion.onnx.graphs.support import unsupported_reasons
from fusion.onnx.to_caffe.net_writer import NetWriter, RefusedError
from fusion.onnx.to_caffe.operators import write_node
from prototxt.schema.messages import NetParameter


@dataclass(frozen=True)
class CaffeNet:
    """A deploy net and its weights.

    weights  layer -> float32 arrays, as in a caffemodel
    notes    layer types that BVLC Caffe lacks, and what was changed to read the file, one sentence each
    """

    net: NetParameter
    weights: Mapping[str, list[NDArray[np.float32]]]
    notes: tuple[str, ...]


def convert_graph(graph: Graph, *, outputs: Sequence[str] = (), only_bvlc: bool = False) -> CaffeNet:
    """Convert an ONNX graph in its plain form to a Caffe net that computes the same.

    outputs    names of the graph's outputs in its file, where an Identity gives a value another one; (): as they are
    only_bvlc  refuse layers that BVLC Caffe lacks
    Raises: OnnxError listing all operators that Caffe's layers cannot express, with the values before the first one.
    """
    for value in graph.outputs:
        if not value or value in graph.constants:
            message = f"its output '{value}' is a constant" if value else "one of its outputs has no name"
            raise OnnxError(message, place=graph.place, hint="export the net without this output")
    writer = NetWriter(graph)
    _write_inputs(writer)
    refused: dict[str, list[tuple[str, str]]] = {}
    for node in graph.nodes:
        try:
            _check(graph, node)
            write_node(writer, node)
        except RefusedError as reason:
            refused.setdefault(node.op_type, []).append((node.output[0], str(reason)))
            writer.blobs.update({value: value for value in node.output if value})
    if refused:
        raise _refusal(graph, refused)
    if only_bvlc and writer.forks:
        names = ", ".join(f"{kind} ({origin})" for kind, origin in writer.forks.items())
        hint = "leave --only-bvlc out for a Caffe that has them"
        raise OnnxError(f"it needs layers that only forks of Caffe have: {names}", place=graph.place, hint=hint)
    writer.share_parameters()
    writer.name_outputs(outputs or graph.outputs)
    _silence(writer, outputs or graph.outputs)
    forks = [f"BVLC Caffe has no {kind}; forks have it: {origin}" for kind, origin in writer.forks.items()]
    return CaffeNet(writer.net, writer.weights, (*graph.notes, *forks))


def _check(graph: Graph, node: onnx.NodeProto) -> None:
    """Check that a node has a meaning that is known, and float values. Raises: RefusedError."""
    for reason in unsupported_reasons(graph, node):
        raise RefusedError(reason)
    kind = graph.types.get(node.output[0], onnx.TensorProto.FLOAT)
    if kind != onnx.TensorProto.FLOAT:
        raise RefusedError(f"values of type {onnx.TensorProto.DataType.Name(kind).lower()}")


def _write_inputs(writer: NetWriter) -> None:
    for value in writer.graph.inputs:
        dims = writer.graph.shapes.get(value, ())
        sizes = [size for size in dims[1:] if size is not None]
        if len(dims) != 1 + len(sizes):
            shown = "x".join("?" if size is None else str(size) for size in dims)
            hint = f"give --input-shape {value}=1,3,224,224"
            raise OnnxError(f"the size of its input '{value}' is open: {shown}", place=writer.graph.place, hint=hint)
        layer = writer.layer("Input", writer.unique(value.strip("/")), [], [value])
        layer.input_param.shape.add().dim[:] = [dims[0] or 1, *sizes]
        writer.blobs[value] = value


def _silence(writer: NetWriter, outputs: Sequence[str]) -> None:
    """Append a Silence layer for blobs that nothing reads."""
    read = {blob for layer in writer.net.layer for blob in layer.bottom}.union(outputs)
    unread = [top for layer in writer.net.layer for top in layer.top if top not in read]
    if unread:
        writer.net.layer.add(name=writer.unique("unread"), type="Silence").bottom[:] = unread


def _refusal(graph: Graph, refused: Mapping[str, list[tuple[str, str]]]) -> OnnxError:
    lines = []
    for kind, found in refused.items():
        reasons = list(dict.fromkeys(reason for _, reason in found))
        more = (
            f"; {len(reasons) - 1} more reasons" if len(reasons) > 2 else f"; {reasons[1]}" if len(reasons) == 2 else ""
        )
        lines.append(f"{kind} ({len(found)}x, first '{found[0][0]}'): {reasons[0]}{more}")
    firsts = {value for found in refused.values() for value, _ in found}
    before = next(node for node in graph.nodes if node.output[0] in firsts)
    fed = [value for value in before.input if value and value not in graph.constants]
    hint = f"cut the net before the first of them, at {' and '.join(fed)}" if fed else "export it in another form"
    message = f"Caffe's layers cannot express {len(lines)} kinds of its operators:\n    " + "\n    ".join(lines)
    if len(lines) == 1:
        message = f"Caffe's layers cannot express one of its operators: {lines[0]}"
    return OnnxError(message, place=graph.place, hint=hint)
