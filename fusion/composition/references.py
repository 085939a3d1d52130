"""The sources' own classifiers as references, and the loss layers that compare the fused net with them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from fusion.composition.net_text import format_layer, format_value
from fusion.errors import ComposeError
from prototxt.errors import did_you_mean

# Name on the command line -> layer type and default options.
_KINDS: Final[Mapping[str, tuple[str, Mapping[str, str]]]] = {
    "kd": ("KDLoss", {"temperature": "5"}),
    "focal": (
        "FocalDistillationLoss",
        {"distance": "KL", "filter": "OLD_CORRECT", "alpha": "1", "beta": "5", "temperature": "100"},
    ),
    "lm": ("LogitMatchingLoss", {"filter": "OLD_CORRECT", "alpha": "1", "beta": "5"}),
    "ldi": ("LDILoss", {"margin": "0.5", "p": "2"}),
    "elodi": ("ELODILoss", {"margin": "0.2", "p": "2"}),
    "naive": ("NaivePCTLoss", {}),
}
_ABOVE_FROZEN = ("cna", "bct")
_NUMBER = re.compile(r"\d+(\.\d*)?([eE][-+]?\d+)?")
_DIFFERENCE: Final = ("margin", "p", "topk", "topk_by_reference", "exclude_gt", "one_sided", "relative", "p_norm")
# Each option of PCTParameter -> its values: a number (None), a switch, or one of some words.
_SWITCH = ("true", "false")
_OPTIONS: Final[Mapping[str, tuple[str, ...] | None]] = {
    "distance": ("KL", "L2", "LI"),
    "filter": ("ALL_PASS", "OLD_CORRECT", "NEW_INCORRECT", "NEG_FLIP"),
    **dict.fromkeys(("alpha", "beta", "temperature", "margin", "p", "topk")),
    **dict.fromkeys(("topk_by_reference", "exclude_gt", "one_sided", "relative", "p_norm"), _SWITCH),
}


@dataclass(frozen=True)
class Pct:
    """A positive-congruent loss against every reference.

    kind     kd, focal, lm, ldi, elodi, or naive
    weight   its factor beside the cross-entropy, which has factor 1
    options  fields of PCTParameter, such as {"alpha": 1, "beta": 5, "temperature": 100, "filter": "NEG_FLIP"}
    """

    kind: str
    weight: float = 1.0
    options: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class ReferenceScores:
    """A source's frozen class scores: their blob, and the fused classes that they stand for, in their order."""

    prefix: str
    blob: str
    classes: Sequence[int]


def parse_pct_loss(text: str) -> Pct:
    """Read `focal,weight=0.5,temperature=1`. Raises: ComposeError."""
    kind, *parts = text.split(",")
    options: dict[str, object] = {}
    for part in parts:
        name, equals, value = (word.strip() for word in part.partition("="))
        if not equals:
            raise ComposeError(f"pct '{text}': '{part}' has no value", hint="e.g. focal,weight=0.5,temperature=1")
        options[name] = value
    weight = str(options.pop("weight", "1"))
    try:
        return Pct(kind.strip(), float(weight), options)
    except ValueError:
        raise ComposeError(f"pct '{text}': the weight '{weight}' is not a number") from None


def resolve_classes(
    prefix: str, blob: str, given: Sequence[int], width: int | None, num_output: int
) -> tuple[ReferenceScores | None, list[ComposeError]]:
    """Return the reference and the errors in its classes: as given, or all if it scores as many as the fused net.

    width  scores per sample, None if it is not known
    """
    classes = tuple(given)
    if not classes:
        if width is None or width == num_output:
            return ReferenceScores(prefix, blob, tuple(range(num_output))), []
        message = f"source '{prefix}' scores {width} classes in '{blob}', the fused net {num_output}"
        hint = f"name the fused classes that they are, in the order of its scores: --classes {prefix}=1,3,5,7,9"
        hint += ", or in a file classes = [1, 3, 5, 7, 9]"
        return None, [ComposeError(message, hint=hint)]
    errors = []
    if width is not None and len(classes) != width:
        message = f"source '{prefix}' is given {len(classes)} classes, but scores {width} in '{blob}'"
        errors.append(ComposeError(message, hint=f"name {width} classes, in the order of its scores"))
    if len(set(classes)) != len(classes):
        errors.append(ComposeError(f"source '{prefix}': a class is given twice: {format_classes(classes)}"))
    outside = [number for number in classes if not 0 <= number < num_output]
    if outside:
        message = f"source '{prefix}': class {outside[0]} is not among the fused net's 0 to {num_output - 1}"
        errors.append(ComposeError(message, hint="classes count from 0; --num-output is the number of fused classes"))
    return ReferenceScores(prefix, blob, classes), errors


def check_pct(losses: Sequence[Pct]) -> list[ComposeError]:
    """Return the errors in the requested losses."""
    errors = []
    for loss in losses:
        if loss.kind in _ABOVE_FROZEN:
            message = f"loss '{loss.kind}' compares features, and the features of a composed net are frozen"
            hint = f"use one on class scores ({', '.join(_KINDS)}), or write its layer into a net with thawed layers"
            errors.append(ComposeError(message, hint=hint))
        elif loss.kind not in _KINDS:
            hint = did_you_mean(loss.kind, _KINDS, also=f"one of {', '.join(_KINDS)}")
            errors.append(ComposeError(f"there is no loss '{loss.kind}'", hint=hint))
        else:
            errors += [error for name, value in loss.options.items() if (error := _check_option(loss, name, value))]
    return errors


def pct_options(loss: Pct) -> tuple[str, ...]:
    """Return the options that this loss uses."""
    distance = format_value(loss.options.get("distance", "KL"))
    if loss.kind == "naive":
        return ()
    if loss.kind in ("ldi", "elodi") or (loss.kind == "focal" and distance == "LI"):
        further: tuple[str, ...] = _DIFFERENCE
    elif loss.kind == "kd" or (loss.kind == "focal" and distance == "KL"):
        further = ("temperature",)
    else:
        further = ()
    return ("filter", "alpha", "beta", *(["distance"] if loss.kind == "focal" else []), *further)


def _check_option(loss: Pct, name: str, value: object) -> ComposeError | None:
    kind, known = loss.kind, pct_options(loss)
    if name not in known:
        hint = did_you_mean(name, known, also=f"one of {', '.join(('weight', *known))}")
        return ComposeError(f"loss '{kind}' has no option '{name}'", hint=hint)
    words, literal = _OPTIONS[name], format_value(value)
    if words is not None and literal not in words:
        return ComposeError(f"loss '{kind}': {name} cannot be {literal!r}", hint=f"one of {', '.join(words)}")
    if words is None and not _NUMBER.fullmatch(literal):
        return ComposeError(f"loss '{kind}': {name} is a number, not {literal!r}")
    return None


def loss_layers(pct: Sequence[Pct], references: Sequence[ReferenceScores], new: str, label: str, classes: int) -> str:
    """Return the loss layers as text: one per loss and reference, or one over all references if it uses their mean.

    Raises: ComposeError for a mean over references that know different classes.
    """
    text = []
    for loss in pct:
        together = loss.kind == "elodi"
        if together and len({tuple(reference.classes) for reference in references}) > 1:
            hint = "use focal, lm or ldi, which compare the net with each reference by itself"
            raise ComposeError("loss 'elodi' averages its references, which must know the same classes", hint=hint)
        for group in [references] if together else [[reference] for reference in references]:
            name = f"{loss.kind}_{'mean' if together else group[0].prefix}"
            bottoms = [new, *(reference.blob for reference in group), label]
            body = _body(loss, group[0].classes, classes)
            text.append(format_layer(name, _KINDS[loss.kind][0], bottoms, [name], body))
    return "\n".join(text)


def _body(loss: Pct, classes: Sequence[int], num_output: int) -> str:
    options = {**_KINDS[loss.kind][1], **{name: format_value(value) for name, value in loss.options.items()}}
    if options.get("distance", "KL") != "KL" and "temperature" not in loss.options:
        options.pop("temperature", None)
    lines = [f"  {name}: {value}" for name, value in options.items()]
    if tuple(classes) != tuple(range(num_output)):
        lines.insert(0, "  " + " ".join(f"classes: {number}" for number in classes))
    head = [f"loss_weight: {loss.weight:.9g}", "include { phase: TRAIN }"]
    return "\n".join([*head, *(["pct_param {", *lines, "}"] if lines else [])])


def format_classes(classes: Sequence[int]) -> str:
    """Return `1,3,5`, or `0-999` for a run."""
    if len(classes) > 2 and tuple(classes) == tuple(range(classes[0], classes[-1] + 1)):
        return f"{classes[0]}-{classes[-1]}"
    return ",".join(map(str, classes))
