"""Checks of the requested options, and of heads and features that do not fit the losses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from fusion.composition.branches import ancestors
from fusion.composition.chains import reads_errors
from fusion.composition.classifiers import FusedClassifier
from fusion.composition.features import MAPS, Features, format_shape
from fusion.composition.heads import ENSEMBLES, HEADS, NEEDS_SCORES
from fusion.composition.losses import loss_option
from fusion.composition.net_text import LayerText
from fusion.composition.options import ComposeOptions
from fusion.composition.prepared_source import PreparedSource
from fusion.composition.references import Pct, check_pct
from fusion.composition.solver_text import SolverSettings, check_settings
from fusion.composition.source import Source
from fusion.errors import ComposeError, raise_all
from prototxt.errors import did_you_mean

_OUTPUTS: Final = {"yes-no": "a yes or no per output", "target": "values"}
_RANK: Final = 3
_STEP_HEADS: Final = ("concat-fc", "concat-mlp")
_REORDERING: Final = ("LSTM", "RNN", "Lstm", "GRU", "Gru", "Permute", "Transpose")


def check_request(
    sources: Sequence[Source], options: ComposeOptions, losses: Sequence[Pct], further: Sequence[ComposeError] = ()
) -> None:
    """Check the sources' prefixes and the options before any file is read.

    Raises: ComposeError with all errors, `further` ones among them.
    """
    errors = [*check_pct(losses), *check_settings(options.schedule or SolverSettings()), *further]
    if not sources:
        errors.append(ComposeError("there is nothing to fuse", hint="give sources: --source odd=odd.prototxt@ip1"))
    prefixes = [source.prefix for source in sources]
    for prefix in dict.fromkeys(prefixes):
        if prefixes.count(prefix) > 1:
            message = f"two sources have the prefix '{prefix}'"
            errors.append(ComposeError(message, hint="give each its own; one file may come twice under two prefixes"))
        if not prefix or prefix.strip("/") != prefix or not prefix.isprintable() or '"' in prefix or "\\" in prefix:
            errors.append(ComposeError(f"{prefix!r} is no prefix", hint="use a word such as odd"))
        # Blobs are matched with sources by `prefix/`, so no prefix may contain another.
        if any(other.startswith(f"{prefix}/") for other in prefixes):
            errors.append(ComposeError(f"the prefix '{prefix}' begins another source's prefix", hint="rename one"))
    if options.head not in HEADS:
        hint = did_you_mean(options.head, HEADS, also=f"one of {', '.join(HEADS)}")
        errors.append(ComposeError(f"there is no head '{options.head}'", hint=hint))
    errors += [*reads_errors(sources), *_share_errors(sources, options.head)]
    if options.num_output is not None and options.num_output < 1:
        errors.append(ComposeError(f"num_output is the number of classes, not {options.num_output}"))
    errors += [
        ComposeError(f"{name} is a width, not {width}", hint="give 1 or more")
        for name, width in (("hidden", options.hidden), ("project", options.project))
        if width is not None and width < 1
    ]
    errors += [
        ComposeError(f"{name} is {words}, not {','.join(map(str, sizes))}")
        for name, words, sizes, counts in (
            ("input_shape", "channels, height and width", options.input_shape, (1, 3)),
            ("resize", "a height and a width", options.resize, (2,)),
        )
        if sizes is not None and (len(sizes) not in counts or min(sizes) < 1)
    ]
    if options.maps not in MAPS:
        errors.append(ComposeError(f"maps cannot be joined by '{options.maps}'", hint=f"one of {', '.join(MAPS)}"))
    raise_all(errors)


def _share_errors(sources: Sequence[Source], head: str) -> list[ComposeError]:
    """Return the errors of the sources' shares in an ensemble."""
    given = [source for source in sources if source.share is not None]
    errors = [
        ComposeError(f"{source}: the share {source.share} is not above 0", hint="leave out a source without a share")
        for source in given
        if source.share is not None and not 0 < source.share < math.inf
    ]
    if given and head in HEADS and head not in ENSEMBLES:
        hint = f"heads with shares are {', '.join(ENSEMBLES)}"
        errors.append(ComposeError(f"{given[0]} has a share, and head '{head}' takes none", hint=hint))
    return errors


def check_goals(classifiers: Sequence[FusedClassifier], options: ComposeOptions, losses: Sequence[Pct]) -> None:
    """Check that the head and the options fit the classifiers' losses. Raises: ComposeError with all that do not."""
    first = classifiers[0]
    requested = [f"--pct {loss.kind}" for loss in losses]
    requested += ["--references"] if options.references and not losses else []
    requested += [f"head '{options.head}'"] if options.head in NEEDS_SCORES else []
    errors = []
    for option in requested:
        if len(classifiers) > 1:
            reason = "compares the sources' scores with one classifier's, and there are several tasks"
        elif first.loss.kind.labels != "class" and option != "head 'zero-init'":
            reason = f"needs class scores, and {first.loss.type} gives {_OUTPUTS[first.loss.kind.labels]}"
        elif first.positions and option.startswith("--"):
            reason = "compares scores of whole samples, and this net scores every position of a map"
        elif first.tail.layers:
            reason = f"works on scores that the loss reads, and layers follow these: {len(first.tail.layers)}"
        else:
            continue
        errors.append(ComposeError(f"{option} {reason}", hint="omit it, or use another head (concat-fc)"))
    if first.positions and options.maps == "levels":
        message = "--maps levels averages maps over their positions, each of which is to be scored"
        errors.append(ComposeError(message, hint="omit it, or bring maps to one size (--maps upsample)"))
    raise_all(errors)


def is_scored_by_step(
    sources: Sequence[PreparedSource],
    features: Sequence[Features],
    classifiers: Sequence[FusedClassifier],
    options: ComposeOptions,
) -> bool:
    """Return whether the features are sequences [steps, streams, values], each step of which is scored by itself.

    A head scores each step by the sources' own loss over axis 2, or refuses: how steps make a sample is not known.
    Raises: ComposeError for sequences whose steps no loss scores, and for options that do not work by step.
    """
    by_step = all(loss_option(one.loss, "axis") in ("2", "-1") and not one.positions for one in classifiers)
    ranks = [len(item.shape) for item in features if item.shape is not None]
    sequences = [item for item in features if item.shape is not None and len(item.shape) == _RANK]
    if by_step and sequences and len(ranks) == len(sequences):
        extras = {
            f"head '{options.head}'": options.head not in _STEP_HEADS,
            "--project": options.project,
            "--batch-norm": options.batch_norm,
            "--references": options.references or options.pct,
            "--maps levels": options.maps == "levels",
        }
        unsuited = [name for name, value in extras.items() if value]
        if unsuited:
            message = f"{unsuited[0]} works on a row per sample, and the loss scores each step of '{sequences[0].blob}'"
            raise ComposeError(message, hint=f"omit it; heads for sequences are {', '.join(_STEP_HEADS)}")
        return True
    cuts = [(source, *names) for source in sources for names in zip(source.cuts, source.raw_cuts, strict=True)]
    suspects = {cut for source, cut, raw_cut in cuts if _moves_sample_axis(source, raw_cut)}
    # A blob of 3 axes may also be a batch of rows; it is a sequence where a layer before it moves the samples' axis.
    unscored = [item for item in sequences if by_step or item.blob in suspects]
    if unscored:
        raise ComposeError(
            f"'{unscored[0].blob}' {format_shape(unscored[0].shape or ())} is a sequence, and a head scores one row "
            "per sample",
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


def _moves_sample_axis(source: PreparedSource, cut: str) -> bool:
    """Return whether a layer before the blob may put another axis than that of the samples first."""
    numbers = ancestors(source.raw, (cut,)).layers
    return any(layer.number in numbers and _reorders_axes(layer) for layer in source.raw.layers)


def _reorders_axes(layer: LayerText) -> bool:
    dims = [
        dim.value
        for param in layer.message.messages("reshape_param")
        if param.string("axis") in (None, "0")
        for shape in param.messages("shape")
        for dim in shape.scalars("dim")
    ]
    return layer.type in _REORDERING or (layer.type == "Reshape" and bool(dims) and dims[0] != "0")
