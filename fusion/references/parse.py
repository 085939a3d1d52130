"""What a reference and a loss towards it are, and how both are written on a command line."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NoReturn

from fusion.composition import Pct
from fusion.errors import TrainingError

if TYPE_CHECKING:
    from torch import nn

    from fusion.pct.predictions import Predictions

Path = str | os.PathLike[str]
_FORM = "NET.prototxt:WEIGHTS[@BLOB], NET.onnx[@OUTPUT], FILE.npz or @BLOB, each with [,OPTION=VALUE]"


@dataclass(frozen=True, eq=False)
class Reference:
    """A net that the one in training is held to.

    net        a prototxt, an ONNX model, a predictions file, a module that maps data to logits [N, K], predictions;
               None: a blob of the graph in training
    weights    of a prototxt; later ones win
    blob       with the logits; left out: what the net's loss reads
    classes    the new net's class of each logit, in their order; left out: the same classes
    weight     factor of its losses; in an ensemble and in ELODI its share
    name       in messages and layer names; left out: the file's
    ensemble   references with the same word here count as one, whose logits are their mean
    start      iterations before which its losses count 0
    warmup     iterations over which they grow to their full weight, behind `start`
    cache      predictions file to keep its logits in; refused when net, weights or data have changed since
    half       keep logits in float16
    live       answer each batch anew even where the logits could be kept
    input      the data blob that it reads, where data layers in step give several; left out: those of its inputs' names
    pixels     what a net takes: "blob" (the batch's blob as it is), or as for sources (rgb, unit, centered,
               torchvision, "mean:104,117,123,std:1,order:bgr"); left out: as its own data layer says
    unchecked  take a predictions file without knowing from which data it was made
    """

    net: Path | nn.Module | Predictions | None
    weights: Sequence[Path] = ()
    blob: str | None = None
    classes: Sequence[int] = ()
    weight: float = 1.0
    name: str = ""
    ensemble: str = ""
    start: int = 0
    warmup: int = 0
    cache: Path | None = None
    half: bool = False
    live: bool = False
    unchecked: bool = False
    pixels: str | None = None
    input: str | None = None


@dataclass(frozen=True)
class Objective:
    """A loss towards references.

    pct   kind, weight and options, as `compose` takes them; on features also `cna` (tau, neighbours, inside) and `bct`
    on    the new net's blob that it compares; left out: what the task loss reads
    of    names of the references that it is about; left out: all
    """

    pct: Pct
    on: str | None = None
    of: tuple[str, ...] = field(default=())


_NUMBERS: dict[str, type[float] | type[int]] = {"weight": float, "start": int, "warmup": int}
_WORDS = ("name", "ensemble", "cache", "pixels", "input")
_SWITCHES = ("half", "live", "unchecked")


def parse_reference(text: str) -> Reference:
    """`old.prototxt:old.caffemodel@ip2,classes=1,3,5,weight=0.5,warmup=1000`. Raises: TrainingError."""
    place, *parts = text.split(",")
    options: dict[str, Any] = {}
    last = ""
    for part in parts:
        key, equals, value = part.partition("=")
        if not equals and last == "classes":
            options["classes"] += _classes(text, part)
            continue
        if not equals and last == "pixels" and key not in _SWITCHES:
            options["pixels"] += f",{part}"
            continue
        last = key
        if key in _SWITCHES:
            options[key] = value in ("", "1", "true", "yes")
        elif not equals:
            _refuse(text, f"'{part}' has no value")
        elif key == "classes":
            options[key] = _classes(text, value)
        elif key in _NUMBERS:
            options[key] = _number(text, key, value)
        elif key in _WORDS:
            options[key] = value
        else:
            _refuse(text, f"unknown option '{key}'", f"one of classes, {', '.join((*_NUMBERS, *_WORDS, *_SWITCHES))}")
    path, _, blob = place.partition("@") if not os.path.exists(place) else (place, "", "")
    if not path:
        return Reference(None, blob=blob or _refuse(text, "it names nothing"), **options)
    net, _, weights = (path, "", "") if os.path.exists(path) else path.partition(":")
    given = tuple(weights.split("+")) if weights else ()
    if net.endswith(".prototxt") and not given:
        _refuse(text, "a prototxt needs trained weights")
    return Reference(net, given, blob or None, **options)


def parse_pct(text: str) -> Objective:
    """`focal,alpha=1,beta=5,weight=0.01,on=ip2,of=odd+even`. Raises: TrainingError."""
    kind, *parts = text.split(",")
    options: dict[str, object] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if not equals:
            raise TrainingError(
                f"--pct {text}: '{part}' has no value", hint="e.g. --pct focal,weight=0.5,temperature=1"
            )
        options[key] = value.upper() if key in ("distance", "filter") else value
    weight = _number(text, "weight", str(options.pop("weight", 1.0)))
    on, of = options.pop("on", None), str(options.pop("of", ""))
    return Objective(
        Pct(kind, float(weight), options), None if on is None else str(on), tuple(of.split("+")) if of else ()
    )


def named(references: Sequence[Reference]) -> list[Reference]:
    """The references with a name each, no two alike."""
    taken: dict[str, int] = {}
    result = []
    for number, reference in enumerate(references):
        name = reference.name or _file_name(reference) or f"reference{number}"
        taken[name] = taken.get(name, 0) + 1
        result.append(replace(reference, name=name if taken[name] == 1 else f"{name}{taken[name]}"))
    return result


def _file_name(reference: Reference) -> str:
    if reference.net is None:
        return (reference.blob or "").partition("/")[0]
    if isinstance(reference.net, (str, os.PathLike)):
        source = reference.weights[-1] if reference.weights else reference.net
        return os.path.splitext(os.path.basename(os.fspath(source)))[0]
    return str(getattr(reference.net, "name", ""))


def _classes(text: str, part: str) -> tuple[int, ...]:
    first, dash, last = part.strip().partition("-")
    if not first.isdigit() or (dash and not last.isdigit()):
        _refuse(text, f"'{part}' is no class number", "classes=1,3,5 or classes=0-4")
    return tuple(range(int(first), int(last or first) + 1))


def _number(text: str, key: str, value: str) -> float:
    try:
        number = _NUMBERS[key](value)
    except ValueError:
        _refuse(text, f"{key} is a number, not '{value}'")
    return number if 0 <= number < math.inf else _refuse(text, f"{key} is 0 or more, not {value}")


def _refuse(text: str, message: str, hint: str | None = None) -> NoReturn:
    raise TrainingError(f"'{text}': {message}", hint=hint or _FORM)
