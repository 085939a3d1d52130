"""All figures of a report, computed once; text, JSON and page only format them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion import pct
from fusion.errors import ReportError
from fusion.pct.alignment import Pair
from fusion.pct.calibration import Bin
from fusion.pct.intervals import Interval, paired_difference
from fusion.pct.metrics import FORMULAS, Outcomes
from fusion.pct.predictions import class_name, positions
from prototxt.text.class_names import name_of

FEW = 5


@dataclass(frozen=True)
class FlipComparison:
    """One new net against one old net, over the samples that the old one covers."""

    old: pct.Predictions
    new: pct.Predictions
    pair: Pair

    @cached_property
    def outcomes(self) -> Outcomes:
        """Return the four counts of outcomes."""
        return pct.outcomes(old=self.pair.old.right, new=self.pair.new.right)

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """Return every metric of FORMULAS with its 95 % interval."""
        return {metric: pct.metric_interval(self.outcomes, metric) for metric in FORMULAS}

    @cached_property
    def churn(self) -> Interval:
        """Return the share of samples that the two nets answer differently, with its 95 % interval."""
        changed = self.pair.old.answers != self.pair.new.answers
        return pct.share_interval(int(changed.sum()), len(changed))

    @cached_property
    def p_value(self) -> float | None:
        """Return the p-value of McNemar's exact test that both nets are equally often right."""
        return pct.mcnemar(self.outcomes)

    @cached_property
    def per_class(self) -> dict[int, Outcomes]:
        """Return the counts by true class."""
        return pct.per_class(old=self.pair.old, new=self.pair.new)

    def per_slice(self, by: Callable[[str, str], Any] | None) -> dict[str, Outcomes]:
        """Return the counts by slice, in alphabetical order; empty if there is only one."""
        found = pct.per_slice(old=self.pair.old, new=self.pair.new, by=by)
        return {str(name): found[name] for name in sorted(found, key=str)} if len(found) > 1 else {}

    @cached_property
    def margin_weighted(self) -> float | None:
        """Return the margin-weighted negative flips."""
        return pct.margin_weighted_flips(old=self.pair.old, new=self.pair.new)

    @cached_property
    def negative_flips(self) -> npt.NDArray[np.bool_]:
        """Return which samples of the pair are negative flips, bool [N]."""
        return np.asarray(self.pair.old.right & ~self.pair.new.right)


@dataclass(frozen=True)
class Candidate:
    """A new net, compared with all originals together (`whole`) and with each (empty if there is only one).

    accuracy  with its interval, over all samples of the net's file, also those of classes that no original knows
    """

    net: pct.Predictions
    role: str
    accuracy: Interval
    calibration: float | None
    reliability: list[Bin]
    whole: FlipComparison
    each: tuple[FlipComparison, ...]

    @property
    def name(self) -> str:
        """Return the net's name."""
        return self.net.name


@dataclass(frozen=True)
class FlipReport:
    """The figures of all nets.

    old         all originals as one net: each sample is answered by those that know its class
    candidates  the new nets, the baseline first; the last one is featured
    base        the new net that the featured one is compared with, if any
    spared      the featured net's NFR less the base's, paired by sample
    labels      names of the classes, from class 0 on; by default those in the predictions files
    """

    title: str
    references: tuple[pct.Predictions, ...]
    old: pct.Predictions
    candidates: tuple[Candidate, ...]
    base: Candidate | None
    spared: Interval | None
    slices: Callable[[str, str], Any] | None = None
    labels: Sequence[str] = ()

    @property
    def featured(self) -> Candidate:
        """Return the net of the verdict."""
        return self.candidates[-1]

    @property
    def unknown(self) -> int:
        """Return the number of samples of classes that no original knows."""
        return len(self.featured.net) - len(self.featured.whole.pair.new)

    @property
    def shown(self) -> tuple[Candidate, ...]:
        """Return the new nets that fit side by side: all if few, else the base and the featured one."""
        few = len(self.candidates) <= FEW or self.base is None
        return self.candidates if few else (self.base, self.featured)  # type: ignore[return-value]

    def class_name(self, index: int) -> str:
        """Return a class's name: by `labels`, else a net's `class_names`, the featured one's first; else its number."""
        if self.labels:
            return name_of(self.labels, index) or str(index)
        for net in (self.featured.net, *(other.net for other in self.candidates), *self.references):
            name = class_name(net.meta.get("class_names"), index)
            if name:
                return name
        return str(index)

    @property
    def originals(self) -> str:
        """Return the name of the old side in sentences."""
        return "its originals" if len(self.references) > 1 else self.old.name


def gather(
    *,
    old: Sequence[pct.Predictions],
    new: Sequence[pct.Predictions],
    baseline: pct.Predictions | None = None,
    title: str | None = None,
    slices: Callable[[str, str], Any] | None = None,
    labels: Sequence[str] = (),
) -> FlipReport:
    """Compute a report's figures.

    old       the originals, each over the classes it knows
    new       candidates; the last one is featured, and compared with `baseline` (by default the first of several)
    slices    (key, variant) of a sample -> its slice, None for no slice; by default its variant
    labels    names of the classes, from class 0 on; by default those in the predictions files
    Raises: ReportError when a side has no net, or predictions cannot be aligned.
    """
    if not old or not new:
        raise ReportError("a report needs at least one old and one new net")
    nets = distinct([*old, *([baseline] if baseline is not None else []), *new])
    references, fresh = tuple(nets[: len(old)]), nets[len(old) :]
    whole = pct.union(references) if len(references) > 1 else references[0]
    roles = ["baseline" if baseline is not None and i == 0 else "new" for i in range(len(fresh))]
    candidates = tuple(_candidate(net, role, whole, references) for net, role in zip(fresh, roles, strict=True))
    base = candidates[0] if len(candidates) > 1 else None
    spared = _spared(base, candidates[-1]) if base else None
    heading = title or f"{candidates[-1].name} against {', '.join(net.name for net in references)}"
    return FlipReport(heading, references, whole, candidates, base, spared, slices, tuple(labels))


def distinct(nets: Sequence[pct.Predictions]) -> list[pct.Predictions]:
    """Return the nets, with a number appended to repeated names."""
    counted: dict[str, int] = {}
    renamed = []
    for net in nets:
        counted[net.name] = number = counted.get(net.name, 0) + 1
        renamed.append(net if number == 1 else net.named(f"{net.name} ({number})"))
    return renamed


def _candidate(
    net: pct.Predictions, role: str, whole: pct.Predictions, references: Sequence[pct.Predictions]
) -> Candidate:
    right = net.right
    counted = Outcomes(int(right.sum()), 0, 0, int((~right).sum()))
    each = [FlipComparison(old, net, pct.align(old=old, new=net)) for old in references]
    together = FlipComparison(whole, net, pct.align(old=whole, new=net)) if len(each) > 1 else each[0]
    return Candidate(
        net, role, pct.metric_interval(counted, "accuracy_new"), pct.expected_calibration_error(net),
        pct.reliability(net), together, tuple(each) if len(each) > 1 else (),
    )  # fmt: skip


def _spared(base: Candidate, featured: Candidate) -> Interval:
    """Return the difference of the two nets' negative flip rates, paired by sample. Raises: ReportError."""
    rows = positions(base.whole.pair.new, featured.whole.pair.new)
    if (rows < 0).any() or len(rows) != len(base.whole.pair.new):
        raise ReportError(
            f"{base.name} and {featured.name} are about different samples", hint="evaluate both on the same list"
        )
    return paired_difference(base.whole.negative_flips[rows], featured.whole.negative_flips)
