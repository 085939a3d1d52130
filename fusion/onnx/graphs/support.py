"""The operators of a graph that cannot be run, all listed before anything is converted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import onnx
from onnx import TensorProto, checker, defs

from fusion.errors import OnnxError
from fusion.onnx.graphs.graph import IR, OWN, Graph, attributes
from fusion.onnx.graphs.quantized import QUANTIZED, quantization_limits
from fusion.onnx.graphs.read import KEPT, OLDEST, OLDEST_RUN
from fusion.onnx.graphs.recurrent import GATES, recurrent_limits
from prototxt.summary.text_table import format_table

_KNOWN_NAMES = """
Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization BitShift Cast Ceil Celu Clip
Concat ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear Det Div Einsum Elu Equal Erf
Exp Expand EyeLike Flatten Floor GRU Gather GatherElements GatherND Gemm GlobalAveragePool GlobalLpPool Greater
GreaterOrEqual GridSample HardSigmoid HardSwish Hardmax InstanceNormalization IsInf IsNaN LRN LSTM LayerNormalization
LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization MatMul Max MaxPool Mean Min Mod Mul Neg NonMaxSuppression
NonZero Not OneHot Or PRelu Pad Pow QuantizeLinear RNN Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp
ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize ReverseSequence RoiAlign Round
ScatterElements ScatterND Selu Shape Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign Split Sqrt Squeeze Sub
Sum Tan Tanh ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Where Xor
"""
KNOWN: Final = frozenset(_KNOWN_NAMES.split())
"""Operators of opset 17 that `fusion.onnx.to_torch` converts; a test compares the list with its register."""
OWN_KNOWN: Final = frozenset(
    (
        "AffineGrid",
        "Dropout",
        "FakeQuantize",
        "Gelu",
        "GroupNormalization",
        "Mish",
        "RMSNormalization",
        "Resize",
        "Swish",
        "TreeEnsemble",
    )
)

_TYPES: Final = frozenset((TensorProto.FLOAT, TensorProto.UINT8, TensorProto.INT8, TensorProto.INT16,
                           TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL))  # fmt: skip
_UNSIGNED: Final = frozenset((TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64))
_ANY_INTEGER: Final = frozenset(("Equal", "Mul", "Pow"))  # torch has few operators for unsigned numbers
_RANKS: Final = {op: range(3, 6) for op in ("AveragePool", "Conv", "ConvTranspose", "MaxPool")} | {
    "BatchNormalization": range(2, 6),
    "GridSample": range(4, 5),
}


@dataclass(frozen=True)
class OperatorSupport:
    """One operator.

    name     with its domain, if it is not a standard one
    count    of nodes
    reasons  why some of them cannot be run; empty if all can
    where    the name of the first node that cannot
    """

    name: str
    count: int
    reasons: tuple[str, ...] = ()
    where: str = ""


@dataclass(frozen=True)
class Support:
    """All operators of a graph."""

    place: str
    rows: tuple[OperatorSupport, ...]

    @property
    def unsupported(self) -> tuple[OperatorSupport, ...]:
        """Return the operators that cannot be run."""
        return tuple(row for row in self.rows if row.reasons)

    def table(self) -> str:
        """Return the operators as text, those that cannot be run first."""
        ordered = sorted(self.rows, key=lambda row: (not row.reasons, row.name))
        rows = [(row.name, str(row.count), f"{'; '.join(row.reasons)} ({row.where})" if row.reasons else "yes")
                for row in ordered]  # fmt: skip
        return format_table(("operator", "nodes", "can be run"), rows, right=("nodes",))


def support(graph: Graph) -> Support:
    """Return the support for every operator of a graph in its plain form."""
    counts: dict[str, int] = {}
    reasons: dict[str, dict[str, None]] = {}
    where: dict[str, str] = {}
    for node in graph.nodes:
        name = f"{node.domain}::{node.op_type}" if node.domain not in ("", OWN) else node.op_type
        counts[name] = counts.get(name, 0) + 1
        for reason in unsupported_reasons(graph, node):
            reasons.setdefault(name, {})[reason] = None
            where.setdefault(name, node.name or node.output[0])
    rows = (OperatorSupport(name, n, tuple(reasons.get(name, ())), where.get(name, "")) for name, n in counts.items())
    return Support(graph.place, tuple(rows))


def check_support(graph: Graph) -> None:
    """Check that all operators can be run. Raises: OnnxError listing every one that cannot."""
    rows = support(graph).unsupported
    if rows:
        lines = [f"{row.name} ({row.count}x, first '{row.where}'): {'; '.join(row.reasons)}" for row in rows]
        message = f"{len(rows)} kinds of its operators cannot be run:\n    " + "\n    ".join(lines)
        if len(rows) == 1:
            message = f"one of its operators cannot be run: {lines[0]}"
        hint = "cut the net before them, or export it so that it does without (a lower opset, in eval mode, in float32)"
        raise OnnxError(message, place=graph.place, hint=hint)


def unsupported_reasons(graph: Graph, node: onnx.NodeProto) -> Iterator[str]:
    """Yield why a node of a graph in its plain form cannot be run; nothing if it can."""
    # From the general to the particular: onnx's checker must not see domains and operators that it does not know.
    yield from _types(graph, node)
    if node.domain == OWN:
        yield from _resize_limits(graph, node, attributes(node)) if node.op_type == "Resize" else ()
        return
    if node.domain:
        yield graph.refused.get(node.output[0], f"the domain '{node.domain}' is not ONNX's own")
        return
    if any(item.HasField("g") or item.graphs for item in node.attribute):
        yield "its branches are graphs of their own, chosen at run time"
        return
    if node.op_type == "Dropout":
        yield "whether it drops is computed, or its random numbers are given"
        return
    if node.op_type not in KNOWN:
        yield "no converter"
        return
    if node.output[0] in graph.newer:
        yield "its meaning since opset 18 has no form in opset 17"
        return
    try:
        checker.check_node(node, _context(graph.opset))
    except (checker.ValidationError, UnicodeDecodeError) as error:
        yield f"it is not valid: {str(error).splitlines()[0]}"
        return
    if node.output[0] in graph.unfit:
        yield "its inputs do not fit each other"
        return
    if node.output[0] in graph.partial:
        yield "outputs of it are read that are not computed"
        return
    if graph.opset < OLDEST and _differs(node.op_type, graph.opset):
        yield f"its meaning of opset {graph.opset}, which onnx could not convert to {KEPT}"
    yield from _limits(graph, node)


def _types(graph: Graph, node: onnx.NodeProto) -> Iterator[str]:
    """Yield the reason if torch has no arithmetic for an element type."""
    values = attributes(node)
    target = [values["to"]] if node.op_type == "Cast" and "to" in values else []
    for kind in (*(graph.types.get(name, TensorProto.FLOAT) for name in (*node.input, *node.output)), *target):
        # Unsigned types pass where torch has the operator; a Cast to half is kept, as it rounds.
        if kind in _UNSIGNED and node.op_type in _ANY_INTEGER:
            continue
        if node.op_type == "Cast" and kind == TensorProto.FLOAT16:
            continue
        if kind not in _TYPES:
            known = kind in TensorProto.DataType.values() and kind
            yield f"values of type {TensorProto.DataType.Name(kind).lower() if known else 'sequence or the like'}"
            return
    for name, kinds in zip(node.input, () if node.domain else _input_types(node.op_type), strict=False):
        kind = graph.types.get(name, 0)
        if kind in _TYPES and kinds and kind not in kinds:
            yield f"an input of type {TensorProto.DataType.Name(kind).lower()}"
            return


@lru_cache
def _input_types(op: str) -> tuple[frozenset[int], ...]:
    """Return the element types that each input of a standard operator may have."""
    try:
        schema = defs.get_schema(op, defs.onnx_opset_version(), "")
    except defs.SchemaError:
        return ()
    names = {f"tensor({TensorProto.DataType.Name(kind).lower()})": kind for kind in _TYPES}
    return tuple(frozenset(names[text] for text in item.types if text in names) for item in schema.inputs)


@lru_cache
def _context(opset: int) -> Any:
    found = checker.C.CheckerContext()
    found.ir_version, found.opset_imports = IR, {"": opset}
    return found


def _differs(op: str, opset: int) -> bool:
    """Return whether an operator of an old opset may mean something else in opset 17 with the same attributes."""
    try:
        old, new = defs.get_schema(op, opset, ""), defs.get_schema(op, KEPT, "")
    except defs.SchemaError:
        return True
    if opset < OLDEST_RUN or op == "Resize":
        return True
    defaults = [{name: item.default_value for name, item in schema.attributes.items()} for schema in (old, new)]
    same = all(name in defaults[1] and defaults[1][name] == value for name, value in defaults[0].items())
    return not same or (old.min_input, old.max_input) != (new.min_input, new.max_input)


def _limits(graph: Graph, node: onnx.NodeProto) -> Iterator[str]:
    # Most of these were left unchanged by `canonicalize`, because a size or a constant is not known.
    values = attributes(node)
    dims = graph.shapes.get(node.input[0]) if node.input else None
    auto = values.get("auto_pad", "NOTSET")
    if node.op_type in ("Conv", "MaxPool", "AveragePool") and auto.startswith("SAME"):
        yield "auto_pad SAME where the size of its input is not known"
    if node.op_type in _RANKS and (dims is None or len(dims) not in _RANKS[node.op_type]):
        yield "an input of unknown rank" if dims is None else f"an input of {len(dims)} axes"
    if node.op_type == "DepthToSpace" and values.get("mode", "DCR") == "DCR":
        yield "mode DCR where the size of its input is not known"
    if node.op_type == "Reshape" and values.get("allowzero"):
        yield "a size of 0 computed at run time"
    if node.op_type == "MaxPool" and (len(node.output) > 1 or values.get("storage_order")):
        yield "indices of the maxima"
    if node.op_type == "Resize":
        yield "sizes computed at run time, or of batch and channels"
    if node.op_type == "LRN" and values["size"] % 2 == 0:
        yield "an even size, which ONNX Runtime does not run"
    if node.op_type in GATES:
        yield from recurrent_limits(node)
        if node.output[0] in graph.over_batch:
            yield "it runs over the first axis of the net's inputs, which is the batch"
    if node.op_type in QUANTIZED:
        yield from quantization_limits(node, graph.types, graph.shapes.get)
    if node.op_type == "RoiAlign" and values.get("mode", "avg") != "avg":
        yield "mode max"


def _resize_limits(graph: Graph, node: onnx.NodeProto, values: dict[str, Any]) -> Iterator[str]:
    """Yield cropping, and modes on which ONNX and its runtime do not agree."""
    before = graph.shapes.get(node.input[0]) or ()
    place = values.get("coordinate_transformation_mode", "half_pixel")
    whole = all(size is not None and size * scale == int(size * scale)
                for size, scale in zip(before[2:], values.get("scales", ()), strict=False))  # fmt: skip
    if place == "tf_crop_and_resize":
        yield "it also crops"
    if place == "align_corners" and not whole:
        yield "align_corners by factors that give no whole sizes"
    if values.get("antialias"):
        yield "antialias"
