"""An ONNX file as a graph, only its outer form changed: opset 13 or later, functions inlined, constants apart."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import numpy_helper, version_converter

from fusion.errors import OnnxError
from fusion.onnx_graphs.graph import Dims, Graph
from fusion.onnx_graphs.mapping import Mapped, read_mapped
from prototxt.errors import WeightsError

Path = str | os.PathLike[str]
STANDARD = ("", "ai.onnx")
KEPT = 17
"""The opset in whose form graphs are kept: the newest that all of onnx2torch's converters know."""
_OLDEST = 13


def read(path: Path) -> Graph:
    """Read a file, with tensors that it keeps in files beside it; large ones are mapped, see `mapping`.

    Raises: OnnxError when it is no ONNX file, is damaged, or lacks such a file; OSError.
    """
    place = os.fspath(path)
    with open(place, "rb"):
        pass  # a missing file is an OSError with its name
    try:
        mapped = _mapped(place)
    except Exception as error:  # protobuf's DecodeError derives from Exception alone
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        hint = "is it complete? tensors kept outside lie in a file beside it, which must be copied with it"
        raise OnnxError(f"this is no readable ONNX file: {reason}", place=place, hint=hint) from error
    graph = from_model(mapped.model, place, mapped.arrays)
    return replace(graph, files=tuple(scan for scan, _ in mapped.files.values()))


def _mapped(path: str) -> Mapped:
    """Whole where onnx's own tools change the model first, and where it is not in protobuf's wire format."""
    if path.lower().endswith(".onnx"):
        try:
            mapped = read_mapped(path)
        except (WeightsError, DecodeError):
            return Mapped(onnx.load(path))  # for its words about what is wrong
        if not mapped.arrays or not (mapped.model.functions or _version(mapped.model) < _OLDEST):
            return mapped
    return Mapped(onnx.load(path))


def from_model(
    model: onnx.ModelProto, place: str = "the model", arrays: Mapping[str, NDArray[Any]] = MappingProxyType({})
) -> Graph:
    """A model as a graph.

    arrays  values of initializers that the model does not hold
    Raises: OnnxError when it holds no nodes or tensors of a kind that is not dense.
    """
    if not model.graph.node or not model.graph.output:
        hint = "export the net again, or give its prototxt"
        raise OnnxError("this ONNX file holds no net", place=place, hint=hint)
    if model.graph.sparse_initializer:
        raise OnnxError("its weights are sparse tensors", place=place, hint="export it with dense weights")
    notes: list[str] = []
    model = _inlined(model)
    model = _raised(model, notes)
    constants: dict[str, NDArray[Any]] = {
        tensor.name: arrays[tensor.name] if tensor.name in arrays else numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
    }
    given = [value for value in model.graph.input if value.name not in constants]
    imports = {item.domain: item.version for item in model.opset_import}
    nodes = []
    for node in model.graph.node:
        if node.domain == "ai.onnx":
            node.domain = ""
        nodes.append(node)
    return Graph(
        place=place,
        name=model.graph.name,
        nodes=tuple(nodes),
        constants=constants,
        inputs={value.name: _dims(value) for value in given},
        outputs=tuple(value.name for value in model.graph.output),
        opset=imports.get("", imports.get("ai.onnx", 1)),
        imports={domain: version for domain, version in imports.items() if domain not in STANDARD},
        types={value.name: value.type.tensor_type.elem_type for value in given},
        notes=tuple(notes),
    )


def _dims(value: onnx.ValueInfoProto) -> Dims:
    return tuple(dim.dim_value if dim.dim_value > 0 else None for dim in value.type.tensor_type.shape.dim)


def _inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without functions of its own."""
    if not model.functions:
        return model
    from onnx import inliner

    result: onnx.ModelProto = inliner.inline_local_functions(model)
    return result


def _raised(model: onnx.ModelProto, notes: list[str]) -> onnx.ModelProto:
    """A model older than opset 13 in opset 17, where onnx can do it; else as it is."""
    version = _version(model)
    if version >= _OLDEST:
        return model
    try:
        raised: onnx.ModelProto = version_converter.convert_version(model, KEPT)
    except Exception as error:
        notes.append(
            f"opset {version} stays, because onnx cannot bring it to {KEPT}: {str(error).splitlines()[0][:120]}"
        )
        return model
    notes.append(f"opset {version} was brought to {KEPT}")
    return raised


def _version(model: onnx.ModelProto) -> int:
    return next((item.version for item in model.opset_import if item.domain in STANDARD), 1)
