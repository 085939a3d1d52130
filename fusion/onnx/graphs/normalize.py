"""Graphs in one plain form: opset 17, constants folded, shapes inferred, the batch open wherever that is exact."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from fusion.errors import OnnxError
from fusion.onnx.graphs.batch_reshape import (
    as_reshape,
    expanded_rows,
    keeps_merged,
    keeps_samples,
    mixes_batch,
    static_reshape,
)
from fusion.onnx.graphs.branches import branch_nodes
from fusion.onnx.graphs.canonicalize import canonical_nodes
from fusion.onnx.graphs.channels_first import with_channels_first
from fusion.onnx.graphs.class_scores import with_class_scores
from fusion.onnx.graphs.constants import Facts, constant_value
from fusion.onnx.graphs.graph import Dims, Graph, all_reads, filled_shape, known_sizes, prune
from fusion.onnx.graphs.lower_opset import REDUCTIONS, lower_node
from fusion.onnx.graphs.ml_operators import ML, UnsupportedError, ml_nodes
from fusion.onnx.graphs.module_path import module_path
from fusion.onnx.graphs.quantized import pair_quantization
from fusion.onnx.graphs.read import KEPT, Path, read_graph
from fusion.onnx.graphs.recurrent import GATES
from fusion.onnx.graphs.shape_probe import DATA, Probe, evaluate, shape_of

_BATCHES = (2, 3)
# Constants are the same for these batches too, unlike the smaller of the batch and 2, a quarter of the batch, or the
# larger of the batch and 64.
_WITNESSES = (1, 13, 1009)
_STRICT = REDUCTIONS | {"Split"}  # onnx's inference refuses valid nodes of these: bool values, empty parts
_FOLDED = 1 << 26  # most elements of a folded constant


def load_graph(path: Path, shapes: Mapping[str, Dims] | None = None) -> Graph:
    """Read a file and normalize it; cached until the file changes. Raises: OnnxError, OSError."""
    stat = os.stat(path)
    given = tuple(sorted((shapes or {}).items()))
    return _loaded(os.fspath(path), stat.st_mtime_ns, stat.st_size, given)


@lru_cache(maxsize=4)
def _loaded(path: str, modified: int, size: int, shapes: tuple[tuple[str, Dims], ...]) -> Graph:
    return normalize_graph(read_graph(path), dict(shapes))


def normalize_graph(graph: Graph, shapes: Mapping[str, Dims] | None = None) -> Graph:
    """Return the graph in its plain form. Values keep their names; replaced values are in `aliases`.

    shapes  of inputs, for sizes after the batch that the file leaves open
    Raises: OnnxError when a given shape contradicts that of the input.
    """
    found = with_channels_first(_normalized(graph, shapes or {}))
    return with_class_scores(found) if graph.classifier else found


def _normalized(graph: Graph, shapes: Mapping[str, Dims]) -> Graph:
    inputs = {name: filled_shape(graph, name, shapes.get(name)) for name in graph.inputs}
    sizes = [dims[0] for dims in inputs.values() if dims]
    fixed = next((size for size in sizes if size is not None), None)
    if fixed is None:
        return _pass(graph, inputs, _BATCHES, None)
    if set(sizes) - {None, fixed}:
        whole = _pass(graph, inputs, (fixed,), None)
        note = f"the batch stays {fixed}, because its inputs differ in their first axis"
        return replace(whole, batch=fixed, notes=(*whole.notes, note))
    # The batch of the file may be written into shapes anywhere: try to open it, and keep it if a node depends on it.
    try:
        opened = _pass(graph, inputs, _BATCHES, fixed)
        return replace(opened, notes=(*opened.notes, f"the batch, {fixed} in the file, is open"))
    except _FixedError as error:
        closed = _pass(graph, inputs, (fixed,), None)
        note = f"the batch stays {fixed}, because of {error.where}: longer ones run in pieces"
        return replace(closed, batch=fixed, over_batch=error.over_batch, notes=(*closed.notes, note))


class _FixedError(Exception):
    """The batch cannot be opened. `over_batch` are the nodes before it that run over the batch as a sequence."""

    def __init__(self, where: str, over_batch: frozenset[str]) -> None:
        super().__init__(where)
        self.where, self.over_batch = where, over_batch


@dataclass
class _State:
    """A pass over the nodes."""

    graph: Graph
    facts: Facts
    aliases: dict[str, str] = field(default_factory=dict)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    newer: set[str] = field(default_factory=set)
    over_batch: set[str] = field(default_factory=set)
    partial: set[str] = field(default_factory=set)
    unfit: set[str] = field(default_factory=set)
    refused: dict[str, str] = field(default_factory=dict)

    @property
    def declared(self) -> Probe | None:
        return self.facts.declared


def _pass(graph: Graph, inputs: Mapping[str, Dims], batches: tuple[int, ...], declared: int | None) -> Graph:
    probes = tuple(Probe(batch) for batch in batches)
    uses = Counter(all_reads(graph.nodes))
    uses.update(graph.outputs)
    elements = Counter(node.input[0] for node in graph.nodes if node.op_type == "SequenceAt")
    opened = Probe(declared) if declared is not None else None
    facts = Facts(dict(graph.constants), probes, min(graph.opset, KEPT), uses, opened, elements=elements)
    state = _State(graph, facts)
    facts.rows = frozenset(node.input[0] for node in graph.nodes if node.op_type in ("Gemm", "MatMul")
                                 and graph.constants.keys() & set(node.input[1:2]))  # fmt: skip
    if len(batches) > 1 and any(node.op_type in ("If", "Shape", "Size") for node in graph.nodes):
        state.facts.witnesses = tuple(map(Probe, _WITNESSES))
    for probe in state.facts.every:
        for name, dims in inputs.items():
            probe.types[name] = graph.types.get(name, 1)
            opens = dims and (declared is not None or dims[0] is None)
            probe.shapes[name] = (probe.batch, *dims[1:]) if opens else dims
        for name, array in graph.constants.items():
            probe.know(name, array)
    for node in graph.nodes:
        try:
            _visit(state, node)
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            name = f"node '{node.name or ', '.join(node.output)}' ({node.op_type})"
            message = f"{name} does not follow ONNX's specification: {error!r}"
            raise OnnxError(message, place=graph.place, hint="export the net again") from error
    outputs = tuple(state.aliases.get(name, name) for name in graph.outputs)
    nodes = prune(tuple(pair_quantization(state.nodes, state.facts)), outputs)
    fixed = [name for name in outputs if (_dims(state, name) or (None,))[0] is not None or name in state.facts.merged]
    if declared is not None and fixed:
        raise _fixed(state, f"the output '{fixed[0]}'")
    used = {name for node in nodes for name in node.input} | set(outputs)
    return replace(
        graph,
        nodes=nodes,
        constants={name: array for name, array in state.facts.constants.items() if name in used},
        inputs={name: (None, *dims[1:]) if declared is not None and dims else dims for name, dims in inputs.items()},
        outputs=outputs,
        opset=state.facts.opset,
        types=dict(probes[0].types),
        shapes={name: known for name in probes[0].shapes if (known := _dims(state, name)) is not None},
        aliases=state.aliases,
        newer=frozenset(state.newer),
        over_batch=frozenset(state.over_batch),
        partial=frozenset(state.partial),
        unfit=frozenset(state.unfit),
        refused=state.refused,
        notes=(*graph.notes, *state.facts.notes),
    )


def _dims(state: _State, name: str) -> Dims | None:
    """Return a value's shape with an open batch, also if the batch is fixed and there is only one probe."""
    dims, probes = state.facts.dims(name), state.facts.probes
    single = len(probes) == 1 and name not in state.facts.constants
    return (None, *dims[1:]) if dims and single and dims[0] == probes[0].batch else dims


def _visit(state: _State, original: onnx.NodeProto) -> None:
    """Fold the node, or append its plain form to the others."""
    node = onnx.NodeProto()
    node.CopyFrom(original)
    node.doc_string = ""
    node.name = module_path(node) or node.name
    del node.metadata_props[:]
    for index, name in enumerate(node.input):
        node.input[index] = state.aliases.get(name, name)
    if node.op_type == "Identity" and not node.domain:
        _rename(state, node)
        return
    if node.op_type == "If" and not node.domain and node.input[0] in state.facts.probes[0].values:
        condition = state.facts.constant(node.input[0])
        if condition is None:
            message = f"node '{node.output[0]}' (If) takes another branch for some batches than for others"
            hint = "export the net with a fixed batch, or without this If"
            raise OnnxError(message, place=state.graph.place, hint=hint)
        _enter(state, node, bool(condition))
        return
    if _folded(state, node):
        return
    _drop_zero_bias(state, node)
    try:
        lowered = ml_nodes(node, state.facts) if node.domain == ML else lower_node(node, state.facts, state.graph.opset)
    except UnsupportedError as error:
        state.refused[node.output[0]] = str(error)
        lowered = [node]
    if lowered is None:
        state.newer.add(node.output[0])
        _append(state, node, state.graph.opset)
        return
    for node in lowered:
        if node.op_type == "Identity" and not node.domain:
            _rename(state, node)
            continue
        parts = canonical_nodes(node, state.facts)
        computed = {name for part in parts for name in part.output} | state.facts.sequences.keys()
        if any(name and state.facts.uses.get(name) and name not in computed for name in node.output):
            state.partial.add(node.output[0])
            parts = [node]
        for part in [each for item in parts for each in _open_sizes(state, item)]:
            part.name = part.name or node.name
            if part.op_type == "Identity" and not part.domain:
                _rename(state, part)
            elif not _folded(state, part):  # such as a Cast of a constant, which the file has as CastLike
                _append(state, part, state.facts.opset)


def _enter(state: _State, node: onnx.NodeProto, condition: bool) -> None:
    """Visit the nodes of a branch in place of the If."""
    known = {*state.facts.probes[0].types, *state.aliases}
    parts = list(
        branch_nodes(node, condition, known.union(name for other in state.graph.nodes for name in other.output))
    )
    uses = state.facts.uses
    uses.update([name for name in all_reads(parts) if name not in uses])  # values that were renamed
    for part in parts:
        _visit(state, part)


def _open_sizes(state: _State, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Return the node with sizes that hold for every batch, as far as it has any. Raises: _FixedError."""
    if node.op_type == "Gather" and not node.domain and state.declared is not None:
        node = as_reshape(node, state.facts, state.declared)
    if node.op_type == "Reshape" and not node.domain:
        found = static_reshape(node, state.facts, state.declared)
        if found is None and node.input[0] in state.facts.merged:
            raise _fixed(state, _called(node))
        return found or [node]
    if node.op_type == "Concat" and state.declared is not None:
        return expanded_rows(node, state.facts, state.declared)
    return [node]


def _drop_zero_bias(state: _State, node: onnx.NodeProto) -> None:
    """Remove a bias of zeros that the file computes: exporters write it for a convolution without one."""
    if node.op_type in ("Conv", "ConvTranspose") and not node.domain and len(node.input) == 3:
        bias = state.facts.constant(node.input[2])
        if bias is not None and node.input[2] not in state.graph.constants and not bias.any():
            del node.input[2]


def _rename(state: _State, identity: onnx.NodeProto) -> None:
    """Let the readers of an Identity read its input instead."""
    source, name = identity.input[0], identity.output[0]
    state.aliases[name] = source
    state.facts.uses[source] += max(state.facts.uses[name] - 1, 0)  # its readers in place of the node itself


def _append(state: _State, node: onnx.NodeProto, opset: int) -> None:
    """Append the node and infer its shapes. Raises: _FixedError if it depends on the batch of the file."""
    sound = [probe.infer(node, opset, state.graph.imports) for probe in state.facts.probes]
    for witness in state.facts.witnesses:
        witness.infer(node, opset, state.graph.imports)
    if not any(sound) and node.output and node.op_type not in _STRICT:
        state.unfit.add(node.output[0])
    if (
        node.op_type in GATES
        and len({(probe.shapes.get(node.input[0]) or (None,))[0] for probe in state.facts.probes}) > 1
    ):
        state.over_batch.add(node.output[0])
    # A node that fits the file's batch but not the probes' batches has the batch written into one of its constants.
    if state.declared is not None:
        whole = state.declared.infer(node, opset, state.graph.imports)
        known = [
            all(name in probe.shapes for name in node.output if name) for probe in (*state.facts.probes, state.declared)
        ]
        if whole and not (all(sound) and all(known[:-1]) >= known[-1]):
            raise _fixed(state, _called(node))
        if mixes_batch(node, state.facts) or not keeps_merged(node, state.facts):
            raise _fixed(state, _called(node))
        _check_batch(state, node)
    state.nodes.append(node)


def _fixed(state: _State, where: str) -> _FixedError:
    return _FixedError(where, frozenset(state.over_batch))


def _called(node: onnx.NodeProto) -> str:
    return f"node '{node.name or node.output[0]}' ({node.op_type})"


def _check_batch(state: _State, node: onnx.NodeProto) -> None:
    """Check that a change of sizes follows the batch. Raises: _FixedError if its sizes fit one batch only."""
    if node.op_type not in ("Reshape", "Expand", "Flatten") or state.declared is None:
        return
    first = [probe.shapes.get(node.input[0]) for probe in state.facts.probes]
    then = [probe.shapes.get(node.output[0]) for probe in state.facts.probes]
    if first[0] != first[1] and None not in (first[0], then[0]) and then[0] == then[1]:
        raise _fixed(state, _called(node))
    merged = node.output[0] in state.facts.merged
    if (
        node.op_type != "Expand"
        and not merged
        and not keeps_samples(first, then, [probe.batch for probe in state.facts.probes])
    ):
        raise _fixed(state, _called(node))


def _folded(state: _State, node: onnx.NodeProto) -> bool:
    """Fold the node if its outputs are known without running the graph; return whether they are."""
    if node.op_type == "Constant" and not node.domain:
        state.facts.know(node.output[0], constant_value(node))
        return True
    if node.op_type in ("Shape", "Size") and not node.domain:
        return _store(state, node, [shape_of(node, probe) for probe in state.facts.probes])
    names = [name for name in node.input if name]
    if all(name in state.facts.constants for name in names):
        return _fold_constants(state, node)
    if all(name in state.facts.constants or name in probe.values for name in names for probe in state.facts.probes):
        found = [_evaluated(state, node, probe) for probe in state.facts.probes]
        return len(node.output) == 1 and _store(state, node, found)
    return False


def _fold_constants(state: _State, node: onnx.NodeProto) -> bool:
    arrays = [state.facts.constants[name] if name else None for name in node.input]
    probe = Probe(0)
    for name, array in zip(node.input, arrays, strict=True):
        if name and array is not None:
            probe.know(name, array)
    if not probe.infer(node, state.graph.opset, state.graph.imports):
        return False
    shapes = [known_sizes(probe.shapes.get(name)) for name in node.output]
    if any(sizes is None or math.prod(sizes) > _FOLDED for sizes in shapes):
        return False
    found = evaluate(node, arrays, state.graph.opset)
    if found is None:
        return False
    for name, array in zip(node.output, found, strict=True):
        state.facts.know(name, array)
    if node.op_type == "DequantizeLinear":
        state.facts.notes["quantized weights are read as the float32 numbers that they stand for"] = None
    first = node.input[0] if node.input else ""
    reshaped = node.op_type in ("Reshape", "Squeeze", "Unsqueeze") and first in state.graph.constants
    if reshaped and state.facts.uses[first] == 1:  # a parameter in another shape is still that parameter
        state.facts.know(first, found[0])
        state.aliases[node.output[0]] = first
    return True


def _evaluated(state: _State, node: onnx.NodeProto, probe: Probe) -> NDArray[Any] | None:
    arrays = [(probe.values[name] if name in probe.values else state.facts.constants[name]) if name else None
              for name in node.input]  # fmt: skip
    found = evaluate(node, arrays, state.graph.opset)
    return found[0] if found and len(found) == 1 else None


def _store(state: _State, node: onnx.NodeProto, found: list[NDArray[Any] | None]) -> bool:
    """Store values per probe: one that is the same for all is a constant, and its node is dropped."""
    if any(array is None for array in found):
        return False
    known = [array for array in found if array is not None]
    name = node.output[0]
    others = [*([state.declared] if state.declared else []), *state.facts.witnesses]
    for probe in others:
        _store_apart(state, node, probe)
    if all(array.shape == known[0].shape and np.array_equal(array, known[0]) for array in known):
        if all(np.array_equal(probe.values.get(name, known[0]), known[0]) for probe in others):
            state.facts.know(name, known[0])
            return True
        if state.declared is not None:
            raise _fixed(state, _called(node))  # such as the smaller of the batch and 2
    for probe, array in zip(state.facts.probes, known, strict=True):
        probe.know(name, array)
        probe.zeros.update([name] * (not array.any()))
    state.nodes.append(node)
    return True


def _store_apart(state: _State, node: onnx.NodeProto, probe: Probe) -> None:
    """Store the value for a probe of which less is known, if it is known and small."""
    array = None
    if node.op_type in ("Shape", "Size"):
        array = shape_of(node, probe)
    elif all(not name or name in probe.values or name in state.facts.constants for name in node.input):
        probe.infer(node, state.graph.opset, state.graph.imports)
        sizes = known_sizes(probe.shapes.get(node.output[0]))
        array = None if sizes is None or math.prod(sizes) > DATA else _evaluated(state, node, probe)
    if array is not None:
        probe.know(node.output[0], array)
