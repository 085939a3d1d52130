"""Another head on a trained net: some layers' weights dropped, their outputs counted anew, their fillers changed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from fusion.errors import FusionError, WeightsMismatch, raise_all
from fusion.fillers import fill
from fusion.merge.initial_fillers import initial_value
from fusion.merge.targets import TargetLayer, target_layers
from fusion.surgery.result import SurgeryResult, Weights
from prototxt.edit.layer_view import layers
from prototxt.formats.index import shape_fits
from prototxt.schema.load import load_net
from prototxt.schema.messages import FillerParameter
from prototxt.text.edits import Edits
from prototxt.text.tree import Document, Message

_PARAMS = {"InnerProduct": "inner_product_param", "Convolution": "convolution_param"}


def replace_head(
    document: Document,
    weights: Weights,
    drop: str,
    *,
    num_output: int | None = None,
    reinit: str | None = None,
    seed: int = 0,
) -> SurgeryResult:
    """Drop the weights of all layers whose name matches, give those with outputs `num_output`, and fill them.

    drop    a regular expression for whole names; it must match a layer
    reinit  a filler for their weights, `xavier` or `gaussian,std=0.01`; None leaves each its own
    seed    of the fillers
    Raises: FusionError for a pattern that matches nothing or a filler that is none; WeightsMismatch for layers that
            are kept although their weights no longer fit.
    """
    edited, names = edit_head(document, drop, num_output=num_output, reinit=reinit)
    net = load_net(edited)
    made: dict[str, Sequence[NDArray[Any]]] = {}
    errors, changed = [], {}
    for item in target_layers(net):
        name = item.layer.name
        if name in names:
            shapes = _filled(item)
            if shapes:
                made[name] = [initial_value(item.layer, index, shape, seed) for index, shape in enumerate(shapes)]
                changed[name] = f"filled anew, {' and '.join('x'.join(map(str, shape)) for shape in shapes)}"
            elif item.shapes != ():
                changed[name] = "dropped; its size follows from data that is not here, and training will fill it"
        elif name in weights:
            errors += _misfit(item, weights[name])
            made[name] = weights[name]
    raise_all(errors)
    kept = tuple(name for name in made if name not in changed)
    dropped = tuple(name for name in weights if name in names or name not in made)
    return SurgeryResult(edited, made, kept, changed, dropped)


def edit_head(
    document: Document, drop: str, *, num_output: int | None = None, reinit: str | None = None
) -> tuple[Document, frozenset[str]]:
    """The text with another number of outputs and other fillers, and the names of the layers that match.

    Raises: FusionError.
    """
    try:
        pattern = re.compile(drop)
    except re.error as error:
        raise FusionError(f"'{drop}' is no regular expression: {error}", hint="e.g. 'fc8' or 'loss[12]/.*'") from error
    if num_output is not None and num_output < 1:
        raise FusionError(f"num_output must be at least 1, not {num_output}")
    filler = parse_filler(reinit) if reinit is not None else None
    every = layers(document.root)
    found = [layer for layer in every if layer.name and pattern.fullmatch(layer.name)]
    if not found:
        names = ", ".join(dict.fromkeys(layer.name for layer in every if layer.name and not layer.is_data))
        raise FusionError(
            f"no layer's name matches '{drop}'", place=document.name, hint=f"the layers are {names[:300]}"
        )
    edits = Edits(document)
    changed = 0
    for layer in found:
        for block in layer.body.messages(_PARAMS.get(layer.type, "")):
            changed += 1
            if num_output is not None:
                edits.set(block, "num_output", str(num_output))
            if filler is not None:
                _refill(edits, block, filler)
    if (num_output is not None or filler is not None) and not changed:
        hint = "match the InnerProduct or Convolution layer that makes the scores"
        raise FusionError(
            f"none of the layers that match '{drop}' has outputs to count", place=document.name, hint=hint
        )
    return edits.apply(), frozenset(layer.name for layer in found)


def parse_filler(text: str) -> FillerParameter:
    """`xavier`, or `gaussian,std=0.01`. Raises: FusionError for an unknown type or a value that is none."""
    kind, *options = (part.strip() for part in text.split(","))
    filler = FillerParameter(type=kind)
    hint = "e.g. xavier, msra, gaussian,std=0.01 or constant,value=0"
    for option in options:
        name, equals, value = option.partition("=")
        if not equals or name not in ("value", "min", "max", "mean", "std"):
            raise FusionError(f"filler '{text}': '{option}' is none of value, min, max, mean, std", hint=hint)
        try:
            setattr(filler, name, float(value))
        except ValueError:
            raise FusionError(f"filler '{text}': '{value}' is no number", hint=hint) from None
    import numpy as np

    fill(filler, (2, 2), np.random.default_rng(0))  # an unknown type is an error now, not while training
    return filler


def _refill(edits: Edits, block: Message, filler: FillerParameter) -> None:
    parts = [f'type: "{filler.type}"']
    parts += [f"{name}: {getattr(filler, name):g}" for name in ("value", "min", "max", "mean", "std")
              if filler.HasField(name)]  # fmt: skip
    edits.set(block, "weight_filler", f"{{ {' '.join(parts)} }}")


def _filled(item: TargetLayer) -> list[tuple[int, ...]]:
    if not item.shapes or any(dim is None for shape in item.shapes for dim in shape):
        return []
    return [tuple(int(dim) for dim in shape if dim is not None) for shape in item.shapes]


def _misfit(item: TargetLayer, blobs: Sequence[NDArray[Any]]) -> list[FusionError]:
    if item.shapes is None:
        return []
    have = [tuple(blob.shape) for blob in blobs]
    if len(have) == len(item.shapes) and all(map(shape_fits, have, item.shapes)):
        return []
    message = (
        f"layer '{item.layer.name}' needs blobs of shape {list(item.shapes)} after the change, its weights have {have}"
    )
    return [WeightsMismatch(message, hint="let the pattern match this layer, too")]
