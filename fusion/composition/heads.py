"""What joins the branches and scores the classes. All heads are plain Caffe, but the learned shares of two of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from fusion.composition import join
from fusion.composition.ensembles import average_scores
from fusion.composition.features import HeadRequest
from fusion.composition.join import Joiner, concatenated, joined
from fusion.composition.net_text import layer_text
from fusion.errors import ComposeError


@dataclass(frozen=True)
class Head:
    """A head's layers as text, the blob with each classifier's scores, and what was chosen."""

    text: str
    scores: tuple[str, ...]
    notes: tuple[str, ...] = ()


def concat_fc(request: HeadRequest) -> Head:
    """Concatenate the features and put one fully connected layer on top, as the tutorial does."""
    text, notes = _together(request)
    return Head("\n".join([*text, *_classifiers(request, request.joined)]), request.names, tuple(notes))


def concat_mlp(request: HeadRequest) -> Head:
    """Concatenate the features, then a hidden layer with ReLU, then the scores."""
    text, notes = _together(request)
    hidden = request.hidden or 500
    notes.append(f"head: hidden layer 'hidden' of width {hidden}")
    text += [
        _dense(request, "hidden", request.joined, hidden),
        layer_text("relu_hidden", "ReLU", ["hidden"], ["hidden"]),
        *_classifiers(request, "hidden"),
    ]
    return Head("\n".join(text), request.names, tuple(notes))


def combined(joiner: Joiner, note: str, request: HeadRequest) -> Head:
    """Features of one shape, projected to it where they differ, made one by the joiner, then scored."""
    ready = joined(request, joiner, "join", equal=True)
    notes = (*ready.notes, f"head: {', '.join(item.blob for item in request.features)} {note} as '{request.joined}'")
    return Head("\n".join([*ready.text, *_classifiers(request, request.joined)]), request.names, notes)


def logits(request: HeadRequest) -> Head:
    """Average the sources' own log-probabilities, each class over the sources that know it; nothing is trained.

    Raises: ComposeError.
    """
    if request.project is not None or request.batch_norm:
        hint = "leave --project and --batch-norm away, or take another head"
        raise ComposeError("head 'logits' trains nothing, so it has no projection", hint=hint)
    note = "head: the sources' own scores are averaged, untrained"
    return Head(average_scores(request), request.names, (note,))


def zero_init(request: HeadRequest) -> Head:
    """Start equal to the first source: its own scores plus a layer over all features that is 0 at first.

    Raises: ComposeError.
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
    text, notes = _together(request)
    text += [
        _dense(request, "correction", request.joined, request.num_output, filler='type: "constant"'),
        layer_text(request.classifier, "Eltwise", [blob, "correction"], [request.classifier], _SUM),
    ]
    notes.append(f"head: starts equal to source '{prefix}'")
    return Head("\n".join(text), request.names, tuple(notes))


_SUM = "eltwise_param { operation: SUM }"

HEADS: Final[Mapping[str, Callable[[HeadRequest], Head]]] = {
    "concat-fc": concat_fc,
    "concat-mlp": concat_mlp,
    "sum": partial(combined, join.added, "are added up"),
    "mean": partial(combined, join.averaged, "are averaged"),
    "max": partial(combined, join.largest, "give their largest"),
    "fastnorm": partial(combined, join.fastnorm, "are added up with learned shares (fastnorm)"),
    "softmax": partial(combined, join.softmax, "are added up with learned shares (softmax)"),
    "gated": partial(combined, join.gated, "are added up with shares that each sample gets by a gate"),
    "logits": logits,
    "zero-init": zero_init,
}
NEEDS_SCORES: Final = frozenset(("logits", "zero-init"))


def _together(request: HeadRequest) -> tuple[list[str], list[str]]:
    """The layers that concatenate all features, and what was chosen."""
    ready = joined(request, concatenated, "concat", equal=False)
    notes = list(ready.notes)
    widths = [item.width for item in request.features]
    known = f", width {' + '.join(map(str, widths))}" if all(widths) and not notes else ""
    notes.append(f"head: {', '.join(item.blob for item in request.features)} concatenated to '{request.joined}'{known}")
    return list(ready.text), notes


def _classifiers(request: HeadRequest, bottom: str) -> list[str]:
    """The layers that score, each on the same features."""
    return [_dense(request, name, bottom, width) for name, width in request.classifiers.items()]


def _dense(request: HeadRequest, name: str, bottom: str, num_output: int, filler: str = 'type: "xavier"') -> str:
    """A fully connected layer, or the same for each position of a map or each step of a sequence."""
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
    return layer_text(name, kind, [bottom], [name], "\n".join(body))
