"""Predictions of one net on a set of samples, the input of every comparison."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion.errors import ReportError, raise_all, translate_errors
from fusion.pct import mixtures, prediction_checks, prediction_files

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Strings = npt.NDArray[np.str_]


@dataclass(frozen=True, eq=False)
class Predictions:
    """One net's logits over N samples and C classes.

    keys      str [N]         names of the samples (image paths); with `variants`, each pair occurs once
    labels    int64 [N]       true classes, in the label space that all compared nets share
    logits    float32 or float16 [N, C]   -inf: the net does not know that class for that sample
    classes   int64 [C]       the shared label space's id of each column; default: 0 ... C-1
    variants  str [N] or None distinguishes copies of a sample (augmented, corrupted)
    features  float [N, F] or None
    meta      JSON object: name, hashes of net, weights and preprocessing, commands
    weight    share in ensembles
    Raises: ReportError listing all inconsistencies.
    """

    keys: Strings
    labels: Ints
    logits: Floats
    classes: Ints = None  # type: ignore[assignment]  # __post_init__ fills in 0 ... C-1
    variants: Strings | None = None
    features: Floats | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    weight: float = 1.0
    members: tuple[Predictions, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        logits = np.asarray(self.logits)
        if logits.dtype.kind not in "fiubU":
            raise ReportError(f"logits are {logits.dtype}; real numbers are needed")
        if logits.dtype not in (np.float16, np.float32):
            with np.errstate(over="ignore"):  # infinite values are an error below
                logits = logits.astype(np.float32)
        width = logits.shape[1] if logits.ndim == 2 else 0
        classes = np.arange(width) if self.classes is None else self.classes
        arrays: dict[str, Any] = {
            "keys": np.asarray(self.keys, dtype=np.str_),
            "labels": prediction_checks.class_numbers("labels", self.labels),
            "logits": logits,
            "classes": prediction_checks.class_numbers("classes", classes),
            "variants": None if self.variants is None else np.asarray(self.variants, dtype=np.str_),
            "features": None if self.features is None else np.asarray(self.features),
        }
        for name, value in arrays.items():
            object.__setattr__(self, name, value)
        raise_all(prediction_checks.faults(self.weight, **arrays))

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        return f"Predictions({self.name!r}, {len(self)} samples, classes {self.classes.tolist()})"

    @property
    def name(self) -> str:
        """Return the net's name in reports; 'unnamed' if there is none."""
        return str(self.meta.get("name") or "unnamed")

    @cached_property
    def answers(self) -> Ints:
        """Return the class with the highest logit, in the shared label space, int64 [N]; of equals the first column."""
        return np.asarray(self.classes[self.logits.argmax(axis=1)])

    @cached_property
    def right(self) -> Bools:
        """Return whether the answer is the label, bool [N]."""
        return np.asarray(self.answers == self.labels)

    @cached_property
    def probabilities(self) -> npt.NDArray[np.float32]:
        """Return the softmax over the net's own classes, float32 [N, C]."""
        return np.exp(mixtures.log_softmax(self.logits)).astype(np.float32)

    @cached_property
    def confidence(self) -> npt.NDArray[np.float32]:
        """Return the probability of the answer, float32 [N]."""
        return np.asarray(self.probabilities.max(axis=1))

    @cached_property
    def covered(self) -> Bools:
        """Return whether the net knows the sample's class, bool [N]."""
        column = mixtures.class_columns(self.classes, self.labels)
        return np.asarray((column >= 0) & np.isfinite(self.logits[np.arange(len(self)), column]))

    @cached_property
    def probability_of_label(self) -> npt.NDArray[np.float32]:
        """Return the probability of the true class, float32 [N]; 0 where the net does not know it."""
        column = mixtures.class_columns(self.classes, self.labels)
        return np.where(column >= 0, self.probabilities[np.arange(len(self)), column], np.float32(0))

    def take(self, rows: npt.ArrayLike) -> Predictions:
        """Return the samples at these positions (int) or under this mask (bool), in that order."""
        index = np.asarray(rows)
        return replace(
            self,
            keys=self.keys[index],
            labels=self.labels[index],
            logits=self.logits[index],
            variants=None if self.variants is None else self.variants[index],
            features=None if self.features is None else self.features[index],
            members=(),
        )

    def named(self, name: str, **meta: Any) -> Predictions:
        """Return the same predictions with another name and further entries in `meta`."""
        return replace(self, meta={**self.meta, "name": name, **meta})

    def relabelled(self, classes: Sequence[int]) -> Predictions:
        """Convert a net with its own label space to the shared one: its class i is `classes[i]` there.

        The odd net answers 0 ... 4 for 1, 3, 5, 7, 9: `odd.relabelled([1, 3, 5, 7, 9])`. Class names are converted too.
        Raises: ReportError when the number of classes differs, or a label is outside the net's own space.
        """
        table = np.asarray(classes, dtype=np.int64)
        own = mixtures.class_columns(self.classes, self.labels)
        if len(table) != len(self.classes) or (own < 0).any():
            raise ReportError(
                f"{self.name} has the classes {self.classes.tolist()}; they cannot become {table.tolist()}",
                hint="give one class per column, and relabel before samples of other classes are added",
            )
        meta = dict(self.meta)
        if "class_names" in meta:
            old = self.classes.tolist()
            pairs = (
                (str(new), class_name(meta["class_names"], number))
                for number, new in zip(old, table.tolist(), strict=True)
            )
            meta["class_names"] = {new: name for new, name in pairs if name}
        return replace(self, labels=table[own], classes=table, members=(), meta=meta)

    def weighted(self, weight: float) -> Predictions:
        """Return the same predictions with another share in ensembles."""
        return replace(self, weight=weight)

    def __add__(self, other: object) -> Predictions:
        if other == 0:
            return self
        return ensemble([self, other]) if isinstance(other, Predictions) else NotImplemented

    __radd__ = __add__

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an npz archive, or a table for a name ending in .parquet or .csv (no features), atomically.

        Raises: ReportError for Parquet without pyarrow.
        """
        optional = {"variants": self.variants, "features": self.features}
        arrays = {
            "keys": self.keys,
            "labels": self.labels,
            "logits": self.logits,
            "classes": self.classes,
            **{name: value for name, value in optional.items() if value is not None},
            "meta": np.array(json.dumps({**self.meta, "weight": self.weight}, sort_keys=True)),
        }
        prediction_files.write_arrays(path, arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Predictions:
        """Read a file of `save`, or another program's npz, Parquet or CSV; the file's name is the default name.

        Raises: ReportError with the file and the error; OSError.
        """
        arrays: dict[str, Any] = prediction_files.read_arrays(path)
        meta = {"name": Path(path).stem, **prediction_files.parse_meta(arrays.pop("meta", None), path)}
        weight = meta.pop("weight", 1.0)
        try:
            with translate_errors(ReportError, "arrays of the wrong kind", str(path)):
                return cls(**arrays, meta=meta, weight=float(weight))
        except ReportError as error:
            if error.place is not None:
                raise
            raise ReportError(str(error), place=str(path)) from None


def class_name(names: object, index: int) -> str:
    """Return a class's name in `class_names` of the meta data, a list or a dict by number as text; "" if none."""
    if isinstance(names, list):
        return str(names[index]) if 0 <= index < len(names) else ""
    return str(names.get(str(index), "")) if isinstance(names, dict) else ""


def ensemble(members: Sequence[Predictions], *, classes: Sequence[int] | None = None) -> Predictions:
    """Return the members' weighted mean over the same samples, as one net; members may know different classes.

    members  predictions over the same samples in any order; an ensemble among them counts as its own members
    classes  label space of the result; default: the first member's if all share it, else the sorted union
    Nets with the same classes average logits, others log-probabilities (see `mixtures.mix`).
    Raises: ReportError when there are no members, or they are about different samples.
    """
    flat = [part for member in members for part in (member.members or (member,))]
    if not flat:
        raise ReportError("an ensemble needs at least one member")
    first = flat[0]
    aligned = [first, *(part.take(matching_rows(first, part)) for part in flat[1:])]
    union_of = np.unique(np.concatenate([part.classes for part in aligned]))
    own = first.classes if len(union_of) == len(first.classes) else union_of
    space = own if classes is None else np.asarray(classes, dtype=np.int64)
    logits = mixtures.mix([mixtures.MixtureMember(p.logits, p.classes, p.weight) for p in aligned], space)
    name = " + ".join(part.name for part in flat)
    return Predictions(
        first.keys,
        first.labels,
        logits,
        space,
        first.variants,
        meta={"name": name},
        weight=sum(part.weight for part in flat),
        members=tuple(flat),
    )


def matching_rows(first: Predictions, other: Predictions) -> Ints:
    """Return the rows of `other` in the order of `first`'s samples, int64 [N].

    Raises: ReportError naming the samples that only one of them has, or whose labels differ.
    """
    rows = positions(other, first)
    missing = np.flatnonzero(rows < 0)
    extra = np.flatnonzero(positions(first, other) < 0)
    if len(missing) or len(extra):
        raise ReportError(
            f"{first.name} and {other.name} are about different samples:{_only(first, missing)}{_only(other, extra)}",
            hint="evaluate both on the same list",
        )
    check_equal_labels(first, other.take(rows))
    return rows


def positions(within: Predictions, samples: Predictions) -> Ints:
    """Return the row in `within` of each sample of `samples`, int64 [N]; -1 where it is absent."""
    row = {key: i for i, key in enumerate(sample_ids(within))}
    return np.fromiter((row.get(key, -1) for key in sample_ids(samples)), dtype=np.int64, count=len(samples))


def sample_ids(predictions: Predictions) -> list[tuple[str, str]]:
    """Return (key, variant) of each sample; no variant is ''."""
    return prediction_checks.key_variants(predictions.keys, predictions.variants)


def check_equal_labels(first: Predictions, other: Predictions) -> None:
    """Check that two predictions over the same samples have the same labels. Raises: ReportError with the first."""
    differ = np.flatnonzero(first.labels != other.labels)
    if len(differ):
        i = differ[0]
        raise ReportError(
            f"{first.name} and {other.name} give {len(differ)} of {len(first)} samples different labels; the first is "
            f"{str(first.keys[i])!r}: {first.labels[i]} and {other.labels[i]}",
            hint="bring both into one label space: Predictions.relabelled, or PATH@1,3,5 on the command line",
        )


def _only(predictions: Predictions, rows: Ints) -> str:
    if not len(rows):
        return ""
    return f" {len(rows)} only in {predictions.name} (first {str(predictions.keys[rows[0]])!r})"
