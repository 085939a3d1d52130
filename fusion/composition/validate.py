"""Checks of the requested options, and of heads and features that do not fit the losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from fusion.composition.branches import ancestors
from fusion.composition.classifiers import FusedClassifier
from fusion.composition.features import MAPS, Features, format_shape
from fusion.composition.heads import HEADS, NEEDS_SCORES
from fusion.composition.losses import loss_option
from fusion.composition.net_text import LayerText
from fusion.composition.prepared_source import PreparedSource
from fusion.composition.references import Pct, check_pct
from fusion.composition.solver_text import SolverSettings, check_schedule
from fusion.composition.source import Source
from fusion.errors import ComposeError, raise_all


def check_request(
    sources: Sequence[Source],
    head: str,
    num_output: int | None,
    losses: Sequence[Pct],
    schedule: SolverSettings,
    further: Sequence[ComposeError] = (),
) -> None:
    """Raises: ComposeError with all that is wrong with what is asked for, `further` errors among it."""
    errors = [*check_pct(losses), *check_schedule(schedule), *further]
    if not sources:
        errors.append(ComposeError("there is nothing to fuse", hint="give sources: --source odd=odd.prototxt@ip1"))
    prefixes = [source.prefix for source in sources]
    for prefix in dict.fromkeys(prefixes):
        if prefixes.count(prefix) > 1:
            message = f"two sources have the prefix '{prefix}'"
            errors.append(ComposeError(message, hint="give each its own; one file may come twice under two prefixes"))
        if not prefix or prefix.strip("/") != prefix or not prefix.isprintable() or '"' in prefix or "\\" in prefix:
            errors.append(ComposeError(f"{prefix!r} is no prefix", hint="use a word such as odd"))
        if any(other.startswith(f"{prefix}/") for other in prefixes):
            errors.append(ComposeError(f"the prefix '{prefix}' begins another source's prefix", hint="rename one"))
    if head not in HEADS:
        errors.append(ComposeError(f"there is no head '{head}'", hint=f"one of {', '.join(HEADS)}"))
    if num_output is not None and num_output < 1:
        errors.append(ComposeError(f"num_output is the number of classes, not {num_output}"))
    raise_all(errors)


def check_goals(
    classifiers: Sequence[FusedClassifier], head: str, maps: str, losses: Sequence[Pct], *, references: bool
) -> None:
    """Raises: ComposeError for heads and options that the classifiers' losses have no use for."""
    first = classifiers[0]
    asked = [f"--pct {loss.kind}" for loss in losses] + (["--references"] if references and not losses else [])
    asked += [f"head '{head}'"] if head in NEEDS_SCORES else []
    errors = []
    for message in asked:
        if len(classifiers) > 1:
            reason = "compares the sources' scores with one classifier's, and there are several tasks"
        elif first.loss.kind.labels != "class" and message != "head 'zero-init'":
            reason = f"needs class scores, and {first.loss.type} gives {_GIVES[first.loss.kind.labels]}"
        elif first.positions and message.startswith("--"):
            reason = "compares scores of whole samples, and this net scores every position of a map"
        elif first.tail.layers:
            reason = f"works on scores that the loss reads, and layers follow these: {len(first.tail.layers)}"
        else:
            continue
        errors.append(ComposeError(f"{message} {reason}", hint="leave it away, or take another head (concat-fc)"))
    if first.positions and maps == "levels":
        message = "--maps levels averages maps over their positions, each of which is to be scored"
        errors.append(ComposeError(message, hint="leave it away, or bring maps to one size (--maps upsample)"))
    raise_all(errors)


_GIVES = {"yes-no": "a yes or no per output", "target": "values"}


def check_widths(hidden: int | None, project: int | None, maps: str) -> None:
    """Raises: ComposeError for widths below 1 and unknown ways to join maps."""
    errors = [
        ComposeError(f"{name} is a width, not {width}", hint="give 1 or more")
        for name, width in (("hidden", hidden), ("project", project))
        if width is not None and width < 1
    ]
    if maps not in MAPS:
        errors.append(ComposeError(f"maps cannot be joined by '{maps}'", hint=f"one of {', '.join(MAPS)}"))
    raise_all(errors)


_RANK: Final = 3
_HEADS: Final = ("concat-fc", "concat-mlp")
_REORDERING: Final = ("LSTM", "RNN", "Lstm", "GRU", "Gru", "Permute", "Transpose")


def scored_by_step(
    sources: Sequence[PreparedSource],
    features: Sequence[Features],
    classifiers: Sequence[FusedClassifier],
    head: str,
    options: Sequence[str],
) -> bool:
    """Return whether each step of the features is scored by itself.

    options  what was asked for beside the head, as it is typed
    Raises: ComposeError for sequences whose steps no loss scores, and for what cannot be done by step.
    """
    by_step = all(loss_option(one.loss, "axis") in ("2", "-1") and not one.positions for one in classifiers)
    ranks = [len(item.shape) for item in features if item.shape is not None]
    sequences = [item for item in features if item.shape is not None and len(item.shape) == _RANK]
    if by_step and sequences and len(ranks) == len(sequences):
        wrong = [*([f"head '{head}'"] if head not in _HEADS else []), *options]
        if wrong:
            message = f"{wrong[0]} works on a row per sample, and the loss scores each step of '{sequences[0].blob}'"
            raise ComposeError(message, hint=f"leave it away; heads for sequences are {', '.join(_HEADS)}")
        return True
    suspects = {
        cut
        for source in sources
        for cut, plain in zip(source.cuts, source.plain, strict=True)
        if _reorders(source, plain)
    }
    strange = [item for item in sequences if by_step or item.blob in suspects]
    if strange:
        raise ComposeError(
            f"'{strange[0].blob}' {format_shape(strange[0].shape or ())} is a sequence, and a head scores one row per "
            "sample",
            hint="cut all sources at sequences that a loss scores step by step (--loss SoftmaxWithLoss,axis=2), or "
            "before they become sequences (@BLOB)",
        )
    if by_step and loss_option(classifiers[0].loss, "axis") == "2" and ranks and max(ranks) < _RANK:
        raise ComposeError(
            f"the sources' loss scores each step of a sequence (axis 2), and '{features[0].blob}' "
            f"{format_shape(features[0].shape or ())} is none",
            hint="cut at a sequence (@BLOB), or name a loss over samples: --loss SoftmaxWithLoss,label=BLOB",
        )
    return False


def _reorders(source: PreparedSource, plain: str) -> bool:
    """Whether a layer on the way to a blob may put another axis than that of the samples first."""
    found = ancestors(source.raw, (plain, f"{source.prefix}/{plain}")).layers
    return any(layer.number in found and _puts_first(layer) for layer in source.raw.layers)


def _puts_first(layer: LayerText) -> bool:
    dims = [
        dim.value
        for param in layer.message.messages("reshape_param")
        if param.string("axis") in (None, "0")
        for shape in param.messages("shape")
        for dim in shape.scalars("dim")
    ]
    return layer.type in _REORDERING or (layer.type == "Reshape" and bool(dims) and dims[0] != "0")
