"""What is wrong with what is asked for, before any file is read."""

from __future__ import annotations

from collections.abc import Sequence

from fusion.composition.classifiers import Classifier
from fusion.composition.features import MAPS
from fusion.composition.heads import HEADS, NEEDS_SCORES
from fusion.composition.references import Pct, check_pct
from fusion.composition.solver_text import Schedule, check_schedule
from fusion.composition.sources import Source
from fusion.errors import ComposeError, raise_all


def check_request(
    sources: Sequence[Source],
    head: str,
    num_output: int | None,
    losses: Sequence[Pct],
    schedule: Schedule,
    further: Sequence[ComposeError] = (),
) -> None:
    """Raises: ComposeError with all that is wrong with what is asked for, `further` errors among it."""
    errors = [*check_pct(losses), *check_schedule(schedule), *further]
    if not sources:
        errors.append(ComposeError("there is nothing to fuse", hint="give sources: --source odd=odd.prototxt@ip1"))
    prefixes = [source.prefix for source in sources]
    for prefix in dict.fromkeys(prefixes):
        if prefixes.count(prefix) > 1:
            what = f"two sources have the prefix '{prefix}'"
            errors.append(ComposeError(what, hint="give each its own; one file may come twice under two prefixes"))
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
    classifiers: Sequence[Classifier], head: str, maps: str, losses: Sequence[Pct], *, references: bool
) -> None:
    """Raises: ComposeError for heads and options that the classifiers' losses have no use for."""
    first = classifiers[0]
    asked = [f"--pct {loss.kind}" for loss in losses] + (["--references"] if references and not losses else [])
    asked += [f"head '{head}'"] if head in NEEDS_SCORES else []
    errors = []
    for what in asked:
        if len(classifiers) > 1:
            reason = "compares the sources' scores with one classifier's, and there are several tasks"
        elif first.loss.kind.labels != "class" and what != "head 'zero-init'":
            reason = f"needs class scores, and {first.loss.type} gives {_GIVES[first.loss.kind.labels]}"
        elif first.positions and what.startswith("--"):
            reason = "compares scores of whole samples, and this net scores every position of a map"
        elif first.tail.layers:
            reason = f"works on scores that the loss reads, and layers follow these: {len(first.tail.layers)}"
        else:
            continue
        errors.append(ComposeError(f"{what} {reason}", hint="leave it away, or take another head (concat-fc)"))
    if first.positions and maps == "levels":
        what = "--maps levels averages maps over their positions, each of which is to be scored"
        errors.append(ComposeError(what, hint="leave it away, or bring maps to one size (--maps upsample)"))
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
