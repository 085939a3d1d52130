"""Proof that a fused net still computes what its sources computed, layer by layer; and of weights, and of two nets.

for found in verify_branches("fused.prototxt", "init.caffemodel", {"odd": ("odd.prototxt", "odd.caffemodel")}):
    print(found.verdict())
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fusion.companions import read_pair
from fusion.differences import RTOL, Comparison, Difference, difference
from fusion.errors import DataError, FusionError, WeightsMismatch, raise_all
from fusion.graph import Call, Net, run, with_outputs
from fusion.inputs import input_shapes, noise, preparation
from fusion.nets import build, params
from fusion.onnx_runtime import run_file
from fusion.weights import load_weights
from prototxt.loading import load_net
from prototxt.messages import NetParameter
from prototxt.phases import filter_net
from prototxt.shapes.registry import layer_type

Path = str | os.PathLike[str]
Pairs = list[tuple[Call, Call]]


@dataclass(frozen=True)
class Feed:
    """What both sides are given.

    pictures  files; without any, standard normal noise
    batch     samples of noise
    shapes    of inputs that a net does not tell
    """

    pictures: Sequence[str] = ()
    batch: int = 2
    seed: int = 0
    shapes: Mapping[str, Sequence[int]] | None = None


@dataclass(frozen=True)
class _Side:
    """A net with its weights, its description, what to call it, and its layers that the weights lack."""

    net: Net
    message: NetParameter
    shapes: Mapping[str, tuple[int, ...]]
    label: str
    missing: tuple[str, ...]


@dataclass(frozen=True)
class _Match:
    """A value of the one net, the value of the other that must equal it, and the layer to name if it does not."""

    layer: str
    here: str
    there: str


def verify_branches(
    fused: Path,
    weights: Path,
    sources: Mapping[str, tuple[Path, Path] | Path],
    feed: Feed = Feed(),
    rtol: float = RTOL,
    without: Collection[str] = (),
) -> list[Comparison]:
    """Run each source and its branch of the fused net on the same inputs and compare every blob they both make.

    without  layers of the fused net that are meant to differ
    sources  prefix -> (prototxt, weights), or an ONNX file, which ONNX Runtime runs; the fused layer `odd/conv1` is
             `conv1` of source `odd`
    Raises: FusionError when a branch and its source have no layer in common, or the branch reads something else;
            WeightsMismatch when weights are missing or do not fit; DataError for inputs.
    """
    found = []
    for prefix, given in sources.items():
        if not isinstance(given, tuple):
            found.append(_verify_onnx(prefix, given, _opened(fused, weights, feed, prefix=prefix), feed, rtol, without))
            continue
        description, trained = given
        source = _opened(description, trained, feed)
        whole = _opened(fused, weights, feed, fallback=source.shapes, prefix=prefix)
        computed = _computed(source)
        pairs = _pairs(source.net, whole.net, prefix)
        pairs = [
            pair for pair in pairs if pair[0].tops and computed.issuperset(pair[0].tops) and pair[1].name not in without
        ]
        if not pairs:
            raise _nothing_in_common(prefix, source, whole)
        _check_weights(prefix, pairs, source, whole)
        matches = [
            _Match(theirs.name, here, there)
            for ours, theirs in pairs
            for here, there in zip(ours.tops, theirs.tops, strict=False)
        ]
        both = {ours.name for ours, _ in pairs}
        skipped = tuple(dict.fromkeys(call.name for call in source.net.plan.calls if call.name not in both))
        found.append(_compared(prefix, source, whole, matches, pairs, feed, rtol, skipped))
    return found


def _verify_onnx(
    prefix: str, path: Path, whole: _Side, feed: Feed, rtol: float, without: Collection[str]
) -> Comparison:
    """What the Onnx layers of a branch make against what their file makes in ONNX Runtime."""
    from fusion.onnx_branches import branch_values

    matches = branch_values(whole.message, whole.net, prefix, path, without)
    if not matches:
        raise FusionError(f"'{prefix}': {whole.label} has no Onnx layers of this prefix", hint="is the prefix right?")
    fused = with_outputs(whole.net, {match.top: match.top for match in matches})
    inputs = _inputs(whole, fused, feed)
    with torch.no_grad():
        found = run(fused, inputs)
    fed = {name: (found[value].movedim(1, -1) if last else found[value]).numpy()
           for match in matches for name, value, last in match.inputs}  # fmt: skip
    expected = run_file(path, [match.value for match in matches], fed)
    rows = [difference(match.layer, _blob(match.top), expected[match.value], found[match.top].numpy())
            for match in matches]  # fmt: skip
    given = f"{len(feed.pictures)} pictures" if feed.pictures else f"noise with seed {feed.seed}"
    what = f"ONNX Runtime on {os.fspath(path)} against {whole.label}, on {given}"
    return Comparison(prefix, what, tuple(rows), rtol=rtol)


def verify_nets(
    first: tuple[Path, Path],
    second: tuple[Path, Path],
    feed: Feed = Feed(),
    rtol: float = RTOL,
) -> Comparison:
    """Run two nets on the same inputs and compare the blobs of equal names; without any, their outputs in order.

    first, second  (prototxt, weights)
    Raises: as verify_branches.
    """
    one = _opened(*first, feed)
    other = _opened(*second, feed, fallback=one.shapes)
    values = _blobs_of_equal_names(one, other) or list(zip(_outputs(one), _outputs(other), strict=False))
    if not values:
        raise _nothing_in_common("nets", one, other)
    makers = {top: call.name for call in one.net.plan.calls for top in call.tops}
    matches = [_Match(makers[here], here, there) for here, there in values]
    _check_missing("nets", [(one, one.missing), (other, other.missing)])
    names = dict(one.net.plan.blobs)
    skipped = tuple(name for name, value in names.items() if value in makers and value not in dict(values))
    return _compared("nets", one, other, matches, [], feed, rtol, skipped)


def verify_weights(
    weights: Path, sources: Mapping[str, Path], rtol: float = 0.0, without: Collection[str] = ()
) -> list[Comparison]:
    """Compare the weights of each source with those of its branch in another weights file.

    without  layers of the fused net that are meant to differ
    Raises: WeightsMismatch when they have no layer in common.
    """
    whole = read_pair(weights)
    found = []
    for prefix, path in sources.items():
        source = read_pair(path)
        names = {name: _fused_name(name, prefix, whole) for name in source}
        both = {name: fused for name, fused in names.items() if fused is not None and fused not in without}
        if not both:
            own = ", ".join(list(source)[:4])
            hint = f"the source's layers are {own}, ...; the other's {', '.join(list(whole)[:4])}, ..."
            raise WeightsMismatch(f"no layer of '{prefix}' is in {os.fspath(weights)}", place=str(path), hint=hint)
        rows: list[Difference] = []
        for name, fused in both.items():
            mine, theirs = source[name], whole[fused]
            if len(mine) != len(theirs):
                rows.append(Difference(fused, f"{len(theirs)} blobs for {len(mine)}", (), float("inf"), float("inf")))
                continue
            rows += [
                difference(
                    fused, f"weights {index}", array, other.reshape(array.shape) if _fits(array, other) else other
                )
                for index, (array, other) in enumerate(zip(mine, theirs, strict=True))
            ]
        skipped = tuple(name for name, fused in names.items() if fused is None)
        what = f"the weights of {os.fspath(path)} in {os.fspath(weights)}"
        found.append(Comparison(prefix or "weights", what, tuple(rows), skipped, rtol=rtol))
    return found


def _fits(one: object, other: object) -> bool:
    return getattr(one, "size", 0) == getattr(other, "size", 1)


def _fused_name(name: str, prefix: str, whole: Mapping[str, object]) -> str | None:
    candidates = (f"{prefix}/{name}", name) if prefix else (name,)
    return next(
        (found for found in candidates if found in whole and (not prefix or found.startswith(f"{prefix}/"))), None
    )


def _opened(
    description: Path,
    weights: Path,
    feed: Feed,
    *,
    fallback: Mapping[str, Sequence[int]] | None = None,
    prefix: str = "",
) -> _Side:
    """A net in phase TEST with its weights, for batches as long as the feed's.

    fallback  shapes of the other net's inputs, for inputs of the same name, with the prefix or without
    """
    place = os.fspath(description)
    message = filter_net(load_net(description), phase="TEST")
    batch = len(feed.pictures) or feed.batch
    given = {**(fallback or {}), **{f"{prefix}/{blob}": shape for blob, shape in (fallback or {}).items()}}
    given.update({blob: (batch, *shape[1:]) for blob, shape in (feed.shapes or {}).items()})
    tops = {top for layer in message.layer if not layer.bottom for top in layer.top}
    shapes = input_shapes(
        message, batch=batch, given={blob: shape for blob, shape in given.items() if blob in tops}, place=place
    )
    net = build(message, shapes=shapes, seed=0)
    missing = load_weights(net, weights).missing
    return _Side(net, message, shapes, f"{place} with {os.fspath(weights)}", missing)


def _pairs(source: Net, fused: Net, prefix: str) -> Pairs:
    """The layers that are one and the same in both nets, in the source's order."""
    calls: dict[str, Call] = {}
    for call in fused.plan.calls:
        calls.setdefault(call.name, call)
    pairs = []
    for call in source.plan.calls:
        names = (f"{prefix}/{call.name}", call.name) if prefix else (call.name,)
        found = next((calls[name] for name in names if name in calls), None)
        if found is not None and call.name and (not prefix or found.name.startswith(f"{prefix}/")):
            pairs.append((call, found))
    return pairs


def _blobs_of_equal_names(one: _Side, other: _Side) -> list[tuple[str, str]]:
    """The final values of blobs that both nets compute, in the order of the first."""
    theirs = {blob: value for blob, value in other.net.plan.blobs if value in _computed(other)}
    names = {value: blob for blob, value in one.net.plan.blobs if value in _computed(one)}
    made = [top for call in one.net.plan.calls for top in call.tops if top in names]
    return [(value, theirs[names[value]]) for value in made if names[value] in theirs]


def _outputs(side: _Side) -> list[str]:
    computed = _computed(side)
    return [value for _, value in side.net.plan.outputs if value in computed]


def _compared(
    name: str,
    source: _Side,
    fused: _Side,
    matches: Sequence[_Match],
    pairs: Pairs,
    feed: Feed,
    rtol: float,
    skipped: tuple[str, ...],
) -> Comparison:
    """Run both sides for the values that are matched; `pairs` tell which input of the one is which of the other."""
    one = with_outputs(source.net, {match.here: match.here for match in matches})
    other = with_outputs(fused.net, {match.there: match.there for match in matches})
    inputs = _inputs(source, one, feed)
    with torch.no_grad():
        expected = run(one, inputs)
        found = run(other, _handed_over(name, pairs, source.net, other, inputs))
    rows = [
        difference(match.layer, _blob(match.there), expected[match.here].numpy(), found[match.there].numpy())
        for match in matches
    ]
    given = f"{len(feed.pictures)} pictures" if feed.pictures else f"noise with seed {feed.seed}"
    what = f"{source.label} against {fused.label}, on {given}"
    return Comparison(name, what, tuple(rows), skipped, _differing_preparation(pairs, source, fused), rtol)


def _computed(side: _Side) -> set[str]:
    """Values that follow from pictures alone and are neither a loss nor a measure: labels are not at hand."""
    known = {value for key, value in side.net.plan.inputs if len(side.shapes[key]) > 1}
    for call in side.net.plan.calls:
        if known.issuperset(call.bottoms) and call.type != "Accuracy" and not layer_type(call.type).loss:
            known.update(call.tops)
    return known


def _nothing_in_common(name: str, source: _Side, fused: _Side) -> FusionError:
    mine = ", ".join(call.name for call in source.net.plan.calls[:4])
    theirs = ", ".join(call.name for call in fused.net.plan.calls[:4])
    hint = f"the first has {mine}, ...; the second {theirs}, ...; is the prefix right?"
    return FusionError(f"'{name}': {source.label} and {fused.label} have no layer in common", hint=hint)


def _check_weights(name: str, pairs: Pairs, source: _Side, fused: _Side) -> None:
    """Raises: WeightsMismatch naming layers without weights, or whose parameters have other shapes on the two sides."""
    mine, theirs = params(source.net), params(fused.net)
    names = [{call.name for call in calls} for calls in zip(*pairs, strict=True)]
    _check_missing(
        name,
        [(side, tuple(lost for lost in side.missing if lost in mine))
         for side, mine in zip((source, fused), names, strict=True)],
    )  # fmt: skip
    errors: list[FusionError] = []
    for ours, other in pairs:
        shapes = [[tuple(tensor.shape) for tensor in side.get(key, [])]
                  for side, key in ((mine, ours.name), (theirs, other.name))]  # fmt: skip
        if shapes[0] != shapes[1]:
            message = f"'{name}': layer '{other.name}' has parameters of shape {shapes[1]}, its source {shapes[0]}"
            errors.append(WeightsMismatch(message, hint="the two prototxts describe different layers"))
    raise_all(errors)


def _check_missing(name: str, sides: Sequence[tuple[_Side, Sequence[str]]]) -> None:
    """Raises: WeightsMismatch naming the layers that the weights lack."""
    raise_all(
        [
            WeightsMismatch(f"'{name}': {side.label} has no weights for layer '{layer}'", hint="merge again")
            for side, missing in sides
            for layer in missing
        ]
    )


def _inputs(source: _Side, net: Net, feed: Feed) -> dict[str, Tensor]:
    made = {}
    for key, _ in net.plan.inputs:
        if feed.pictures:
            made[key] = preparation(source.message, key, source.shapes[key]).tensor(feed.pictures)
        else:
            made[key] = noise(key, source.shapes[key], feed.seed)
    return made


def _handed_over(name: str, pairs: Pairs, source: Net, branch: Net, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The source's inputs under the keys by which the branch takes them, going by who reads them."""
    mine = {value: key for key, value in source.plan.inputs}
    theirs = {value: key for key, value in branch.plan.inputs}
    handed: dict[str, Tensor] = {}
    for ours, others in pairs:
        for here, there in zip(ours.bottoms, others.bottoms, strict=False):
            if mine.get(here) in inputs and there in theirs:
                handed[theirs[there]] = inputs[mine[here]]
    if not pairs:
        handed = {key: inputs[key] for key in theirs.values() if key in inputs}
    if not handed and len(inputs) == len(theirs) == 1:
        handed = dict(zip(theirs.values(), inputs.values(), strict=True))
    missing = [key for key in theirs.values() if key not in handed]
    if missing:
        hint = "the branch must read what its source read; compare their first layers"
        raise DataError(f"'{name}': the branch also reads {', '.join(map(repr, missing))}", hint=hint)
    return handed


def _differing_preparation(pairs: Pairs, source: _Side, fused: _Side) -> tuple[str, ...]:
    """A note for an input that the two nets' own data layers prepare differently: only their layers are compared."""
    makers = [{top: layer for layer in side.message.layer if not layer.bottom for top in layer.top}
              for side in (source, fused)]  # fmt: skip
    notes: dict[str, None] = {}
    for ours, others in pairs:
        for here, there in zip(ours.bottoms, others.bottoms, strict=False):
            one, other = makers[0].get(here), makers[1].get(there)
            if one is None or other is None or "Input" in (one.type, other.type):
                continue
            if one.transform_param != other.transform_param:
                notes[f"note: the data layers prepare '{here}' and '{there}' differently (transform_param)"] = None
    return tuple(notes)


def _blob(value: str) -> str:
    return value.replace("@", " after ")
