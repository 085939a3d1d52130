"""Checks of the arrays of a predictions file."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion.errors import FusionError, ReportError

Array = npt.NDArray[Any]


_MANY = 1 << 20  # samples; of more than these, each takes at least a byte


def check_sample_count(count: int, path: str | os.PathLike[str]) -> None:
    """Check a number of samples against the file's size, before each becomes objects of Python.

    Raises: ReportError for a suspected bomb of repeated values.
    """
    if count > max(_MANY, size := os.path.getsize(path)):
        raise ReportError(f"{count} samples in {size} bytes", place=str(path), hint="write the file again")


def key_variants(keys: Array, variants: Array | None) -> list[tuple[str, str]]:
    """Return (key, variant) of each sample; no variant is ''."""
    names: list[str] = keys.tolist()
    return list(zip(names, [""] * len(names) if variants is None else variants.tolist(), strict=True))


def class_numbers(name: str, values: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Convert to int64. Raises: ReportError naming the first value that is not an integer of 64 bits."""
    # Casting alone would truncate fractions, and change NaN and large numbers to arbitrary ones.
    given = np.asarray(values)
    if given.dtype.kind not in "fc":
        try:
            same = given.astype(np.int64)
        except OverflowError as error:
            raise ReportError(
                f"{name} are not class numbers: {error}", hint="classes are integers of 64 bits"
            ) from None
        wrong = np.asarray(given != same, bool) if given.dtype.kind in "uO" else np.zeros(given.shape, bool)
    else:
        with np.errstate(invalid="ignore"):
            same = given.real.astype(np.int64)
        wrong = (given != same) | (np.abs(given) >= 2.0**63)
    if wrong.any():
        raise ReportError(f"{name}: {given[wrong][0]} is not a class number", hint="classes are integers of 64 bits")
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
    """Return an error for each inconsistency; none when the arrays are one net's predictions."""
    if logits.ndim != 2 or logits.shape[1] == 0 or keys.ndim != 1:
        return [
            ReportError(f"logits of shape {logits.shape} with keys of shape {keys.shape}; [N, C] and [N] are needed")
        ]
    count, width = logits.shape
    errors: list[FusionError] = []
    lengths = [
        ("keys", keys, count),
        ("labels", labels, count),
        ("classes", classes, width),
        ("variants", variants, count),
    ]
    for name, array, length in lengths:
        if array is not None and array.shape != (length,):
            errors.append(ReportError(f"{name} of shape {array.shape} beside logits of shape {logits.shape}"))
    if features is not None and (features.ndim < 2 or len(features) != count):
        errors.append(ReportError(f"features of shape {features.shape} beside logits of shape {logits.shape}"))
    if len(np.unique(classes)) != len(classes):
        errors.append(ReportError(f"a class occurs twice among {classes.tolist()}"))
    if not 0 < weight < np.inf:
        errors.append(ReportError(f"an ensemble weight of {weight}; it must be above 0 and finite"))
    return errors or [*_repeated(keys, variants), *_unusable(keys, logits)]


def _repeated(keys: Array, variants: Array | None) -> list[FusionError]:
    ids = key_variants(keys, variants)
    for pair in ids:
        if not all(map(_is_text, pair)):
            return [ReportError(f"the key or variant {pair!r} is not valid text: it contains half of a surrogate pair")]
    if len(set(ids)) == len(ids):
        return []
    seen: set[tuple[str, str]] = set()
    first = next(key for key, variant in ids if (key, variant) in seen or seen.add((key, variant)))  # type: ignore[func-returns-value]
    return [
        ReportError(
            f"{len(ids) - len(set(ids))} samples are duplicates, the first is {first!r}",
            hint="give each copy of a sample its own variant",
        )
    ]


def _is_text(name: str) -> bool:
    """Return whether a name can be encoded; escaped bytes of file names that are not UTF-8 can."""
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
    errors: list[FusionError] = []
    if len(broken):
        errors.append(
            ReportError(
                f"{len(broken)} samples have NaN or infinite logits, the first is {str(keys[broken[0]])!r}",
                hint="the net has diverged, or float16 is too narrow for its logits",
            )
        )
    if len(unknown):
        errors.append(
            ReportError(f"all logits are -inf for {len(unknown)} samples, the first is {str(keys[unknown[0]])!r}")
        )
    return errors
