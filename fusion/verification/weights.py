"""Comparison of sources' weights with those of their branches, as stored in the files."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping

from fusion.errors import WeightsMismatch
from fusion.onnx.sidecar import read_pair
from fusion.verification.comparison import Comparison, Difference, compare_arrays

Path = str | os.PathLike[str]


def verify_weights(
    weights: Path, sources: Mapping[str, Path], rtol: float = 0.0, without: Collection[str] = ()
) -> list[Comparison]:
    """Compare the weights of each source with those of its branch in another weights file.

    without  layers of the fused net that are meant to differ
    Raises: WeightsMismatch when they have no layer in common.
    """
    whole = read_pair(weights)
    found = []
    for prefix, path in sources.items():
        source = read_pair(path)
        names = {name: _fused_name(name, prefix, whole) for name in source}
        both = {name: fused for name, fused in names.items() if fused is not None and fused not in without}
        if not both:
            own = ", ".join(list(source)[:4])
            hint = f"the source's layers are {own}, ...; the other's {', '.join(list(whole)[:4])}, ..."
            raise WeightsMismatch(f"no layer of '{prefix}' is in {os.fspath(weights)}", place=str(path), hint=hint)
        rows: list[Difference] = []
        for name, fused in both.items():
            mine, theirs = source[name], whole[fused]
            if len(mine) != len(theirs):
                rows.append(Difference(fused, f"{len(theirs)} blobs for {len(mine)}", (), float("inf"), float("inf")))
                continue
            rows += [
                compare_arrays(
                    fused, f"weights {index}", array, other.reshape(array.shape) if _fits(array, other) else other
                )
                for index, (array, other) in enumerate(zip(mine, theirs, strict=True))
            ]
        skipped = tuple(name for name, fused in names.items() if fused is None)
        title = f"the weights of {os.fspath(path)} in {os.fspath(weights)}"
        found.append(Comparison(prefix or "weights", title, tuple(rows), skipped, rtol=rtol))
    return found


def _fits(one: object, other: object) -> bool:
    return getattr(one, "size", 0) == getattr(other, "size", 1)


def _fused_name(name: str, prefix: str, whole: Mapping[str, object]) -> str | None:
    candidates = (f"{prefix}/{name}", name) if prefix else (name,)
    return next(
        (found for found in candidates if found in whole and (not prefix or found.startswith(f"{prefix}/"))), None
    )
