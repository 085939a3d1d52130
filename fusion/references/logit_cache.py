"""The logits of references as data: a source whose batches include them, and their cache."""

# ruff: noqa: D102 - the members are documented in fusion.data.source.DataSource
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

from fusion.data import DataSource
from fusion.data.decoded_cache import Progress
from fusion.data.source_wrapper import SourceWrapper
from fusion.errors import ReportError, TrainingError
from fusion.pct.predictions import Predictions, positions
from fusion.pct.provenance import check_fresh
from fusion.references.models import Blobs, EnsembleMember, Model, combine_logits

_CHUNK = 500


@dataclass(frozen=True, eq=False)
class ReferencedSource(SourceWrapper):
    """A source whose batches include the logits of references, float32 [N, K] under each model's blob.

    tables  logits of all records, once computed; a model without one runs on each batch
    """

    models: Sequence[Model]
    tables: dict[str, Tensor] = field(default_factory=dict)
    _widths: dict[str, int] = field(default_factory=dict)
    _files: dict[int, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        members = [member for model in self.models for member in model.members if member.file]
        self._files.update((id(member), _rows_of(member, self.source)) for member in members)
        first = np.arange(1)  # the widths are known only after the references have run on a record
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
        return self.source.in_memory and all(self._cacheable(model) for model in self.models)

    def load(self, progress: Progress | None = None) -> None:
        self.source.load(progress)
        for model in self.models:
            if self._cacheable(model) and model.blob not in self.tables:
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

    def _cacheable(self, model: Model) -> bool:
        return self.source.deterministic and not any(member.spec.live for member in model.members)

    def _answer(self, model: Model, indices: NDArray[np.int64], blobs: Blobs) -> Tensor:
        parts = []
        for member in model.members:
            if member.answer is not None:
                parts.append(member.answer(blobs))
            else:
                parts.append(self._files[id(member)][torch.from_numpy(indices)].float())
        return combine_logits(model, parts)

    def _table(self, model: Model) -> Tensor:
        """Return the logits of all records, from the model's cache file if it is fresh."""
        spec = model.spec
        kind = torch.float16 if spec.half else torch.float32
        provenance = _provenance(model, self.source)
        if spec.cache is not None and os.path.exists(spec.cache):
            return _cached(Predictions.load(spec.cache), self.source, provenance, os.fspath(spec.cache)).to(kind)
        table = torch.empty((len(self), self._widths[model.blob]), dtype=kind)
        # In chunks: logits of all records fit into memory, their images do not.
        for start in range(0, len(self), _CHUNK):
            indices = np.arange(start, min(start + _CHUNK, len(self)))
            table[start : start + len(indices)] = self._answer(model, indices, self.source.batch(indices))
        if spec.cache is not None:
            to_predictions(table, model, self.source, provenance).save(spec.cache)
        return table


def attach_logits(source: DataSource, models: Sequence[Model]) -> DataSource:
    """Return the source with the logits of all models outside the graph itself. Raises: TrainingError."""
    external = [model for model in models if not model.members[0].in_graph]
    return ReferencedSource(source, external) if external else source


def to_predictions(logits: Tensor, model: Model, source: DataSource, meta: dict[str, str]) -> Predictions:
    """Return a model's answers on all records of a source. Raises: TrainingError for data without labels."""
    if source.labels is None:
        raise TrainingError("logits are stored by record and label; this data has no labels")
    values = logits.cpu().numpy()
    classes = np.array(model.classes or range(values.shape[1]), np.int64)
    return Predictions(
        np.array(source.keys, np.str_),
        source.labels,
        values,
        classes,
        number_duplicates(source.keys),
        meta={"name": model.name, **meta},
    )


def number_duplicates(keys: Sequence[str]) -> NDArray[np.str_] | None:
    """Return a number, as text, for each repetition of a record's name, "" for the first; None where all differ."""
    if len(set(keys)) == len(keys):
        return None
    seen: Counter[str] = Counter()
    numbers = []
    for key in keys:
        seen[key] += 1
        numbers.append("" if seen[key] == 1 else str(seen[key]))
    return np.array(numbers, np.str_)


def _provenance(model: Model, source: DataSource) -> dict[str, str]:
    """Return the hashes and settings that cached logits depend on."""
    members = [member.hashes for member in model.members]
    optional = [key for key in ("pixels", "input") if any(key in hashes for hashes in members)]
    keys = ("net", "weights", *optional)
    joined = {key: [hashes.get(key, "") for hashes in members] for key in keys}
    blobs = "+".join(member.spec.blob or "" for member in model.members)
    return {
        **{key: values[0] if len(values) == 1 else "+".join(values) for key, values in joined.items()},
        "blob": blobs,
        "preprocessing": source.fingerprint(),
    }


def _cached(stored: Predictions, source: DataSource, provenance: dict[str, str], path: str) -> Tensor:
    try:
        check_fresh(stored, **provenance)
    except ReportError as error:
        raise TrainingError(error.message, place=path, hint="delete the file to create it again") from None
    return torch.from_numpy(_aligned(stored, source, (), path))


def _rows_of(member: EnsembleMember, source: DataSource) -> Tensor:
    """Return a predictions file's logits in the order of the source's records."""
    stored = member.file
    assert stored is not None
    path = os.fspath(member.spec.net) if isinstance(member.spec.net, (str, os.PathLike)) else stored.name
    if not source.deterministic:
        hint = "give the net itself (NET.prototxt:WEIGHTS), which runs on each view"
        raise TrainingError("stored logits do not match random views of the images", place=path, hint=hint)
    made, here = stored.meta.get("preprocessing"), source.fingerprint()
    if made != here and not member.spec.unchecked:
        problem = "does not name its data" if made is None else "was made from other data or another transform"
        hint = "make it again from this data layer (fusion-test --phase TRAIN), or add unchecked if you are sure"
        raise TrainingError(f"the file {problem}", place=path, hint=hint)
    return torch.from_numpy(_aligned(stored, source, member.spec.classes, path))


def _aligned(stored: Predictions, source: DataSource, classes: Sequence[int], path: str) -> NDArray[np.floating]:
    """Return the logits by record; records whose label is not among `classes` may be missing and get zeros."""
    labels = source.labels
    count = len(source)
    here = Predictions(
        np.array(source.keys, np.str_),
        np.zeros(count, np.int64) if labels is None else labels,
        np.zeros((count, 1), np.float32),
        variants=number_duplicates(source.keys),
    )
    rows = positions(stored, here)
    needed = np.ones(count, bool) if labels is None or not classes else np.isin(labels, list(classes))
    missing = np.flatnonzero((rows < 0) & needed)
    if len(missing):
        first = source.keys[int(missing[0])]
        raise TrainingError(f"no logits for {len(missing)} of {count} records, the first is '{first}'", place=path)
    unknown = np.flatnonzero(needed & ~np.isfinite(stored.logits[rows]).all(1))
    if len(unknown):
        raise TrainingError(
            f"no finite logits of all classes for {len(unknown)} of {count} records, the first is "
            f"'{source.keys[int(unknown[0])]}'",
            place=path,
            hint="the file combines nets of different classes: give each as a separate reference with its classes=...",
        )
    return np.where((rows >= 0)[:, None], stored.logits[rows], stored.logits.dtype.type(0))
