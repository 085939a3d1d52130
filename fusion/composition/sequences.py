"""Features that are sequences, as recurrent nets make them: [steps, streams, values], samples not on the first axis.

A head scores each step by the sources' own loss over axis 2, or refuses: how steps become a sample is not known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from fusion.composition.branches import ancestors
from fusion.composition.classifiers import Classifier
from fusion.composition.features import Features, shown
from fusion.composition.losses import option
from fusion.composition.net_text import Layer
from fusion.composition.sources import PreparedSource
from fusion.errors import ComposeError

_RANK: Final = 3
_HEADS: Final = ("concat-fc", "concat-mlp")
_REORDERING: Final = ("LSTM", "RNN", "Lstm", "GRU", "Gru", "Permute", "Transpose")


def scored_by_step(
    parts: Sequence[PreparedSource],
    features: Sequence[Features],
    classifiers: Sequence[Classifier],
    head: str,
    options: Sequence[str],
) -> bool:
    """Return whether each step of the features is scored by itself.

    options  what was asked for beside the head, as it is typed
    Raises: ComposeError for sequences whose steps no loss scores, and for what cannot be done by step.
    """
    by_step = all(option(one.loss, "axis") in ("2", "-1") and not one.positions for one in classifiers)
    ranks = [len(item.shape) for item in features if item.shape is not None]
    sequences = [item for item in features if item.shape is not None and len(item.shape) == _RANK]
    if by_step and sequences and len(ranks) == len(sequences):
        wrong = [*([f"head '{head}'"] if head not in _HEADS else []), *options]
        if wrong:
            what = f"{wrong[0]} works on a row per sample, and the loss scores each step of '{sequences[0].blob}'"
            raise ComposeError(what, hint=f"leave it away; heads for sequences are {', '.join(_HEADS)}")
        return True
    suspects = {
        cut for part in parts for cut, plain in zip(part.cuts, part.plain, strict=True) if _reorders(part, plain)
    }
    strange = [item for item in sequences if by_step or item.blob in suspects]
    if strange:
        raise ComposeError(
            f"'{strange[0].blob}' {shown(strange[0].shape or ())} is a sequence, and a head scores one row per sample",
            hint="cut all sources at sequences that a loss scores step by step (--loss SoftmaxWithLoss,axis=2), or "
            "before they become sequences (@BLOB)",
        )
    if by_step and option(classifiers[0].loss, "axis") == "2" and ranks and max(ranks) < _RANK:
        raise ComposeError(
            f"the sources' loss scores each step of a sequence (axis 2), and '{features[0].blob}' "
            f"{shown(features[0].shape or ())} is none",
            hint="cut at a sequence (@BLOB), or name a loss over samples: --loss SoftmaxWithLoss,label=BLOB",
        )
    return False


def _reorders(part: PreparedSource, plain: str) -> bool:
    """Whether a layer on the way to a blob may put another axis than that of the samples first."""
    found = ancestors(part.raw, (plain, f"{part.prefix}/{plain}")).layers
    return any(layer.number in found and _puts_first(layer) for layer in part.raw.layers)


def _puts_first(layer: Layer) -> bool:
    dims = [
        dim.value
        for param in layer.message.messages("reshape_param")
        if param.string("axis") in (None, "0")
        for shape in param.messages("shape")
        for dim in shape.scalars("dim")
    ]
    return layer.type in _REORDERING or (layer.type == "Reshape" and bool(dims) and dims[0] != "0")
