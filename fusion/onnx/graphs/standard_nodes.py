"""Nodes in the operators of opset 17: those of our own domain stand for newer ones."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx

from fusion.errors import OnnxError
from fusion.onnx.graphs.graph import OWN, attributes, make_node


def standard_nodes(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """Yield the node in operators of opset 17. Raises: OnnxError for an operator that opset 17 cannot express."""
    values, x, y = attributes(node), node.input[0], node.output[0]
    if node.domain != OWN:
        yield node
    elif node.op_type == "Dropout" and len(node.output) == 1:
        yield make_node("Identity", [x], [y])
    elif node.op_type == "AffineGrid":
        yield from _affine_grid(x, y, values)
    elif node.op_type == "FakeQuantize":
        yield make_node("QuantizeLinear", node.input, [f"{y}:quantized"], **values)
        yield make_node("DequantizeLinear", [f"{y}:quantized", *node.input[1:]], [y], **values)
    elif node.op_type == "Mish":
        yield make_node("Softplus", [x], [f"{y}:softplus"])
        yield make_node("Tanh", [f"{y}:softplus"], [f"{y}:tanh"])
        yield make_node("Mul", [x, f"{y}:tanh"], [y])
    elif node.op_type == "Swish" and values.get("alpha", 1.0) == 1:
        yield make_node("Sigmoid", [x], [f"{y}:sigmoid"])
        yield make_node("Mul", [x, f"{y}:sigmoid"], [y])
    elif node.op_type == "Gelu" and values.get("approximate", "none") == "none":
        yield from _gelu(x, y)
    elif node.op_type == "Resize":
        yield from _resize(x, y, values)
    elif node.op_type == "TreeEnsemble":
        yield from _trees(node, values)
    else:
        raise OnnxError(f"opset 17 cannot express its operator {node.op_type}", hint="cut the net before it")


def _resize(x: str, y: str, values: dict[str, Any]) -> Iterator[onnx.NodeProto]:
    """Yield Resize with factors or sizes of all axes; batch and channels keep theirs."""
    scales, sizes = values.pop("scales", None), values.pop("sizes", None)
    if scales is not None:
        yield _fixed(f"{y}:scales", np.asarray([1, 1, *scales], np.float32))
        yield make_node("Resize", [x, "", f"{y}:scales"], [y], **values)
        return
    yield _fixed(f"{y}:space", np.asarray(sizes, np.int64))
    yield make_node("Shape", [x], [f"{y}:front"], end=2)
    yield make_node("Concat", [f"{y}:front", f"{y}:space"], [f"{y}:sizes"], axis=0)
    yield make_node("Resize", [x, "", "", f"{y}:sizes"], [y], **values)


def _affine_grid(x: str, y: str, values: dict[str, Any]) -> Iterator[onnx.NodeProto]:
    """Yield the product of each matrix and all places of a map, from -1 to 1 between its borders or corner elements."""
    height, width = values["size"]
    axes = [_places(size, corners=bool(values.get("align_corners"))) for size in (width, height)]
    base = np.stack([*np.meshgrid(*axes), np.ones((height, width), np.float32)], -1).reshape(-1, 3)
    yield _fixed(f"{y}:places", base)
    yield _fixed(f"{y}:shape", np.asarray([-1, height, width, 2], np.int64))
    yield make_node("Transpose", [x], [f"{y}:turned"], perm=[0, 2, 1])
    yield make_node("MatMul", [f"{y}:places", f"{y}:turned"], [f"{y}:moved"])
    yield make_node("Reshape", [f"{y}:moved", f"{y}:shape"], [y])


def _places(size: int, *, corners: bool) -> np.ndarray[Any, np.dtype[np.float32]]:
    steps = np.arange(size, dtype=np.float32)
    return (2 * steps / max(size - 1, 1) - 1 if corners else (2 * steps + 1) / size - 1).astype(np.float32)


def _fixed(name: str, array: np.ndarray[Any, Any]) -> onnx.NodeProto:
    return make_node("Constant", [], [name], value=onnx.numpy_helper.from_array(array))


def _gelu(x: str, y: str) -> Iterator[onnx.NodeProto]:
    """Yield nodes for x * (1 + erf(x / sqrt 2)) / 2."""
    for name, value in (("root", 1 / math.sqrt(2)), ("one", 1.0), ("half", 0.5)):
        yield _fixed(f"{y}:{name}", np.asarray(value, np.float32))
    yield make_node("Mul", [x, f"{y}:root"], [f"{y}:scaled"])
    yield make_node("Erf", [f"{y}:scaled"], [f"{y}:erf"])
    yield make_node("Add", [f"{y}:erf", f"{y}:one"], [f"{y}:sum"])
    yield make_node("Mul", [x, f"{y}:sum"], [f"{y}:product"])
    yield make_node("Mul", [f"{y}:product", f"{y}:half"], [y])


def _trees(node: onnx.NodeProto, values: dict[str, Any]) -> Iterator[onnx.NodeProto]:
    """Yield the steps down all trees at once, as `fusion.onnx.to_torch` takes them, and the sum over the leaves."""
    x, features, thresholds, following, roots, leaves = node.input
    stem = f"{node.output[0]}:trees"
    for name, number in (("flat", [-1]), ("one", [1]), ("three", 3), ("four", 4), ("first", values["first"])):
        yield _fixed(f"{stem}:{name}", np.asarray(number, np.int64))
    yield make_node("Reshape", [following, f"{stem}:flat"], [f"{stem}:following"])
    yield make_node("Shape", [x], [f"{stem}:batch"], end=1)
    yield make_node("Concat", [f"{stem}:batch", f"{stem}:one"], [f"{stem}:rows"], axis=0)
    yield make_node("Expand", [roots, f"{stem}:rows"], [f"{stem}:0"])
    for level in range(values["depth"]):
        here = f"{stem}:{level}"
        yield make_node("Gather", [features, here], [f"{here}:feature"])
        yield make_node("GatherElements", [x, f"{here}:feature"], [f"{here}:value"], axis=1)
        yield make_node("Gather", [thresholds, here], [f"{here}:threshold"])
        for op in ("Greater", "GreaterOrEqual"):
            yield make_node(op, [f"{here}:value", f"{here}:threshold"], [f"{here}:{op}"])
            yield make_node("Cast", [f"{here}:{op}"], [f"{here}:{op}:number"], to=onnx.TensorProto.INT64)
        yield make_node("Add", [f"{here}:Greater:number", f"{here}:GreaterOrEqual:number"], [f"{here}:order"])
        yield make_node("IsNaN", [f"{here}:value"], [f"{here}:missing"])
        yield make_node("Where", [f"{here}:missing", f"{stem}:three", f"{here}:order"], [f"{here}:outcome"])
        yield make_node("Mul", [here, f"{stem}:four"], [f"{here}:row"])
        yield make_node("Add", [f"{here}:row", f"{here}:outcome"], [f"{here}:place"])
        yield make_node("Gather", [f"{stem}:following", f"{here}:place"], [f"{stem}:{level + 1}"])
    yield make_node("Sub", [f"{stem}:{values['depth']}", f"{stem}:first"], [f"{stem}:reached"])
    yield make_node("Gather", [leaves, f"{stem}:reached"], [f"{stem}:weights"])
    if values["aggregate"] == "SUM":
        yield make_node("ReduceSum", [f"{stem}:weights", f"{stem}:one"], node.output, keepdims=0)
        return
    op = "ReduceMin" if values["aggregate"] == "MIN" else "ReduceMax"
    yield make_node(op, [f"{stem}:weights"], [f"{stem}:best"], axes=[1], keepdims=0)
    yield make_node("IsInf", [f"{stem}:best"], [f"{stem}:absent"])
    yield _fixed(f"{stem}:none", np.asarray(0, np.float32))
    yield make_node("Where", [f"{stem}:absent", f"{stem}:none", f"{stem}:best"], node.output)
