"""Reshape targets that hold for every batch: computed sizes become constants, and a batch in the target is opened."""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx

from fusion.onnx.graphs.constants import Facts
from fusion.onnx.graphs.graph import known_sizes, make_node
from fusion.onnx.graphs.shape_probe import Probe


def static_reshape(node: onnx.NodeProto, facts: Facts, declared: Probe | None) -> list[onnx.NodeProto] | None:
    """Return the node with a constant target, None if there is none for all batches.

    declared  the probe of the batch size that the file fixes; None where it leaves the batch open
    """
    zeros = any(item.name == "allowzero" and item.i for item in node.attribute)
    if declared is not None:
        target = _opened(node, facts, declared, zeros)
    else:
        resolved = [_resolved(node, probe, zeros) for probe in facts.probes]
        target = _common(resolved, [probe.shapes.get(node.input[0]) for probe in facts.probes])
    if target is None:
        return None
    name = facts.add(f"{node.output[0]}:shape", target)
    return [make_node("Reshape", [node.input[0], name], node.output)]


def _resolved(node: onnx.NodeProto, probe: Probe, zeros: bool) -> tuple[int, ...] | None:
    """Return the output's shape for the probe's batch, None if it is not known."""
    dims, sizes = probe.shapes.get(node.input[0]), probe.values.get(node.input[1])
    if dims is None or sizes is None:
        return None
    kept = dict(enumerate(dims))
    numbers = enumerate(map(int, sizes.reshape(-1)))
    target = known_sizes([size if size or zeros else kept.get(axis) for axis, size in numbers])
    if target is None or -1 not in target:
        return target
    whole = known_sizes(dims)
    if whole is None:
        return None
    total, rest = math.prod(whole), math.prod(size for size in target if size != -1)
    if not rest or total % rest:
        return None
    return tuple(total // rest if size == -1 else size for size in target)


def _common(
    resolved: Sequence[tuple[int, ...] | None], dims: Sequence[tuple[int | None, ...] | None]
) -> list[int] | None:
    """Return sizes for all probes: fixed, 0 to keep the input's, -1 for another that follows the batch; else None."""
    known = [sizes for sizes in resolved if sizes is not None]
    if len(known) != len(resolved) or len({len(sizes) for sizes in known}) != 1:
        return None
    target: list[int] = []
    for axis, column in enumerate(zip(*known, strict=True)):
        if set(column) == {0}:
            return None  # it would be read as "keep the input's"
        if len(set(column)) == 1:
            target.append(column[0])
        elif all(
            shape is not None and axis < len(shape) and shape[axis] == size
            for shape, size in zip(dims, column, strict=True)
        ):
            target.append(0)
        else:
            target.append(-1)
    return target if target.count(-1) < 2 else None


def _opened(node: onnx.NodeProto, facts: Facts, declared: Probe, zeros: bool) -> list[int] | None:
    """Return the file's sizes with the first one left to the batch if the input's first follows it; else None."""
    fixed = _resolved(node, declared, zeros)
    known = [sizes for probe in facts.probes if (sizes := known_sizes(probe.shapes.get(node.input[0]))) is not None]
    if fixed is None or len(known) != len(facts.probes):
        return None
    if len(set(known)) == 1:
        return list(fixed)
    if any(len(set(column)) > 1 for column in list(zip(*known, strict=True))[1:]):
        return None  # the batch is on another axis
    sample = math.prod(fixed[1:])
    if not sample or any(math.prod(shape) % sample for shape in known):
        return None
    before = declared.shapes.get(node.input[0])
    return [0 if before and before[0] == fixed[0] else -1, *fixed[1:]] if 0 not in fixed else None
