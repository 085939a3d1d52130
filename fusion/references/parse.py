"""References and losses towards them, and their command-line syntax."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NoReturn

from fusion.composition import Pct
from fusion.conversion.net_names import TORCH_NET, is_torch_net
from fusion.errors import TrainingError
from prototxt.errors import did_you_mean

if TYPE_CHECKING:
    from torch import nn

    from fusion.pct.predictions import Predictions

Path = str | os.PathLike[str]
_FORM = f"NET.prototxt:WEIGHTS[@BLOB], NET.onnx[@OUTPUT], {TORCH_NET}, FILE.npz or @BLOB, each with [,OPTION=VALUE]"


@dataclass(frozen=True, eq=False)
class Reference:
    """A net whose outputs the net in training should keep.

    net        a prototxt, an ONNX model, a PyTorch net by name (TORCH_NET), a predictions file, a module that maps data
               to logits [N, K], predictions; None: a blob of the graph in training
    weights    of a prototxt; later ones win
    blob       with the logits; default: the bottom of the net's loss
    classes    the new net's class of each logit, in their order; default: the same classes
    weight     factor of its losses; its share in an ensemble and in ELODI
    name       in messages and layer names; default: the file's
    ensemble   references with the same word here are averaged
    start      iteration before which its losses count 0
    warmup     number of iterations after `start` over which they grow to their full weight
    cache      predictions file for its logits; an error when net, weights or data have changed since
    half       store logits in float16
    live       run on each batch even where the logits could be cached
    input      the data blob that it reads, where data layers in step provide several; default: by its inputs' names
    pixels     the input format of a net: "blob" (the batch's blob unchanged), or as for sources (rgb, unit, centered,
               torchvision, "mean:104,117,123,std:1,order:bgr"); default: that of its own data layer
    unchecked  accept a predictions file that does not name its data
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
    on    the new net's blob that it compares; default: the bottom of the task loss
    of    names of the references that it applies to; default: all
    """

    pct: Pct
    on: str | None = None
    of: tuple[str, ...] = field(default=())


_NUMBERS: dict[str, type[float] | type[int]] = {"weight": float, "start": int, "warmup": int}
_WORDS = ("name", "ensemble", "cache", "pixels", "input")
_SWITCHES = ("half", "live", "unchecked")


def parse_reference(text: str) -> Reference:
    """Parse `old.prototxt:old.caffemodel@ip2,classes=1,3,5,weight=0.5,warmup=1000`. Raises: TrainingError."""
    place, *parts = text.split(",")
    options: dict[str, Any] = {}
    last = ""
    for part in parts:
        key, equals, value = part.partition("=")
        # A part without "=" may continue a list: classes=1,3,5 and pixels=mean:104,117,123,std:1 contain commas.
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
            known = ("classes", *_NUMBERS, *_WORDS, *_SWITCHES)
            _refuse(text, f"unknown option '{key}'", did_you_mean(key, known, f"one of {', '.join(known)}"))
    path, _, blob = place.partition("@") if not os.path.exists(place) else (place, "", "")
    if not path:
        return Reference(None, blob=blob or _refuse(text, "it names neither a file nor a blob"), **options)
    net, _, weights = (path, "", "") if os.path.exists(path) or is_torch_net(path) else path.partition(":")
    files = tuple(weights.split("+")) if weights else ()
    if net.endswith(".prototxt") and not files:
        _refuse(text, "a prototxt needs trained weights")
    return Reference(net, files, blob or None, **options)


def parse_pct(text: str) -> Objective:
    """Parse `focal,alpha=1,beta=5,weight=0.01,on=ip2,of=odd+even`. Raises: TrainingError."""
    kind, *parts = text.split(",")
    if kind == "auto":
        hint = "fusion.sweep.choose_pct returns the options with the loss that it chooses; fusion-train calls it"
        raise TrainingError("--pct auto is chosen before a solver is made", hint=hint)
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


def with_unique_names(references: Sequence[Reference]) -> list[Reference]:
    """Return the references, each with a unique name."""
    counts: dict[str, int] = {}
    result = []
    for number, reference in enumerate(references):
        name = reference.name or _file_name(reference) or f"reference{number}"
        counts[name] = counts.get(name, 0) + 1
        result.append(replace(reference, name=name if counts[name] == 1 else f"{name}{counts[name]}"))
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
        _refuse(text, f"'{part}' is not a class number", "classes=1,3,5 or classes=0-4")
    return tuple(range(int(first), int(last or first) + 1))


def _number(text: str, key: str, value: str) -> float:
    try:
        number = _NUMBERS[key](value)
    except ValueError:
        _refuse(text, f"{key} is a number, not '{value}'")
    return number if 0 <= number < math.inf else _refuse(text, f"{key} is 0 or more, not {value}")


def _refuse(text: str, message: str, hint: str | None = None) -> NoReturn:
    raise TrainingError(f"'{text}': {message}", hint=hint or _FORM)
