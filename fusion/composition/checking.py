"""What is wrong with what is asked for, before any file is read."""

from __future__ import annotations

from collections.abc import Sequence

from fusion.composition.features import MAPS
from fusion.composition.heads import HEADS
from fusion.composition.references import Pct, check_pct
from fusion.composition.solvers import Schedule, check_schedule
from fusion.composition.sources import Source
from fusion.errors import ComposeError, raise_all


def check_request(
    sources: Sequence[Source], head: str, num_output: int, losses: Sequence[Pct], schedule: Schedule
) -> None:
    """Raises: ComposeError with all that is wrong with what is asked for."""
    errors = [*check_pct(losses), *check_schedule(schedule)]
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
    if num_output < 1:
        errors.append(ComposeError(f"num_output is the number of classes, not {num_output}"))
    raise_all(errors)


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
