"""Plan a deploy net: the layers to keep, the blobs that become inputs, and the losses that become scores."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from prototxt.errors import EditError, did_you_mean
from prototxt.schema.filter import is_included, stages_of
from prototxt.schema.messages import TEST, LayerParameter, NetParameter, NetState
from prototxt.schema.params import makes_data, param_count
from prototxt.schema.shared_memory import find_overwritten, layer_ends
from prototxt.shapes.registry import LAYER_TYPES

SCORES = {
    "SoftmaxWithLoss": "Softmax",
    "SoftmaxLoss": "Softmax",
    "InfogainLoss": "Softmax",
    "SigmoidCrossEntropyLoss": "Sigmoid",
}
_MEASURES = ("Accuracy", "Silence", "HDF5Output", "DetectionEvaluate")
_ALL_BOTTOMS = ("ContrastiveLoss", "MultiBoxLoss")  # losses on several predictions of the net
_STAGE = "deploy"


@dataclass(frozen=True, slots=True)
class Score:
    """A loss that becomes a layer of `type` on `blob`, at the loss's `index`."""

    index: int
    type: str
    blob: str


@dataclass(frozen=True)
class DeployPlan:
    """The plan of a deploy net; layers are given by index.

    state    the net's state: TEST, with the requested stages or "deploy"
    kept     layers kept without their include and exclude rules
    inputs   layers that become inputs, with those of their tops that are read
    scores   losses that become layers
    missing  blobs that are read but produced by no layer: inputs that the text does not declare
    notes    the decisions, one sentence each
    """

    state: NetState
    kept: frozenset[int]
    inputs: dict[int, tuple[str, ...]]
    scores: tuple[Score, ...]
    missing: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Flow:
    """The producers of the values that each present layer reads, and of the final value of each blob."""

    reads: dict[int, list[tuple[str, int | None]]]
    final: dict[str, int]


def plan_deploy(net: NetParameter, outputs: Sequence[str] = (), stages: Iterable[str] = ()) -> DeployPlan:
    """Plan the deploy net of an upgraded net with all phases.

    outputs  blobs to compute; by default the predictions of the losses, and the blobs that no layer reads
    stages   stages of the state; by default "deploy" if the net names this stage (DIGITS)

    A loss of the same type and label as one with a larger weight is auxiliary, and is removed with its branch.

    Raises: EditError for an unknown output, or if no layer would be left.
    """
    state = _state(net, stages)
    flow = _flow(net, state)
    notes: list[str] = []
    scores: list[Score] = []
    if outputs:
        roots = [_output(flow, blob) for blob in outputs]
    else:
        roots = _free(net, flow)
        for index in _losses(net, notes):
            roots += _judged(net, flow, index, scores, notes)
        for index in _measures(net) if not roots and not scores else ():
            roots += _judged(net, flow, index, scores, notes)
    needed = _ancestors(flow, roots)
    inputs = _inputs(net, flow, needed, scores)
    kept = frozenset(needed - set(inputs))
    if not any(net.layer[index].bottom for index in kept):
        hint = "give the net to train, with its data and its loss, or name the blobs to compute with --output-blob"
        raise EditError("nothing would be left of the net", hint=hint)
    missing = _missing(net, flow, needed, inputs)
    return DeployPlan(state, kept, inputs, tuple(scores), missing, tuple(notes))


def is_loss(layer: LayerParameter) -> bool:
    """Return whether the layer is a loss."""
    known = LAYER_TYPES.get(layer.type)
    return known.loss if known else layer.type.endswith("Loss") or any(weight > 0 for weight in layer.loss_weight)


def _state(net: NetParameter, stages: Iterable[str]) -> NetState:
    given = list(stages) or ([_STAGE] if _STAGE in stages_of(net) else [])
    return NetState(phase=TEST, stage=given)


def _flow(net: NetParameter, state: NetState) -> _Flow:
    flow = _Flow({}, {})
    present = [index for index, layer in enumerate(net.layer) if is_included(layer, state)]
    changed = find_overwritten([layer_ends(net.layer[index]) for index in present])
    for place, index in enumerate(present):
        flow.reads[index] = [(bottom, flow.final.get(bottom)) for bottom in net.layer[index].bottom]
        # An in-place layer is also the producer of the blobs that share the memory it writes.
        others = [found.blob for found in changed if found.layer == place]
        flow.final.update(dict.fromkeys((*net.layer[index].top, *others), index))
    return flow


def _output(flow: _Flow, blob: str) -> int:
    if blob not in flow.final:
        hint = did_you_mean(blob, flow.final, f"its blobs are {', '.join(flow.final)[:300]}")
        raise EditError(f"the net has no blob {blob!r} in phase TEST", hint=hint)
    return flow.final[blob]


def _free(net: NetParameter, flow: _Flow) -> list[int]:
    """Return the layers that compute tops which no layer reads: the net's own outputs."""
    read = {(blob, maker) for reads in flow.reads.values() for blob, maker in reads}
    return [
        index
        for index in flow.reads
        if not is_loss(layer := net.layer[index])
        and layer.type not in _MEASURES
        and layer.bottom
        and any((top, index) not in read for top in layer.top)
    ]


def _losses(net: NetParameter, notes: list[str]) -> list[int]:
    """Return the losses of any phase without the auxiliary ones."""
    found = [index for index, layer in enumerate(net.layer) if is_loss(layer) and layer.bottom]
    heaviest: dict[tuple[str, ...], float] = {}
    for index in found:
        key = _label_of(net.layer[index])
        heaviest[key] = max(heaviest.get(key, 0.0), _weight(net.layer[index]))
    main = [index for index in found if _weight(net.layer[index]) >= heaviest[_label_of(net.layer[index])]]
    dropped = [net.layer[index].name for index in found if index not in main]
    if dropped:
        names = ", ".join(repr(name) for name in dropped)
        notes.append(f"auxiliary losses removed with their branches: {names} (--output-blob keeps any blob)")
    return main


def _measures(net: NetParameter) -> list[int]:
    """Return the measures, which end a net for testing that has no loss."""
    return [index for index, layer in enumerate(net.layer) if layer.type in _MEASURES and layer.bottom]


def _label_of(layer: LayerParameter) -> tuple[str, ...]:
    return (layer.type, *layer.bottom[1:])


def _weight(layer: LayerParameter) -> float:
    return layer.loss_weight[0] if layer.loss_weight else 1.0


def _judged(net: NetParameter, flow: _Flow, index: int, scores: list[Score], notes: list[str]) -> list[int]:
    """Return the layers that compute the predictions of a loss; add the loss to `scores` if it becomes a layer."""
    layer = net.layer[index]
    reads = flow.reads.get(index) or [(bottom, flow.final.get(bottom)) for bottom in layer.bottom]
    learned = [(blob, maker) for blob, maker in reads if maker is not None and _is_learned(net, flow, maker)]
    if layer.type not in _ALL_BOTTOMS:
        learned = learned[:1]
    roots = [maker for _, maker in learned if maker is not None]
    if layer.type not in SCORES or not learned:
        return roots
    type_name, (blob, maker) = SCORES[layer.type], learned[0]
    present = [
        other for other, read in flow.reads.items() if read == [(blob, maker)] and net.layer[other].type == type_name
    ]
    if present:
        return present[:1]
    if not any((score.type, score.blob) == (type_name, blob) for score in scores):
        scores.append(Score(index, type_name, blob))
        notes.append(f"{layer.type} {layer.name!r} becomes {type_name} on {blob!r}")
    return roots


def _is_learned(net: NetParameter, flow: _Flow, index: int) -> bool:
    """Return whether a layer or one before it has parameters: predictions do, labels do not."""
    return any(param_count(net.layer[i].type, net.layer[i]) != 0 for i in _ancestors(flow, [index]) if flow.reads[i])


def _ancestors(flow: _Flow, roots: Iterable[int]) -> set[int]:
    found: set[int] = set()
    todo = list(roots)
    while todo:
        index = todo.pop()
        if index not in found:
            found.add(index)
            todo += [maker for _, maker in flow.reads.get(index, ()) if maker is not None]
    return found


def _inputs(net: NetParameter, flow: _Flow, needed: set[int], scores: Sequence[Score]) -> dict[int, tuple[str, ...]]:
    """Return the data layers with those of their tops that are read; DummyData only if there is no other."""
    sources = {index for index in needed if _is_source(net.layer[index])}
    real = {index for index in sources if net.layer[index].type != "DummyData"} or sources
    read = {(blob, maker) for index in needed for blob, maker in flow.reads[index]}
    return {
        index: tuple(top for top in net.layer[index].top if (top, index) in read or len(net.layer[index].top) == 1)
        for index in sorted(real)
        if net.layer[index].type != "Input"
    }


def _missing(net: NetParameter, flow: _Flow, needed: set[int], inputs: dict[int, tuple[str, ...]]) -> tuple[str, ...]:
    """Return the blobs that no present layer makes; those of data layers of other phases or stages go to `inputs`."""
    unmade = dict.fromkeys(blob for index in sorted(needed) for blob, maker in flow.reads[index] if maker is None)
    for index, layer in enumerate(net.layer):
        if index not in flow.reads and _is_source(layer):
            found = tuple(top for top in layer.top if top in unmade)
            if found:
                inputs[index] = found
                unmade = {blob: None for blob in unmade if blob not in found}
    return tuple(unmade)


def _is_source(layer: LayerParameter) -> bool:
    return not layer.bottom and makes_data(layer.type, 0)
