"""Runs of two nets on the same inputs: branches of a fused net against their sources, and one net against another."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch

from fusion.errors import FusionError
from fusion.nets.graph import run, with_outputs
from fusion.onnx.runtime import run_file
from fusion.verification.comparison import RTOL, Comparison, compare_arrays
from fusion.verification.nets import (
    NOISE,
    Feed,
    Path,
    Side,
    branch_inputs,
    computed_inputs,
    computed_values,
    inputs_of,
    opened,
    output_values,
    source_feed,
)
from fusion.verification.pairs import (
    Pairs,
    blobs_of_equal_names,
    check_missing,
    check_weights,
    differing_preparation,
    handed_over,
    made_at_the_front,
    nothing_in_common,
    paired,
)


@dataclass(frozen=True)
class _Match:
    """A value of one net, the value of the other that must equal it, and the layer to name if it does not."""

    layer: str
    here: str
    there: str


def verify_branches(
    fused: Path,
    weights: Path,
    sources: Mapping[str, tuple[Path, Path] | Path],
    feed: Feed = NOISE,
    rtol: float = RTOL,
    without: Collection[str] = (),
) -> list[Comparison]:
    """Run each source and its branch of the fused net on the same inputs and compare every blob that both compute.

    without  layers of the fused net that are meant to differ
    sources  prefix -> (prototxt, weights), or an ONNX file, which ONNX Runtime runs; the fused layer `odd/conv1` is
             `conv1` of source `odd`
    Raises: FusionError when a branch and its source have no layer in common, or the branch has other inputs;
            WeightsMismatch when weights are missing or do not fit; DataError for inputs.
    """
    found = []
    for prefix, given in sources.items():
        if not isinstance(given, tuple):
            found.append(_verify_onnx(prefix, given, opened(fused, weights, feed, prefix=prefix), feed, rtol, without))
            continue
        description, trained = given
        own = source_feed(feed, fused, description, prefix)
        computed = computed_inputs(fused, description, prefix)
        otherwise = {**branch_inputs(fused, prefix), **computed}
        source = opened(description, trained, own, otherwise=otherwise, source_of=prefix)
        fallback = {blob: shape for blob, shape in source.shapes.items() if blob not in computed}
        whole = opened(fused, weights, feed, fallback=fallback, prefix=prefix)
        values = computed_values(source)
        pairs = paired(source.net, whole.net, prefix)
        pairs = [
            pair for pair in pairs if pair[0].tops and values.issuperset(pair[0].tops) and pair[1].name not in without
        ]
        if not pairs:
            raise nothing_in_common(prefix, source, whole)
        check_weights(prefix, pairs, source, whole)
        matches = [
            _Match(theirs.name, here, there)
            for ours, theirs in pairs
            for here, there in zip(ours.tops, theirs.tops, strict=False)
        ]
        both = {ours.name for ours, _ in pairs}
        skipped = tuple(dict.fromkeys(call.name for call in source.net.plan.calls if call.name not in both))
        found.append(_compared(prefix, source, whole, matches, pairs, feed, rtol, skipped))
    return found


def verify_nets(
    first: tuple[Path, Path],
    second: tuple[Path, Path],
    feed: Feed = NOISE,
    rtol: float = RTOL,
) -> Comparison:
    """Run two nets on the same inputs and compare the blobs of equal names; without any, their outputs in order.

    first, second  (prototxt, weights)
    Raises: as verify_branches.
    """
    one = opened(*first, feed)
    other = opened(*second, feed, fallback=one.shapes)
    values = blobs_of_equal_names(one, other) or list(zip(output_values(one), output_values(other), strict=False))
    if not values:
        raise nothing_in_common("nets", one, other)
    makers = {top: call.name for call in one.net.plan.calls for top in call.tops}
    matches = [_Match(makers[here], here, there) for here, there in values]
    check_missing("nets", [(one, one.missing), (other, other.missing)])
    names = dict(one.net.plan.blobs)
    skipped = tuple(name for name, value in names.items() if value in makers and value not in dict(values))
    return _compared("nets", one, other, matches, [], feed, rtol, skipped)


def _verify_onnx(prefix: str, path: Path, whole: Side, feed: Feed, rtol: float, without: Collection[str]) -> Comparison:
    """Compare the tops of a branch's Onnx layers with the file's values in ONNX Runtime."""
    from fusion.verification.onnx_branches import branch_values, whole_numbers

    matches = branch_values(whole.message, whole.net, prefix, path, without)
    if not matches:
        raise FusionError(f"'{prefix}': {whole.label} has no Onnx layers of this prefix", hint="is the prefix right?")
    fused = with_outputs(whole.net, {match.top: match.top for match in matches})
    inputs = inputs_of(whole, fused, feed)
    with torch.no_grad():
        found = run(fused, inputs)
        replaced = {} if feed.pictures else whole_numbers(path, matches, found, feed.seed)
        if replaced:
            fused = with_outputs(fused, dict(fused.plan.outputs), tuple(replaced))
            found |= run(
                fused, inputs | {key: replaced[value] for key, value in fused.plan.inputs if value in replaced}
            )
    fed = {name: (found[value].movedim(1, -1) if last else found[value]).numpy()
           for match in matches for name, value, last in match.inputs}  # fmt: skip
    expected = run_file(path, [match.value for match in matches], fed)
    rows = [compare_arrays(match.layer, _blob(match.top), expected[match.value], match.then(found[match.top]).numpy())
            for match in matches]  # fmt: skip
    title = f"ONNX Runtime on {os.fspath(path)} against {whole.label}, on {feed.words}"
    return Comparison(prefix, title, tuple(rows), rtol=rtol)


def _compared(
    name: str,
    source: Side,
    fused: Side,
    matches: Sequence[_Match],
    pairs: Pairs,
    feed: Feed,
    rtol: float,
    skipped: tuple[str, ...],
) -> Comparison:
    """Run both sides and compare the matched values; `pairs` match the inputs."""
    one = with_outputs(source.net, {match.here: match.here for match in matches})
    front = made_at_the_front(pairs, source.net, fused.net)
    other = with_outputs(fused.net, {match.there: match.there for match in matches}, front)
    inputs = inputs_of(source, one, feed)
    with torch.no_grad():
        expected = run(one, inputs)
        found = run(other, handed_over(name, pairs, source.net, other, inputs))
    rows, notes = [], differing_preparation(pairs, source, fused)
    # Dense layers and 1x1 maps have the same values in shapes that differ by axes of size 1 at the end.
    alike = [match for match in matches if _alike(expected[match.here].shape, found[match.there].shape)]
    for match in matches:
        here, there = expected[match.here].numpy(), found[match.there].numpy()
        there = there.reshape(here.shape) if match in alike else there
        rows.append(compare_arrays(match.layer, _blob(match.there), here, there))
    if alike:
        shown = ", ".join(_blob(match.there) for match in alike)
        notes = (*notes, f"compared although only one of the two has further axes of size 1 at the end: {shown}")
    title = f"{source.label} against {fused.label}, on {feed.words}"
    return Comparison(name, title, tuple(rows), skipped, notes, rtol)


def _alike(one: Sequence[int], other: Sequence[int]) -> bool:
    """Return whether two shapes differ only by axes of size 1 at the end."""
    short, long = sorted((tuple(one), tuple(other)), key=len)
    return short != long and long == (*short, *[1] * (len(long) - len(short)))


def _blob(value: str) -> str:
    return value.replace("@", " after ")
