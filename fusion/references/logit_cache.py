"""References beside the data: a source that gives, with each batch, what the references say about it."""

# ruff: noqa: D102 - what the members are is said once, in fusion.data.source.Source
from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fusion.data import Source
from fusion.data.decoded_cache import Progress
from fusion.data.wrapper import SourceWrapper
from fusion.errors import ReportError, TrainingError
from fusion.pct.predictions import Predictions, positions
from fusion.pct.provenance import check_fresh
from fusion.references.models import Blobs, Member, Model, combine

_CHUNK = 500


@dataclass(frozen=True, eq=False)
class ReferencedSource(SourceWrapper):
    """A source whose batches also hold the logits of references, float32 [N, K] under each model's blob.

    tables  logits of all records, once they are computed; a model without one answers each batch anew
    """

    models: Sequence[Model]
    tables: dict[str, Tensor] = field(default_factory=dict)
    _widths: dict[str, int] = field(default_factory=dict)
    _files: dict[int, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        members = [member for model in self.models for member in model.members if member.file]
        self._files.update((id(member), _rows_of(member, self.source)) for member in members)
        first = np.arange(1)
        blobs = self.source.batch(first)
        for model in self.models:
            logits = self._answer(model, first, blobs)
            if logits.dim() != 2 or (model.classes and logits.shape[1] != len(model.classes)):
                raise TrainingError(
                    f"reference '{model.name}' gives {list(logits.shape[1:])} values per record"
                    + (f" for {len(model.classes)} classes" if model.classes else ""),
                    hint="name the blob with its logits (@BLOB) and their classes (classes=1,3,5)",
                )
            self._widths[model.blob] = logits.shape[1]

    @property
    def tops(self) -> tuple[str, ...]:
        return (*self.source.tops, *(model.blob for model in self.models))

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {**self.source.shapes, **{blob: (self.batch_size, width) for blob, width in self._widths.items()}}

    @property
    def in_memory(self) -> bool:
        return self.source.in_memory and all(self._keeps(model) for model in self.models)

    def load(self, progress: Progress | None = None) -> None:
        self.source.load(progress)
        wanted = [model for model in self.models if self._keeps(model) and model.blob not in self.tables]
        for model in wanted:
            self.tables[model.blob] = self._table(model)

    def batch(self, indices: NDArray[np.int64], draw: int = 0) -> dict[str, Tensor]:
        blobs = self.source.batch(indices, draw)
        chosen = torch.from_numpy(indices)
        for model in self.models:
            table = self.tables.get(model.blob)
            logits = self._answer(model, indices, blobs) if table is None else table[chosen].float()
            blobs[model.blob] = logits
        return blobs

    def fingerprint(self) -> str:
        digest = hashlib.sha256(self.source.fingerprint().encode())
        for member in (member for model in self.models for member in model.members):
            digest.update(repr(sorted(member.hashes.items())).encode())
        return digest.hexdigest()

    def _keeps(self, model: Model) -> bool:
        return self.source.deterministic and not any(member.spec.live for member in model.members)

    def _answer(self, model: Model, indices: NDArray[np.int64], blobs: Blobs) -> Tensor:
        parts = []
        for member in model.members:
            if member.answer is not None:
                parts.append(member.answer(blobs))
            else:
                parts.append(self._files[id(member)][torch.from_numpy(indices)].float())
        return combine(model, parts)

    def _table(self, model: Model) -> Tensor:
        """The logits of all records, from the model's cache file where there is a fresh one."""
        spec = model.spec
        kind = torch.float16 if spec.half else torch.float32
        made_of = _made_of(model, self.source)
        if spec.cache is not None and os.path.exists(spec.cache):
            return _cached(Predictions.load(spec.cache), self.source, made_of, os.fspath(spec.cache)).to(kind)
        table = torch.empty((len(self), self._widths[model.blob]), dtype=kind)
        for start in range(0, len(self), _CHUNK):
            indices = np.arange(start, min(start + _CHUNK, len(self)))
            table[start : start + len(indices)] = self._answer(model, indices, self.source.batch(indices))
        if spec.cache is not None:
            predictions(table, model, self.source, made_of).save(spec.cache)
        return table


def hold(source: Source, models: Sequence[Model]) -> Source:
    """The source with the logits of those models that are not blobs of the graph itself. Raises: TrainingError."""
    outside = [model for model in models if not model.members[0].inside]
    return ReferencedSource(source, outside) if outside else source


def predictions(logits: Tensor, model: Model, source: Source, meta: dict[str, str]) -> Predictions:
    """A model's answers on all records of a source. Raises: TrainingError for data without labels."""
    if source.labels is None:
        raise TrainingError("logits are kept by record and label; this data has no labels")
    values = logits.cpu().numpy()
    classes = np.array(model.classes or range(values.shape[1]), np.int64)
    about = {"name": model.name, **meta}
    return Predictions(
        np.array(source.keys, np.str_), source.labels, values, classes, variants(source.keys), meta=about
    )


def variants(keys: Sequence[str]) -> NDArray[np.str_] | None:
    """What tells records of one name apart; None where all names differ."""
    if len(set(keys)) == len(keys):
        return None
    seen: Counter[str] = Counter()
    found = []
    for key in keys:
        seen[key] += 1
        found.append("" if seen[key] == 1 else str(seen[key]))
    return np.array(found, np.str_)


def _made_of(model: Model, source: Source) -> dict[str, str]:
    """What the kept logits depend on."""
    members = [member.hashes for member in model.members]
    asked = [key for key in ("pixels", "input") if any(key in hashes for hashes in members)]
    keys = ("net", "weights", *asked)
    joined = {key: [hashes.get(key, "") for hashes in members] for key in keys}
    blobs = "+".join(member.spec.blob or "" for member in model.members)
    return {
        **{key: values[0] if len(values) == 1 else "+".join(values) for key, values in joined.items()},
        "blob": blobs,
        "preprocessing": source.fingerprint(),
    }


def _cached(found: Predictions, source: Source, made_of: dict[str, str], path: str) -> Tensor:
    try:
        check_fresh(found, **made_of)
    except ReportError as error:
        raise TrainingError(error.message, place=path, hint="delete the file to have it made again") from None
    return torch.from_numpy(_aligned(found, source, (), path))


def _rows_of(member: Member, source: Source) -> Tensor:
    """A predictions file's logits in the order of the source's records."""
    found = member.file
    assert found is not None
    path = os.fspath(member.spec.net) if isinstance(member.spec.net, (str, os.PathLike)) else found.name
    if not source.deterministic:
        hint = "give the net itself (NET.prototxt:WEIGHTS), which answers each view anew"
        raise TrainingError("kept logits are about other views of the pictures than random ones", place=path, hint=hint)
    made, here = found.meta.get("preprocessing"), source.fingerprint()
    if made != here and not member.spec.unchecked:
        what = (
            "says not from which data it was made" if made is None else "was made from other data or another transform"
        )
        hint = "make it again from this data layer (fusion-test --phase TRAIN), or say unchecked if you know better"
        raise TrainingError(f"the file {what}", place=path, hint=hint)
    return torch.from_numpy(_aligned(found, source, member.spec.classes, path))


def _aligned(found: Predictions, source: Source, classes: Sequence[int], path: str) -> NDArray[np.floating]:
    """Logits by record; records whose label is not among `classes` may be absent and get zeros."""
    labels = source.labels
    count = len(source)
    kept = variants(source.keys)
    here = Predictions(
        np.array(source.keys, np.str_),
        np.zeros(count, np.int64) if labels is None else labels,
        np.zeros((count, 1), np.float32),
        variants=kept,
    )
    rows = positions(found, here)
    needed = np.ones(count, bool) if labels is None or not classes else np.isin(labels, list(classes))
    missing = np.flatnonzero((rows < 0) & needed)
    if len(missing):
        first = source.keys[int(missing[0])]
        raise TrainingError(f"no logits for {len(missing)} of {count} records, the first is '{first}'", place=path)
    unknown = np.flatnonzero(needed & ~np.isfinite(found.logits[rows]).all(1))
    if len(unknown):
        raise TrainingError(
            f"no finite logits of all classes for {len(unknown)} of {count} records, the first is "
            f"'{source.keys[int(unknown[0])]}'",
            place=path,
            hint="the file joins nets of different classes: give each as a reference of its own, with its classes=...",
        )
    return np.where((rows >= 0)[:, None], found.logits[rows], found.logits.dtype.type(0))
