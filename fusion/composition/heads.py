"""The heads, which join the branches and score the classes: plain Caffe layers, but for `WeightedSum` in two heads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from fusion.composition.features import (
    Features,
    HeadRequest,
    PreparedFeatures,
    Shape,
    global_average_pool,
    prepare_features,
)
from fusion.composition.net_text import format_layer
from fusion.errors import ComposeError

Joiner = Callable[[Sequence[Features], str, str], str]
_COMMENT: Final = "The features of all branches."
_NOT_CAFFE: Final = f"{_COMMENT} (No layer of Caffe's: fusion-surgery bake makes it an Eltwise once it is trained.)"
_LOG_FLOOR: Final = "log_param { shift: 1e-20 }"  # a probability of 0 would become -inf, and an average of those NaN
_SUM: Final = "eltwise_param { operation: SUM }"


@dataclass(frozen=True)
class Head:
    """The layers of a head as text, the blobs with the scores, one per classifier, and notes on each choice."""

    text: str
    scores: tuple[str, ...]
    notes: tuple[str, ...] = ()


def concat_fc(request: HeadRequest) -> Head:
    """Concatenate the features and put one fully connected layer on top, as the tutorial does."""
    text, notes = _concat_all(request)
    return Head("\n".join([*text, *_classifiers(request, request.joined)]), request.names, tuple(notes))


def concat_mlp(request: HeadRequest) -> Head:
    """Concatenate the features, then a hidden layer with ReLU, then the scores."""
    text, notes = _concat_all(request)
    hidden = request.options.hidden or 500
    notes.append(f"head: hidden layer 'hidden' of width {hidden}")
    text += [
        _dense(request, "hidden", request.joined, hidden),
        format_layer("relu_hidden", "ReLU", ["hidden"], ["hidden"]),
        *_classifiers(request, "hidden"),
    ]
    return Head("\n".join(text), request.names, tuple(notes))


def _average_head(head: str, note: str, request: HeadRequest) -> Head:
    """Average the sources' own answers, each class over the sources that know it; nothing is trained.

    Raises: ComposeError for projections, which would have to be trained, and for classes that no source knows.
    """
    if request.options.project is not None or request.options.batch_norm:
        hint = "omit --project and --batch-norm, or use another head"
        raise ComposeError(f"head '{head}' trains nothing, so it has no projection", hint=hint)
    known = {number for _, classes in request.scores.values() for number in classes}
    missing = sorted(set(range(request.num_output)) - known)
    if missing:
        message = f"head '{head}': no source knows these classes: {', '.join(map(str, missing))}"
        raise ComposeError(message, hint="name the fused classes of each source's scores: --classes odd=1,3,5,7,9")
    parts = ", ".join(f"{prefix} {share:g}" for prefix, share in request.shares.items())
    note = f"head: the sources' {note} are averaged, untrained" + (f", with shares {parts}" if parts else "")
    return Head(_averaged_classes(request, head == "logits"), request.names, (note,))


def zero_init(request: HeadRequest) -> Head:
    """Start equal to the first source: its own scores plus a layer over all features that is 0 at first.

    Raises: ComposeError unless that source scores all classes in their order.
    """
    if not request.scores:
        raise ComposeError("head 'zero-init' needs the first source's own classifier")
    prefix, (blob, classes) = next(iter(request.scores.items()))
    if list(classes) != list(range(request.num_output)):
        raise ComposeError(
            f"head 'zero-init' starts from the scores of source '{prefix}', which must be those of all "
            f"{request.num_output} classes in their order",
            hint="name the source with all classes first, or use another head",
        )
    text, notes = _concat_all(request)
    text += [
        _dense(request, "correction", request.joined, request.num_output, filler='type: "constant"'),
        format_layer(request.classifier, "Eltwise", [blob, "correction"], [request.classifier], _SUM),
    ]
    notes.append(f"head: starts equal to source '{prefix}'")
    return Head("\n".join(text), request.names, tuple(notes))


def _join_head(joiner: Joiner, note: str, request: HeadRequest) -> Head:
    """Join features of one shape, projected to it where they differ, then score them."""
    joined = join_features(request, joiner, "join", equal=True)
    notes = (*joined.notes, f"head: {', '.join(item.blob for item in request.features)} {note} as '{request.joined}'")
    return Head("\n".join([*joined.text, *_classifiers(request, request.joined)]), request.names, notes)


def _concat_all(request: HeadRequest) -> tuple[list[str], list[str]]:
    """Return the layers that concatenate all features, and notes."""
    joined = join_features(request, _concat, "concat", equal=False)
    notes = list(joined.notes)
    widths = [item.width for item in request.features]
    known = f", width {' + '.join(map(str, widths))}" if all(widths) and not notes else ""
    notes.append(f"head: {', '.join(item.blob for item in request.features)} concatenated to '{request.joined}'{known}")
    return list(joined.text), notes


def _classifiers(request: HeadRequest, bottom: str) -> list[str]:
    """Return the layers that score, each on the same features."""
    return [_dense(request, name, bottom, width) for name, width in request.classifiers.items()]


def _dense(request: HeadRequest, name: str, bottom: str, num_output: int, filler: str = 'type: "xavier"') -> str:
    """Return a fully connected layer, or the same for each position of a map or each step of a sequence."""
    kind, block = ("Convolution", "convolution_param") if request.positions else ("InnerProduct", "inner_product_param")
    body = [
        "param { lr_mult: 1 }",
        "param { lr_mult: 2 }",
        f"{block} {{",
        f"  num_output: {num_output}",
        *(["  kernel_size: 1"] if request.positions else []),
        *(["  axis: 2"] if request.steps else []),
        f"  weight_filler {{ {filler} }}",
        '  bias_filler { type: "constant" }',
        "}",
    ]
    return format_layer(name, kind, [bottom], [name], "\n".join(body))


def join_features(request: HeadRequest, joiner: Joiner, name: str, *, equal: bool) -> PreparedFeatures:
    """Join all features as the blob `request.joined`.

    joiner  (features, layer name, blob to make) -> layers as text
    name    of the layer that joins
    equal   whether the joiner needs blobs of one shape
    Raises: ComposeError.
    """
    if request.options.maps == "levels":
        return _join_by_level(request, joiner, name, equal)
    ready = prepare_features(request.features, request, equal=equal)
    text = joiner(ready.features, name, request.joined)
    whole = replace(_joined_blob(request, ready.features, equal), steps=request.steps)
    return PreparedFeatures((whole,), (*ready.text, text), ready.notes)


def _join_by_level(request: HeadRequest, joiner: Joiner, name: str, equal: bool) -> PreparedFeatures:
    """Join the first cuts of all sources, the second ones, ..., average each over its positions, and concatenate."""
    levels = sorted({item.level for item in request.features})
    groups = [[item for item in request.features if item.level == level] for level in levels]
    if len({len(group) for group in groups}) > 1:
        counts = ", ".join(str(len(group)) for group in groups)
        raise ComposeError(
            f"features cannot be joined level by level: the levels have {counts} cuts",
            hint="cut every source at the same number of blobs: --source a=a.prototxt@low,high",
        )
    joined: list[Features] = []
    text: list[str] = []
    notes: list[str] = []
    for number, group in enumerate(groups, 1):
        ready = prepare_features(group, request, equal=equal)
        item = Features(f"level_{number}", f"{request.joined}_{number}", _joined_shape(ready.features, equal))
        text += [*ready.text, joiner(ready.features, f"{name}_{number}", item.blob)]
        notes += [*ready.notes, f"head: level {number} is {', '.join(one.blob for one in group)}"]
        if item.is_map:
            item, layers = global_average_pool(item)
            text += layers
        joined.append(item)
    text.append(_concat(joined, "levels", request.joined))
    return PreparedFeatures((_joined_blob(request, joined, equal=False),), tuple(text), tuple(notes))


def _joined_blob(request: HeadRequest, features: Sequence[Features], equal: bool) -> Features:
    return Features("features", request.joined, _joined_shape(features, equal))


def _joined_shape(features: Sequence[Features], equal: bool) -> Shape | None:
    """Return the shape of the joined features, where it is known."""
    first = features[0].shape
    if equal or first is None or len({item.shape[2:] if item.shape else None for item in features}) > 1:
        return first if equal else None
    axis = features[0].axis
    dims = [item.shape[axis] if item.shape else None for item in features]
    known = [dim for dim in dims if dim is not None]
    return (*first[:axis], sum(known) if len(known) == len(dims) else None, *first[axis + 1 :])


def _concat(features: Sequence[Features], name: str, top: str) -> str:
    body = f"concat_param {{ axis: {features[0].axis} }}"
    return format_layer(name, "Concat", [item.blob for item in features], [top], body, _COMMENT)


def _eltwise(operation: str, features: Sequence[Features], name: str, top: str) -> str:
    """Return an Eltwise layer: a SUM, a MAX, or a MEAN, which is a sum with equal coefficients."""
    lines = [f"  operation: {operation.replace('MEAN', 'SUM')}"]
    lines += [f"  coeff: {1 / len(features):.9g}"] * len(features) if operation == "MEAN" else []
    body = "\n".join(["eltwise_param {", *lines, "}"])
    return format_layer(name, "Eltwise", [item.blob for item in features], [top], body, _COMMENT)


def _weighted_sum(normalization: str, features: Sequence[Features], name: str, top: str) -> str:
    """Return a sum with learned shares: the softmax of v, or relu(v) / (sum of relu(v) + 1e-4) for FASTNORM."""
    body = f"param {{ lr_mult: 1 decay_mult: 0 }}\nweighted_sum_param {{ normalization: {normalization} }}"
    return format_layer(name, "WeightedSum", [item.blob for item in features], [top], body, _NOT_CAFFE)


def _gated_sum(features: Sequence[Features], name: str, top: str) -> str:
    """Return a sum with shares that a linear map of all features gives each sample; equal at the start. Plain Caffe."""
    flat = [_flatten(item) for item in features]
    text = [piece for _, pieces in flat for piece in pieces]
    shares = [f"{item.stem}_share" for item in features]
    columns = [f"{share}s" for share in shares]
    gate = f"{name}_gate"
    body = f"""inner_product_param {{
  num_output: {len(features)}
  weight_filler {{ type: "constant" }}
  bias_filler {{ type: "constant" }}
}}"""
    text += [
        _concat([item for item, _ in flat], f"{name}_all", f"{name}_all"),
        format_layer(gate, "InnerProduct", [f"{name}_all"], [gate], body, "How much each branch counts, per sample."),
        format_layer(f"{name}_shares", "Softmax", [gate], [f"{name}_shares"]),
        format_layer(f"{name}_slice", "Slice", [f"{name}_shares"], columns, "slice_param { axis: 1 }"),
    ]
    weighted = [Features(item.stem, f"{item.stem}_weighted", item.shape) for item in features]
    for item, share, product in zip(features, shares, weighted, strict=True):
        # Slice leaves [N, 1], and Scale along axis 0 takes a blob of one axis.
        row = "reshape_param { shape { dim: -1 } }"
        text += [
            format_layer(share, "Reshape", [f"{share}s"], [share], row),
            format_layer(product.blob, "Scale", [item.blob, share], [product.blob], "scale_param { axis: 0 }"),
        ]
    return "\n".join([*text, _eltwise("SUM", weighted, name, top)])


def _flatten(item: Features) -> tuple[Features, list[str]]:
    if item.shape is None or len(item.shape) <= 2:
        return item, []
    row = f"{item.stem}_row"
    return Features(item.stem, row, (None, item.width)), [format_layer(row, "Flatten", [item.blob], [row])]


def _averaged_classes(request: HeadRequest, logarithms: bool) -> str:
    """Return the layers that average each class over the sources that know it: log-probabilities or probabilities.

    Runs of classes that the same sources know in the same order are sliced out, averaged, and concatenated. The result
    are logits: of probabilities, the logarithm of their mean.
    """
    owners = [
        tuple((prefix, classes.index(number)) for prefix, (_, classes) in request.scores.items() if number in classes)
        for number in range(request.num_output)
    ]
    runs = _runs(owners)
    text = []
    slices: dict[tuple[str, int], str] = {}  # (prefix, first position) -> blob
    for prefix, (blob, _) in request.scores.items():
        answers = f"{prefix}_prob"
        text.append(format_layer(answers, "Softmax", [blob], [answers]))
        if logarithms:
            text.append(format_layer(f"{prefix}_log_prob", "Log", [answers], [f"{prefix}_log_prob"], _LOG_FLOOR))
            answers = f"{prefix}_log_prob"
        # A slice begins at the first class of each run; classes before it that no run uses make a slice at 0.
        starts = sorted({position for run in runs for owner, position in owners[run[0]] if owner == prefix} | {0})
        if len(starts) == 1:
            slices[prefix, 0] = answers
            continue
        for start in starts:
            slices[prefix, start] = f"{prefix}_from_{start}"
        body = "\n".join(["slice_param {", "  axis: 1", *(f"  slice_point: {start}" for start in starts[1:]), "}"])
        tops = [slices[prefix, start] for start in starts]
        text.append(format_layer(f"{prefix}_slice", "Slice", [answers], tops, body))
    columns = []
    for first, last in runs:
        blobs = [slices[owner] for owner in owners[first]]
        if len(blobs) > 1:
            shares = [request.shares.get(prefix, 1.0) for prefix, _ in owners[first]]
            coefficients = [f"  coeff: {share / sum(shares):.9g}" for share in shares]
            name = f"classes_{first}_{last}"
            body = "\n".join(["eltwise_param {", "  operation: SUM", *coefficients, "}"])
            text.append(format_layer(name, "Eltwise", blobs, [name], body))
            blobs = [name]
        columns += blobs
    joined = request.classifier if logarithms else "mean_prob"
    text.append(format_layer(joined, "Concat", columns, [joined], "concat_param { axis: 1 }"))
    if not logarithms:
        text.append(format_layer(request.classifier, "Log", [joined], [request.classifier], _LOG_FLOOR))
    return "\n".join(text)


def _runs(owners: Sequence[tuple[tuple[str, int], ...]]) -> list[tuple[int, int]]:
    """Return the first and last class of each run over which the positions in all sources advance together."""
    runs: list[tuple[int, int]] = []
    for number, current in enumerate(owners):
        if runs and tuple((prefix, position - 1) for prefix, position in current) == owners[number - 1]:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return runs


HEADS: Final[Mapping[str, Callable[[HeadRequest], Head]]] = {
    "concat-fc": concat_fc,
    "concat-mlp": concat_mlp,
    "sum": partial(_join_head, partial(_eltwise, "SUM"), "are added up"),
    "mean": partial(_join_head, partial(_eltwise, "MEAN"), "are averaged"),
    "max": partial(_join_head, partial(_eltwise, "MAX"), "give their largest"),
    "fastnorm": partial(_join_head, partial(_weighted_sum, "FASTNORM"), "are added up with learned shares (fastnorm)"),
    "softmax": partial(_join_head, partial(_weighted_sum, "SOFTMAX"), "are added up with learned shares (softmax)"),
    "gated": partial(_join_head, _gated_sum, "are added up with shares that each sample gets by a gate"),
    "logits": partial(_average_head, "logits", "log-probabilities"),
    "probs": partial(_average_head, "probs", "probabilities"),
    "zero-init": zero_init,
}
NEEDS_SCORES: Final = frozenset(("logits", "probs", "zero-init"))
ENSEMBLES: Final = ("logits", "probs")  # heads with a share per source
