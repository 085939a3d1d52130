"""Reshape targets that hold for every batch: computed sizes become constants, and a batch in the target is opened."""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx

from fusion.onnx.graphs.constants import Facts
from fusion.onnx.graphs.graph import Dims, known_sizes, make_node
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
        return _opened_within(fixed, known, declared.shapes.get(node.input[0]), declared.batch)
    sample = math.prod(fixed[1:])
    if not sample or any(math.prod(shape) % sample for shape in known):
        return None
    before = declared.shapes.get(node.input[0])
    return [0 if before and before[0] == fixed[0] else -1, *fixed[1:]] if 0 not in fixed else None


def _opened_within(
    fixed: tuple[int, ...], known: Sequence[tuple[int, ...]], before: Dims | None, batch: int
) -> list[int] | None:
    """Return the file's sizes with the batch left open, where it is an axis after the first, as that of sequences."""
    place, sizes = _batch_axis(known), known_sizes(before)
    if place is None or sizes is None or sizes[place] != batch or 0 in fixed:
        return None
    found = _same_places(fixed, batch, math.prod(sizes[:place]))
    return [-1 if axis == found[0] else size for axis, size in enumerate(fixed)] if len(found) == 1 else None


def keeps_samples(before: Sequence[Dims | None], after: Sequence[Dims | None], batches: Sequence[int]) -> bool:
    """Return whether a Reshape or Flatten leaves a batch that is not the first axis on an axis of its own.

    before, after  the shapes for each of the batches
    """
    known = [known_sizes(dims) for dims in before]
    if len({None if dims is None else dims[:1] for dims in before}) > 1 or len(set(before)) == 1:
        return True  # the batch is outermost, or there is none
    place = _batch_axis([sizes for sizes in known if sizes is not None])
    if place is None or None in known:
        return False
    places = [_same_places(then, batch, math.prod(sizes[:place])) if sizes and then is not None else []
              for sizes, then, batch in zip(known, map(known_sizes, after), batches, strict=True)]  # fmt: skip
    return bool(set.intersection(*map(set, places)))


def _batch_axis(shapes: Sequence[tuple[int, ...]]) -> int | None:
    """Return the only axis on which shapes for several batches differ, None if there is not one."""
    found = [axis for axis, column in enumerate(zip(*shapes, strict=True)) if len(set(column)) > 1]
    return found[0] if len(found) == 1 else None


def _same_places(sizes: Sequence[int], batch: int, outer: int) -> list[int]:
    """Return the axes of the batch's size that have as many elements outside them."""
    return [axis for axis, size in enumerate(sizes) if size == batch and math.prod(sizes[:axis]) == outer]
