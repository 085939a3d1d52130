"""Another head on a trained net: the weights of some layers dropped, and their num_output and fillers changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusion.errors import FusionError, WeightsMismatch, raise_all
from fusion.fillers import fill
from fusion.merge.initial_fillers import initial_value
from fusion.merge.targets import TargetLayer, target_layers
from fusion.surgery.result import SurgeryResult, Weights
from fusion.surgery.text_layers import name_pattern
from prototxt.edit.layer_view import text_layers
from prototxt.schema.load import load_net
from prototxt.schema.messages import FillerParameter
from prototxt.text.edits import Edits
from prototxt.text.tree import Document

_FILLER_VALUES = ("value", "min", "max", "mean", "std")
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
    reinit  a filler for their weights, `xavier` or `gaussian,std=0.01`; None keeps each layer's own
    seed    of the fillers
    Raises: FusionError for a pattern that matches nothing or an invalid filler; WeightsMismatch for other layers whose
            weights no longer fit.
    """
    edited, names = edit_head(document, drop, num_output=num_output, reinit=reinit)
    net = load_net(edited)
    filled: dict[str, Sequence[NDArray[Any]]] = {}
    errors, changed = [], {}
    for item in target_layers(net):
        name = item.layer.name
        if name in names:
            shapes = _known_shapes(item)
            if shapes:
                filled[name] = [initial_value(item.layer, index, shape, seed) for index, shape in enumerate(shapes)]
                changed[name] = f"filled again, {' and '.join('x'.join(map(str, shape)) for shape in shapes)}"
            elif item.shapes != ():
                changed[name] = "dropped; its size depends on data that is not here, and training will fill it"
        elif name in weights:
            if not item.fits(weights[name]):
                shapes = [tuple(blob.shape) for blob in weights[name]]
                text = f"layer '{name}' needs blobs of shape {list(item.shapes or ())} after the change, not {shapes}"
                errors.append(WeightsMismatch(text, hint="let the pattern match this layer, too"))
            filled[name] = weights[name]
    raise_all(errors)
    kept = tuple(name for name in filled if name not in changed)
    dropped = tuple(name for name in weights if name in names or name not in filled)
    return SurgeryResult(edited, filled, kept, changed, dropped)


def edit_head(
    document: Document, drop: str, *, num_output: int | None = None, reinit: str | None = None
) -> tuple[Document, frozenset[str]]:
    """Return the text with another number of outputs and other fillers, and the names of the layers that match.

    Raises: FusionError.
    """
    pattern = name_pattern(drop, "'fc8' or 'loss[12]/.*'")
    if num_output is not None and num_output < 1:
        raise FusionError(f"num_output must be at least 1, not {num_output}")
    filler = parse_filler(reinit) if reinit is not None else None
    candidates = text_layers(document.root)
    found = [layer for layer in candidates if layer.name and pattern.fullmatch(layer.name)]
    if not found:
        names = ", ".join(dict.fromkeys(layer.name for layer in candidates if layer.name and not layer.is_data))
        raise FusionError(
            f"no layer's name matches '{drop}'", place=document.name, hint=f"the layers are {names[:300]}"
        )
    edits = Edits(document)
    changed = False
    for layer in found:
        for block in layer.body.messages(_PARAMS.get(layer.type, "")):
            changed = True
            if num_output is not None:
                edits.set(block, "num_output", str(num_output))
            if filler is not None:
                stated = [name for name in _FILLER_VALUES if filler.HasField(name)]
                values = [f'type: "{filler.type}"', *(f"{name}: {getattr(filler, name):g}" for name in stated)]
                edits.set(block, "weight_filler", f"{{ {' '.join(values)} }}")
    if (num_output is not None or filler is not None) and not changed:
        hint = "match the InnerProduct or Convolution layer that computes the scores"
        raise FusionError(f"none of the layers that match '{drop}' has num_output", place=document.name, hint=hint)
    return edits.apply(), frozenset(layer.name for layer in found)


def parse_filler(text: str) -> FillerParameter:
    """Parse `xavier`, or `gaussian,std=0.01`. Raises: FusionError for an unknown type or an invalid value."""
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
    fill(filler, (2, 2), np.random.default_rng(0))  # an unknown type is an error now, not during training
    return filler


def _known_shapes(item: TargetLayer) -> list[tuple[int, ...]]:
    if not item.shapes or any(dim is None for shape in item.shapes for dim in shape):
        return []
    return [tuple(int(dim) for dim in shape if dim is not None) for shape in item.shapes]
