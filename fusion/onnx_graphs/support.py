"""What of a graph can be run, before anything is converted: every operator that cannot be, at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import onnx

from fusion.errors import OnnxError
from fusion.onnx_graphs.graph import OWN, Graph, attributes

# Operators whose opset 17 form onnx2torch converts exactly; tests hold the list to its registry and to ONNX Runtime.
# CumSum and NonZero, which it also has, compute something else.
_KNOWN_NAMES = """
Abs Acos Add And ArgMax ArgMin Asin Atan AveragePool BatchNormalization Cast Ceil Celu Clip Concat
ConstantOfShape Conv ConvTranspose Cos DepthToSpace Div Einsum Elu Equal Erf Exp Expand EyeLike Flatten
Floor Gather GatherElements GatherND Gemm GlobalAveragePool Greater GreaterOrEqual HardSigmoid HardSwish
InstanceNormalization IsInf IsNaN LRN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax MatMul Max
MaxPool Mean Min Mod Mul Neg NonMaxSuppression Not Or PRelu Pad Pow Range Reciprocal ReduceL1 ReduceL2
ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape
Resize RoiAlign Round ScatterND Selu Shape Sigmoid Sign Sin Slice Softmax Softplus Softsign Split Sqrt Squeeze
Sub Sum Tan Tanh Tile TopK Transpose Unsqueeze Where Xor
"""
KNOWN: Final = frozenset(_KNOWN_NAMES.split())
OWN_KNOWN: Final = frozenset(("Dropout", "Gelu", "GroupNormalization", "Mish", "RMSNormalization", "Resize", "Swish"))


@dataclass(frozen=True)
class Row:
    """One operator.

    name     with its domain, if it is not a standard one
    count    nodes
    reasons  why some of them cannot be run; empty: all can
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
    rows: tuple[Row, ...]

    @property
    def unsupported(self) -> tuple[Row, ...]:
        """Those that keep the graph from running."""
        return tuple(row for row in self.rows if row.reasons)

    def table(self) -> str:
        """The operators as text, those that cannot be run first."""
        width = max((len(row.name) for row in self.rows), default=0)
        ordered = sorted(self.rows, key=lambda row: (not row.reasons, row.name))
        return "\n".join(
            f"{row.name:<{width}}  {row.count:>4}  "
            + ("; ".join(row.reasons) + f" ({row.where})" if row.reasons else "yes")
            for row in ordered
        )


def support(graph: Graph) -> Support:
    """Judge every node of a graph in its plain form."""
    counts: dict[str, int] = {}
    reasons: dict[str, dict[str, None]] = {}
    where: dict[str, str] = {}
    for node in graph.nodes:
        name = f"{node.domain}::{node.op_type}" if node.domain not in ("", OWN) else node.op_type
        counts[name] = counts.get(name, 0) + 1
        for reason in _reasons(graph, node):
            reasons.setdefault(name, {})[reason] = None
            where.setdefault(name, node.name or node.output[0])
    rows = tuple(Row(name, count, tuple(reasons.get(name, ())), where.get(name, "")) for name, count in counts.items())
    return Support(graph.place, rows)


def check_support(graph: Graph) -> None:
    """Raises: OnnxError listing every operator that cannot be run."""
    rows = support(graph).unsupported
    if rows:
        lines = [f"{row.name} ({row.count}x, first '{row.where}'): {'; '.join(row.reasons)}" for row in rows]
        what = f"{len(rows)} kinds of its operators cannot be run:\n    " + "\n    ".join(lines)
        if len(rows) == 1:
            what = f"one of its operators cannot be run: {lines[0]}"
        hint = "cut the net before them, or export it so that it does without (a lower opset, in eval mode, in float32)"
        raise OnnxError(what, place=graph.place, hint=hint)


def _reasons(graph: Graph, node: onnx.NodeProto) -> Iterator[str]:
    if node.domain == OWN:
        yield from _resize_limits(graph, node, attributes(node)) if node.op_type == "Resize" else ()
        return
    if node.domain:
        yield f"the domain '{node.domain}' is not ONNX's own"
        return
    if any(item.HasField("g") or item.graphs for item in node.attribute):
        yield "its branches are graphs of their own, chosen at run time"
        return
    if node.op_type not in KNOWN:
        yield "no converter"
        return
    if node.output[0] in graph.newer:
        yield "its meaning since opset 18 has no form in opset 17"
    half = [name for name in (*node.input, *node.output) if graph.types.get(name) in (10, 16)]
    if half:
        yield "half precision"
    yield from _limits(graph, node)


def _limits(graph: Graph, node: onnx.NodeProto) -> Iterator[str]:
    values = attributes(node)
    if node.op_type in ("Conv", "ConvTranspose"):
        if any(name and name not in graph.constants for name in node.input[1:]):
            yield "its weights are computed at run time"
        if node.op_type == "ConvTranspose" and values.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
            yield "auto_pad"
        if node.op_type == "ConvTranspose" and values.get("output_shape"):
            yield "output_shape"
        pads = values.get("pads", [])
        if node.op_type == "ConvTranspose" and pads[: len(pads) // 2] != pads[len(pads) // 2 :]:
            yield "pads that differ at the two ends"
    if node.op_type in ("Conv", "MaxPool", "AveragePool") and values.get("auto_pad", "NOTSET").startswith("SAME"):
        yield "auto_pad SAME where the size of its input is not known"
    if node.op_type == "AveragePool":
        pads = values.get("pads", [])
        if pads[: len(pads) // 2] != pads[len(pads) // 2 :]:
            yield "pads that differ at the two ends, with ceil_mode or an unknown size"
    if node.op_type == "DepthToSpace" and values.get("mode", "DCR") == "DCR":
        yield "mode DCR where the size of its input is not known"
    if node.op_type == "Reshape" and values.get("allowzero"):
        yield "a size of 0 computed at run time"
    if node.op_type == "MaxPool" and (len(node.output) > 1 or values.get("storage_order")):
        yield "indices of the maxima"
    if node.op_type == "Resize":
        yield "sizes computed at run time, or of batch and channels"
    if node.op_type == "InstanceNormalization" and any(name not in graph.constants for name in node.input[1:]):
        yield "its weights are computed at run time"


def _resize_limits(graph: Graph, node: onnx.NodeProto, values: dict[str, object]) -> Iterator[str]:
    """Torch interpolates nearest as asymmetric and floor, else as half_pixel or align_corners."""
    mode, place = values.get("mode", "nearest"), values.get("coordinate_transformation_mode", "half_pixel")
    if mode == "nearest":
        whole = _whole_factors(graph, node)
        floor = values.get("nearest_mode", "round_prefer_floor") == "floor" and place == "asymmetric"
        if not floor and not (whole and place in ("half_pixel", "asymmetric", "pytorch_half_pixel")
                              and (place != "asymmetric" or values.get("nearest_mode") == "floor")):  # fmt: skip
            yield f"nearest with {place} and {values.get('nearest_mode', 'round_prefer_floor')}"
    elif place not in ("half_pixel", "pytorch_half_pixel", "align_corners"):
        yield f"{mode} with {place}"
    if values.get("antialias") or values.get("exclude_outside") or values.get("cubic_coeff_a", -0.75) != -0.75:
        yield "antialias, exclude_outside or another cubic_coeff_a"


def _whole_factors(graph: Graph, node: onnx.NodeProto) -> bool:
    """Whether it enlarges by whole factors, where all ways to round agree."""
    before, after = graph.shapes.get(node.input[0]), graph.shapes.get(node.output[0])
    if before is None or after is None or None in before[2:] or None in after[2:]:
        return False
    return all(int(b or 0) % int(a or 1) == 0 for a, b in zip(before[2:], after[2:], strict=True))
