"""ONNX files as graphs, with only their outer form changed: opset 13 or later, functions inlined, constants apart."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import helper, numpy_helper, version_converter

from fusion.errors import OnnxError
from fusion.onnx.graphs.cast_to_float32 import to_float32
from fusion.onnx.graphs.graph import IR, Dims, Graph, prune
from fusion.onnx.graphs.mapped_weights import Mapped, read_mapped
from fusion.onnx.graphs.ml_operators import ML
from fusion.onnx.graphs.sort_nodes import check_names, expand_operators, inline_functions, topological_order
from prototxt.errors import WeightsError
from prototxt.sniff.weights_format import foreign_format

Path = str | os.PathLike[str]
STANDARD = ("", "ai.onnx")
KEPT = 17
"""The opset in which graphs are kept, so that each operator has one meaning here."""
OLDEST = 13
OLDEST_RUN = 7  # the oldest opset that ONNX Runtime runs
_LABELS = (onnx.TensorProto.INT32, onnx.TensorProto.INT64, onnx.TensorProto.STRING)


def read_graph(path: Path) -> Graph:
    """Read a file and the files with its external tensors; large tensors are mapped, see `mapped_weights`.

    Raises: OnnxError when it is no ONNX file, is damaged, or an external file is missing; OSError.
    """
    place = os.fspath(path)
    with open(place, "rb") as file:  # a missing file is an OSError with its name
        start = file.read(4096)
    if not start:
        hint = "the program that wrote it failed: write it again"
        raise OnnxError("the file is empty", place=place, hint=hint)
    found = foreign_format(start)
    if found is not None:
        raise OnnxError(f"this is {found[0]}, not an ONNX file", place=place, hint=found[1])
    try:
        mapped = _mapped(place)
    except Exception as error:  # protobuf's DecodeError derives from Exception alone
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        hint = "is it complete? external tensors are in a file beside it, which must be copied too"
        raise OnnxError(f"this is no readable ONNX file: {reason}", place=place, hint=hint) from error
    graph = from_model(mapped.model, place, mapped.arrays)
    return replace(graph, files=tuple(scan for scan, _ in mapped.files.values()))


def _mapped(path: str) -> Mapped:
    """Map the file; read it whole if onnx's own tools must change the model, or it is not in protobuf's wire format."""
    if path.lower().endswith(".onnx"):
        try:
            mapped = read_mapped(path)
        except (WeightsError, DecodeError):
            return Mapped(onnx.load(path))  # for onnx's own message about the error
        if not mapped.arrays or not (mapped.model.functions or _version(mapped.model) < OLDEST):
            return mapped
    return Mapped(onnx.load(path))


def from_model(
    model: onnx.ModelProto, place: str = "the model", arrays: Mapping[str, NDArray[Any]] = MappingProxyType({})
) -> Graph:
    """Return a model as a graph.

    arrays  values of initializers that the model does not contain
    Raises: OnnxError when it has no nodes, or has sparse tensors.
    """
    if not model.graph.node or not model.graph.output:
        hint = "export the net again, or give its prototxt"
        raise OnnxError("this ONNX file holds no net", place=place, hint=hint)
    if model.graph.sparse_initializer:
        raise OnnxError("its weights are sparse tensors", place=place, hint="export it with dense weights")
    check_names(model, place)
    notes: list[str] = []
    model = inline_functions(model, place)
    try:
        model = expand_operators(to_float32(_raised(model, notes), notes))
    except (LookupError, TypeError, ValueError):
        _constants(model.graph, arrays, place)  # raises an error of ours if a damaged tensor is the cause
        raise
    constants = _constants(model.graph, arrays, place)
    given = [value for value in model.graph.input if value.name not in constants]
    imports = {item.domain: item.version for item in model.opset_import}
    for node in model.graph.node:
        if node.domain == "ai.onnx":
            node.domain = ""
    outputs = _scores(model.graph, notes)
    return Graph(
        place=place,
        name=model.graph.name,
        nodes=prune(topological_order(model.graph, place), outputs),
        constants=constants,
        inputs={value.name: _dims(value) for value in given},
        outputs=outputs,
        opset=_version(model),
        imports={domain: version for domain, version in imports.items() if domain not in STANDARD},
        types={value.name: value.type.tensor_type.elem_type for value in given},
        classifier=len(outputs) < len(model.graph.output),
        notes=tuple(notes),
    )


def _scores(graph: onnx.GraphProto, notes: list[str]) -> tuple[str, ...]:
    """Return the outputs; those of a classifier of `ai.onnx.ml` without its labels, if it has scores too."""
    names = [value.name for value in graph.output]
    labels = [value.name for value in graph.output if value.type.tensor_type.elem_type in _LABELS]
    if len(labels) == len(names) or all(node.domain != ML for node in graph.node):
        return tuple(names)
    notes += [f"its output '{label}' is left out: labels are no scores" for label in labels]
    return tuple(name for name in names if name not in labels)


def _dims(value: onnx.ValueInfoProto) -> Dims:
    return tuple(dim.dim_value if dim.dim_value > 0 else None for dim in value.type.tensor_type.shape.dim)


def _constants(graph: onnx.GraphProto, arrays: Mapping[str, NDArray[Any]], place: str) -> dict[str, NDArray[Any]]:
    found = {}
    for tensor in graph.initializer:
        try:
            found[tensor.name] = arrays[tensor.name] if tensor.name in arrays else numpy_helper.to_array(tensor)
        except (LookupError, TypeError, ValueError) as error:
            message = f"tensor '{tensor.name}' of shape {tuple(tensor.dims)} is damaged: {str(error).splitlines()[0]}"
            raise OnnxError(message, place=place, hint="copy or export the file again") from error
    return found


def _raised(model: onnx.ModelProto, notes: list[str]) -> onnx.ModelProto:
    """Convert a model older than opset 13 to opset 17 if onnx can do it; else return it unchanged."""
    version = _version(model)
    if version >= OLDEST:
        return model
    ir_version = model.ir_version
    model.ir_version = max(ir_version, IR)  # in version 3 initializers must be inputs too, or onnx fails
    try:
        if version < OLDEST_RUN and any(node.op_type == "PRelu" for node in model.graph.node):
            raise NotImplementedError("PRelu meant one slope per channel then")
        raised: onnx.ModelProto = version_converter.convert_version(model, KEPT)
    except Exception as error:
        notes.append(
            f"opset {version} stays, because onnx cannot convert it to {KEPT}: {str(error).splitlines()[0][:120]}"
        )
        return model
    finally:
        model.ir_version = ir_version
    if version < 11:
        _set_coordinates(raised)
    notes.append(f"opset {version} was converted to {KEPT}")
    return raised


def _set_coordinates(model: onnx.ModelProto) -> None:
    """Give Resize the coordinates of Upsample and of Resize of opset 10, which are not the later default."""
    for node in model.graph.node:
        if node.op_type == "Resize" and not node.domain:
            values = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
            known = {item.name for item in node.attribute}
            node.attribute.extend(helper.make_attribute(*pair) for pair in values.items() if pair[0] not in known)


def _version(model: onnx.ModelProto) -> int:
    """Return the opset of the standard operators; the newest that is kept where only other domains are imported."""
    found = (item.version for item in model.opset_import if item.domain in STANDARD)
    return next(found, KEPT if len(model.opset_import) else 1)
