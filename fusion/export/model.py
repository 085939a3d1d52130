"""A whole net as an ONNX model: its deploy form, its weights as constants, the batch left open."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, version_converter

import fusion.export.conv_pool
import fusion.export.elementwise
import fusion.export.onnx_layers
import fusion.export.reshape  # noqa: F401 - each registers exporters
from fusion.errors import ExportError, FusionError, WeightsMismatch, raise_all
from fusion.export.graph_builder import EXPORTERS, Dims, GraphBuilder, Step
from fusion.onnx.graphs import graph_weights
from fusion.onnx.graphs.layer_graph import layer_graph
from fusion.onnx.sidecar import ONNX, read_pair
from prototxt.edit.deploy import deploy
from prototxt.errors import ShapeError, did_you_mean
from prototxt.files import atomic_write
from prototxt.formats.index import shape_fits
from prototxt.schema.filter import filter_net
from prototxt.schema.load import load_net
from prototxt.schema.messages import LayerParameter, NetParameter
from prototxt.schema.shared_memory import check_unshared
from prototxt.shapes.net import NetShapes, infer
from prototxt.text.parser import parse_file
from prototxt.text.source_places import place_of

Path = str | os.PathLike[str]
OPSET = 17
OLDEST = 13
"""From here on Softmax works along one axis, as Caffe's does, and Split takes its sizes as an input."""
_NO_WAY_BACK = ("Add", "Div", "Identity", "Mul", "Relu", "Reshape", "Sub")
"""Operators unchanged from opset 13 to 17 that onnx's converter cannot lower; it is shown another one instead."""
_BATCHES = (2, 3)
_LARGEST = 2**31 - 1


@dataclass(frozen=True)
class Exported:
    """An ONNX model of a net.

    net      the deploy net that was exported, phase TEST
    inputs   blob -> shape, None where it follows the batch
    outputs  blobs
    notes    decisions that were made, one sentence each
    """

    model: onnx.ModelProto
    net: NetParameter
    inputs: dict[str, Dims]
    outputs: tuple[str, ...]
    notes: tuple[str, ...]

    def save(self, path: Path) -> None:
        """Write the model atomically. Raises: ExportError beyond 2 GB, OSError."""
        if self.model.ByteSize() > _LARGEST:
            hint = "save it with onnx.save_model(exported.model, path, save_as_external_data=True)"
            raise ExportError("the model is larger than the 2 GB of one ONNX file", place=os.fspath(path), hint=hint)
        with atomic_write(path, least=self.model.ByteSize()) as file:
            file.write(self.model.SerializeToString(deterministic=True))


def to_onnx(
    net: Path,
    weights: Path | Mapping[str, Sequence[NDArray[np.float32]]],
    *,
    opset: int = OPSET,
    inputs: Mapping[str, Sequence[int]] | None = None,
    outputs: Sequence[str] = (),
) -> Exported:
    """Convert a net with its weights.

    net      a deploy or train_val prototxt of any age: data layers become inputs, losses scores
    inputs   shapes of inputs that the net does not define, by blob, or by "" for the only one
    outputs  blobs to export; by default those that no layer reads
    Raises: ExportError naming every layer that cannot be exported; WeightsMismatch for weights that are missing or do
            not fit; the errors of prototxt.edit.deploy.
    """
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST <= opset <= newest:
        raise ExportError(f"opset {opset} is not one of {OLDEST} to {newest}", hint=f"the default is {OPSET}")
    deployed = deploy(parse_file(net), inputs, outputs=outputs)
    message = filter_net(load_net(deployed.document), phase="TEST")
    check_unshared(message, "an ONNX model")
    shapes, notes = _shapes(message)
    arrays = weights if isinstance(weights, Mapping) else read_pair(weights)
    place = "the weights" if isinstance(weights, Mapping) else os.fspath(weights)
    # Graphs of Onnx layers are kept in opset 17, so a net with such layers is converted as a whole at the end.
    nested = any(layer.type == ONNX for layer in message.layer)
    graph, values = GraphBuilder(OPSET if nested else opset), _Values(message)
    graph.reserve(values.final)
    errors: list[FusionError] = []
    for index, layer in enumerate(message.layer):
        try:
            _convert(graph, values, layer, index, shapes, arrays, place)
        except FusionError as error:
            error.place = error.place or place_of(layer)
            errors.append(error)
    raise_all(errors)
    given = {top: shapes.top(index, n) for index, layer in enumerate(message.layer) if layer.type == "Input"
             for n, top in enumerate(layer.top)}  # fmt: skip
    results = {name: shapes.blob(name) for name in outputs or values.unread(message)}
    model = _model(graph, message.name, given, results)
    if graph.opset != opset:
        model = _converted(model, opset)
    return Exported(model, message, given, tuple(results), (*deployed.notes, *notes))


def _converted(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Convert the model to another opset: graphs of ONNX files are kept in opset `OPSET`. Raises: ExportError."""
    no_way = _NO_WAY_BACK if opset < OPSET else ()
    operators = {node.output[0]: node.op_type for node in model.graph.node if node.op_type in no_way}
    try:
        # Abs has a way back and passes shapes through; the operators get their names again afterwards.
        renamed = _with_operators(model, dict.fromkeys(operators, "Abs"))
        found: onnx.ModelProto = _with_operators(version_converter.convert_version(renamed, opset), operators)
        del found.graph.value_info[:]  # shapes that the converter inferred, of the other operators
        onnx.checker.check_model(found)
    except Exception as error:  # its exceptions have no base class of their own
        reason = (str(error).splitlines() or [type(error).__name__])[0].rpartition("Assertion `false` failed: ")[2]
        raise ExportError(f"onnx cannot convert the model to opset {opset}: {reason}", hint=f"use {OPSET}") from error
    return found


def _with_operators(model: onnx.ModelProto, operators: Mapping[str, str]) -> onnx.ModelProto:
    """Return a copy of the model with other operators for some outputs."""
    renamed = onnx.ModelProto()
    renamed.CopyFrom(model)
    for node in renamed.graph.node:
        node.op_type = operators.get(node.output[0], node.op_type)
    return renamed


@dataclass(frozen=True)
class _Shapes:
    """Shapes for two batch sizes; a size that differs follows the batch."""

    one: NetShapes
    other: NetShapes

    def top(self, layer: int, index: int) -> Dims:
        return _merged(self.one.tops[layer][index], self.other.tops[layer][index])

    def bottom(self, layer: int, index: int) -> Dims:
        return _merged(self.one.bottoms[layer][index], self.other.bottoms[layer][index])

    def blob(self, name: str) -> Dims:
        return _merged(self.one.blobs[name], self.other.blobs[name])


def _merged(one: Dims, other: Dims) -> Dims:
    return tuple(a if a == b else None for a, b in zip(one, other, strict=True))


def _shapes(net: NetParameter) -> tuple[_Shapes, tuple[str, ...]]:
    """Return the net's shapes and notes: the batch open, or as it is if a layer fixes it."""
    declared = infer(net)
    given = {top: shape for layer, tops in zip(net.layer, declared.tops, strict=True) if layer.type == "Input"
             for top, shape in zip(layer.top, tops, strict=True)}  # fmt: skip
    try:
        found = [
            infer(net, {blob: (batch, *shape[1:]) for blob, shape in given.items() if shape}) for batch in _BATCHES
        ]
    except ShapeError as error:
        return _Shapes(declared, declared), (f"the batch stays as it is, because the net fixes it: {error.message}",)
    if found[0].params != found[1].params:
        return _Shapes(declared, declared), ("the batch stays as it is, because weights depend on it",)
    return _Shapes(*found), ()


class _Values:
    """Names for the versions of blobs: the last version has the blob's name, as the model's outputs do."""

    def __init__(self, net: NetParameter) -> None:
        self.current: dict[str, str] = {}
        self.read: set[str] = set()
        self._last = {top: index for index, layer in enumerate(net.layer) for top in layer.top}
        self.final = set(self._last)

    def bottoms(self, layer: LayerParameter) -> list[str]:
        """Return the values that the layer reads, and note that they are read."""
        values = [self.current[name] for name in layer.bottom]
        self.read.update(values)
        return values

    def tops(self, layer: LayerParameter, index: int) -> list[str]:
        """Return names for the values that the layer computes."""
        names = [top if self._last[top] == index else f"{top}@{layer.name or index}" for top in layer.top]
        self.current.update(zip(layer.top, names, strict=True))
        return names

    def unread(self, net: NetParameter) -> list[str]:
        """Return the net's outputs, in order."""
        tops = dict.fromkeys(top for layer in net.layer if layer.type != "Input" for top in layer.top)
        return [top for top in tops if top not in self.read]


def _convert(
    graph: GraphBuilder, values: _Values, layer: LayerParameter, index: int, shapes: _Shapes, weights: Any, place: str
) -> None:
    bottoms, tops = values.bottoms(layer), values.tops(layer, index)
    if layer.type == "Input":
        return
    if layer.type not in EXPORTERS:
        hint = did_you_mean(layer.type, EXPORTERS, f"can be exported: {', '.join(sorted(EXPORTERS))}")
        message = f"layer '{layer.name}' cannot be exported: there is no exporter for the type '{layer.type}'"
        raise ExportError(message, hint=hint)
    step = Step(
        layer,
        bottoms,
        tops,
        [shapes.bottom(index, number) for number in range(len(bottoms))],
        [shapes.top(index, number) for number in range(len(tops))],
        _nested(layer, weights) if layer.type == ONNX else _arrays(layer, shapes.one.params[index], weights, place),
    )
    EXPORTERS[layer.type](graph, step)


def _nested(layer: LayerParameter, weights: Mapping[str, Sequence[Any]]) -> list[NDArray[np.float32]]:
    """Return the weights given for an Onnx layer, [] to use those in its file. Raises: WeightsMismatch."""
    if layer.name not in weights:
        return []
    found = [np.asarray(blob, np.float32) for blob in weights[layer.name]]
    expected = [array.shape for array in graph_weights(layer_graph(layer)).values()]
    if [blob.shape for blob in found] != expected:
        message = f"the weights of layer '{layer.name}' do not fit the graph in {layer.onnx_param.file}"
        raise WeightsMismatch(message, hint="give the weights that were merged or trained for this net")
    return found


def _arrays(
    layer: LayerParameter, shapes: Sequence[Dims], weights: Mapping[str, Sequence[Any]], place: str
) -> list[NDArray[np.float32]]:
    """Return the layer's blobs, float32, in the shapes that the net gives them. Raises: WeightsMismatch."""
    if not shapes:
        return []
    if layer.name not in weights:
        hint = did_you_mean(layer.name, weights, f"they have {', '.join(list(weights)[:5])}, ...")
        raise WeightsMismatch(f"layer '{layer.name}' has no weights in {place}", hint=hint)
    found = [np.asarray(blob, np.float32) for blob in weights[layer.name]]
    if len(found) != len(shapes) or not all(
        shape_fits(blob.shape, shape) for blob, shape in zip(found, shapes, strict=True)
    ):
        message = f"layer '{layer.name}' needs blobs of shape {[tuple(shape) for shape in shapes]}"
        raise WeightsMismatch(f"{message}, but {place} has {[blob.shape for blob in found]}")
    return [blob.reshape([dim or -1 for dim in shape]) for blob, shape in zip(found, shapes, strict=True)]


def _model(graph: GraphBuilder, name: str, inputs: Mapping[str, Dims], outputs: Mapping[str, Dims]) -> onnx.ModelProto:
    infos = [
        [helper.make_tensor_value_info(blob, onnx.TensorProto.FLOAT, [dim or "N" for dim in dims])
         for blob, dims in side.items()]
        for side in (inputs, outputs)
    ]  # fmt: skip
    proto = helper.make_graph(graph.nodes, name or "net", infos[0], infos[1], graph.initializers())
    imports = [helper.make_opsetid("", graph.opset)]
    model = helper.make_model(
        proto,
        opset_imports=imports,
        producer_name="caffe-fusion",
        ir_version=helper.find_min_ir_version_for(imports),
    )
    if model.ByteSize() <= _LARGEST:
        onnx.checker.check_model(model)
    return model
