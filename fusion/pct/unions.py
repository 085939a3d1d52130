"""The union of several originals as one old net."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fusion.errors import ReportError
from fusion.pct.predictions import Predictions, ensemble, sample_ids


def union(references: Sequence[Predictions]) -> Predictions:
    """Combine several originals into one old net: each sample is answered by those that know its class.

    A sample known by several gets their ensemble; a sample known by none is omitted. The odd and the even net
    together answer for all digits, each on its own ones; classes that a sample's nets do not know are -inf there.
    Raises: ReportError when two references disagree on a sample's label, or there are no references.
    """
    if not references:
        raise ReportError("a union needs at least one reference")
    known = [reference.take(reference.covered) for reference in references]
    owners: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for n, reference in enumerate(known):
        for row, sample in enumerate(sample_ids(reference)):
            owners.setdefault(sample, []).append((n, row))
    groups: dict[tuple[int, ...], list[list[int]]] = {}
    for parts in owners.values():
        groups.setdefault(tuple(n for n, _ in parts), []).append([row for _, row in parts])
    classes = np.unique(np.concatenate([reference.classes for reference in references]))
    pieces = []
    for numbers, rows in groups.items():
        columns = np.array(rows).T
        group = [known[n].take(columns[i]) for i, n in enumerate(numbers)]
        pieces.append(ensemble(group, classes=classes.tolist()))
    name = " ∪ ".join(reference.name for reference in references)
    has_variants = any(piece.variants is not None for piece in pieces)
    return Predictions(
        np.concatenate([np.empty(0, np.str_), *(piece.keys for piece in pieces)]),
        np.concatenate([np.empty(0, np.int64), *(piece.labels for piece in pieces)]),
        np.concatenate([np.empty((0, len(classes)), np.float32), *(piece.logits for piece in pieces)]),
        classes,
        np.concatenate([np.full(len(p), "") if p.variants is None else p.variants for p in pieces])
        if has_variants
        else None,
        meta={"name": name},
    )
