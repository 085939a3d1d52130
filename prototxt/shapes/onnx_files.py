"""Shapes of values in an ONNX file, for inputs of given shapes, by onnx's own inference; no weight is read."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from prototxt.errors import ShapeError, WeightsError
from prototxt.formats.onnx_outline import outline
from prototxt.shapes.dimensions import UNKNOWN, Shape, text

_SMALL = 1024  # elements: constants up to this size may be shapes, larger ones are weights


def value_shapes(
    file: str, inputs: Sequence[str], bottoms: Sequence[Shape]
) -> tuple[tuple[str, ...], dict[str, Shape]]:
    """Return the names of the file's outputs, and the known shapes of its values.

    inputs   the values that the bottoms feed, in order; empty: the file's own inputs
    bottoms  their shapes
    Without the file, or without the library, nothing is known. The first axis is the batch, and is as the file has it.
    Raises: ShapeError for a file that is no ONNX file, and for bottoms that do not fit, in shape or number.
    """
    if not Path(file).is_file():
        return (), {}
    try:
        import onnx  # noqa: F401
    except ImportError:
        return (), {}
    stat = os.stat(file)
    return _value_shapes(file, stat.st_mtime_ns, stat.st_size, tuple(inputs), tuple(map(_key, bottoms)))


def _key(shape: Shape) -> tuple[int | None, ...] | None:
    return None if shape is UNKNOWN else tuple(shape)


@lru_cache(maxsize=16)
def _value_shapes(
    file: str, modified: int, size: int, inputs: tuple[str, ...], bottoms: tuple[tuple[int | None, ...] | None, ...]
) -> tuple[tuple[str, ...], dict[str, Shape]]:
    try:
        model, own = _light(file)
    except Exception as error:  # protobuf's DecodeError derives from Exception alone
        raise ShapeError(f"{file} is no readable ONNX file: {error}") from error
    outputs = tuple(value.name for value in model.graph.output)
    named = {value.name: value for value in own}
    if not inputs or all(name in named for name in inputs):
        _feed([named[name] for name in inputs] or own, bottoms)
    shapes = {value.name: _dims(value) for value in _inferred(model)}
    for name, bottom in zip(inputs, bottoms, strict=False):
        _check_fits(name, shapes.get(name, UNKNOWN), bottom)
    return outputs, shapes


def _light(file: str) -> tuple[Any, list[Any]]:
    """Return the model with its weights turned into inputs of their shapes, and the names of its real inputs."""
    import onnx

    model = _model(file)
    graph = model.graph
    _infer_ml(graph)
    constants = {tensor.name for tensor in graph.initializer}
    own = [value for value in graph.input if value.name not in constants]
    large = [tensor for tensor in graph.initializer
             if math.prod(tensor.dims) > _SMALL or tensor.data_location == onnx.TensorProto.EXTERNAL]  # fmt: skip
    infos = [onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)) for tensor in large]
    names = {tensor.name for tensor in large}
    small = [tensor for tensor in graph.initializer if tensor.name not in names]
    model.ir_version = max(model.ir_version, 4)  # of older files, the inference knows no constants but inputs
    del graph.initializer[:], graph.input[:]
    graph.initializer.extend(small)
    graph.input.extend([*own, *infos])
    return model, list(graph.input)[: len(own)]


def _model(file: str) -> Any:
    """Load the model without reading large values, if it is in protobuf's format."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        with open(file, "rb") as opened:
            return onnx.ModelProto.FromString(outline(opened).content)
    except (WeightsError, DecodeError):
        return onnx.load(file, load_external_data=False)


def _infer_ml(graph: Any) -> None:
    """Write the shapes of values of `ai.onnx.ml` that onnx's inference does not know into the graph."""
    import onnx

    for node in graph.node:
        if node.domain != "ai.onnx.ml":
            continue
        given = {item.name: item for item in node.attribute}
        if node.op_type in ("Binarizer", "Imputer", "Normalizer", "Scaler", "ZipMap"):  # of the shape of their input
            node.op_type, node.domain = "Identity", ""
            del node.attribute[:]
            for value in graph.output:
                if value.name == node.output[0]:
                    value.ClearField("type")  # a sequence of maps
        elif node.op_type.startswith("TreeEnsemble"):
            labels = [*(given[name] for name in given if name.startswith("classlabels_"))]
            count = len(labels[0].ints) or len(labels[0].strings) if labels else given["n_targets"].i
            graph.value_info.append(
                onnx.helper.make_tensor_value_info(node.output[-1], onnx.TensorProto.FLOAT, [None, count])
            )


def _feed(values: Sequence[Any], bottoms: Sequence[tuple[int | None, ...] | None]) -> None:
    """Write the bottoms' shapes into the inputs. Raises: ShapeError."""
    if len(values) != len(bottoms):
        names = ", ".join(value.name for value in values)
        raise ShapeError(
            f"{len(bottoms)} bottoms for {len(values)} inputs of the ONNX file ({names})",
            hint="name in onnx_param.input those that the bottoms feed",
        )
    for value, bottom in zip(values, bottoms, strict=True):
        tensor = value.type.tensor_type
        if bottom is None or not tensor.HasField("shape"):
            continue
        dims = tensor.shape.dim
        _check_fits(value.name, _dims(value), bottom)
        for dim, size in list(zip(dims, bottom, strict=True))[1:]:
            if size is not None:
                dim.dim_value = size


def _check_fits(name: str, declared: Shape, bottom: tuple[int | None, ...] | None) -> None:
    """Check that a bottom has the value's shape, except for the batch size. Raises: ShapeError."""
    if bottom is None or declared is UNKNOWN:
        return
    fits = len(declared) == len(bottom) and all(
        mine is None or other is None or mine == other for mine, other in zip(declared[1:], bottom[1:], strict=True)
    )
    if not fits:
        raise ShapeError(
            f"input '{name}' of the ONNX file takes {text(declared)}, not {text(bottom)}",
            hint="prepare the pictures as it wants them: their size and number of channels",
        )


def _inferred(model: Any) -> list[Any]:
    import onnx

    try:
        found = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except Exception:  # the file may still declare shapes that cannot be inferred
        found = model.graph
    return [*found.input, *found.value_info, *found.output]


def _dims(value: Any) -> Shape:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return UNKNOWN
    return tuple(dim.dim_value if dim.dim_value > 0 else None for dim in tensor.shape.dim)
