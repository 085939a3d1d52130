"""What makes a set of arrays a predictions file, and every way in which they can fail to be one."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fusion.errors import FusionError, ReportError

Array = npt.NDArray[Any]


def pairs(keys: Array, variants: Array | None) -> list[tuple[str, str]]:
    """(key, variant) of each sample; no variant is ''."""
    names: list[str] = keys.tolist()
    return list(zip(names, [""] * len(names) if variants is None else variants.tolist(), strict=True))


def whole(name: str, values: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """The values as int64; casting alone would round fractions, and turn NaN and large numbers into others.

    Raises: ReportError naming the first value that is no whole number of 64 bits.
    """
    given = np.asarray(values)
    if given.dtype.kind not in "fc":
        try:
            same = given.astype(np.int64)
        except OverflowError as error:
            raise ReportError(
                f"{name} are no class numbers: {error}", hint="classes are whole numbers of 64 bits"
            ) from None
        wrong = np.asarray(given != same, bool) if given.dtype.kind in "uO" else np.zeros(given.shape, bool)
    else:
        with np.errstate(invalid="ignore"):
            same = given.real.astype(np.int64)
        wrong = (given != same) | (np.abs(given) >= 2.0**63)
    if wrong.any():
        raise ReportError(f"{name}: {given[wrong][0]} is no class number", hint="classes are whole numbers of 64 bits")
    return same


def faults(
    weight: float,
    *,
    keys: Array,
    labels: Array,
    logits: Array,
    classes: Array,
    variants: Array | None,
    features: Array | None,
) -> list[FusionError]:
    """All that does not fit, in words; empty when the arrays are one net's predictions."""
    if logits.ndim != 2 or logits.shape[1] == 0 or keys.ndim != 1:
        return [
            ReportError(f"logits of shape {logits.shape} with keys of shape {keys.shape}; [N, C] and [N] are needed")
        ]
    count, width = logits.shape
    found: list[FusionError] = []
    wanted = [
        ("keys", keys, count),
        ("labels", labels, count),
        ("classes", classes, width),
        ("variants", variants, count),
    ]
    for name, array, length in wanted:
        if array is not None and array.shape != (length,):
            found.append(ReportError(f"{name} of shape {array.shape} beside logits of shape {logits.shape}"))
    if features is not None and (features.ndim < 2 or len(features) != count):
        found.append(ReportError(f"features of shape {features.shape} beside logits of shape {logits.shape}"))
    if len(np.unique(classes)) != len(classes):
        found.append(ReportError(f"a class occurs twice among {classes.tolist()}"))
    if not 0 < weight < np.inf:
        found.append(ReportError(f"an ensemble weight of {weight}; it must be above 0, and finite"))
    return found or [*_repeated(keys, variants), *_unusable(keys, logits)]


def _repeated(keys: Array, variants: Array | None) -> list[FusionError]:
    ids = pairs(keys, variants)
    for pair in ids:
        if not all(map(_is_text, pair)):
            return [ReportError(f"the key or variant {pair!r} is no text: it holds half of a surrogate pair")]
    if len(set(ids)) == len(ids):
        return []
    seen: set[tuple[str, str]] = set()
    first = next(key for key, variant in ids if (key, variant) in seen or seen.add((key, variant)))  # type: ignore[func-returns-value]
    return [
        ReportError(
            f"{len(ids) - len(set(ids))} samples occur again, the first is {first!r}",
            hint="give each copy of a sample its own variant",
        )
    ]


def _is_text(name: str) -> bool:
    """Whether a name can be written; bytes of file names that are no UTF-8 can."""
    if name.isascii():
        return True
    try:
        name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def _unusable(keys: Array, logits: Array) -> list[FusionError]:
    highest = logits.max(axis=1)
    broken, unknown = np.flatnonzero(np.isnan(highest) | (highest == np.inf)), np.flatnonzero(highest == -np.inf)
    found: list[FusionError] = []
    if len(broken):
        found.append(
            ReportError(
                f"{len(broken)} samples have NaN or infinite logits, the first is {str(keys[broken[0]])!r}",
                hint="the net has diverged, or float16 is too narrow for its logits",
            )
        )
    if len(unknown):
        found.append(
            ReportError(f"no class at all is known for {len(unknown)} samples, the first is {str(keys[unknown[0]])!r}")
        )
    return found
