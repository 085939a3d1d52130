"""The gate of a release: a budget of flips and accuracy, and the checks of nets against it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from fusion import pct
from fusion.data.parse_json_toml import parse_json, parse_toml
from fusion.errors import FusionError, ReportError, raise_all
from fusion.report.format_numbers import percent, plural
from fusion.report.report_data import Candidate, FlipReport
from prototxt.errors import did_you_mean


@dataclass(frozen=True)
class Budget:
    """Limits as fractions; None: no limit.

    max_nfr           negative flips against all originals together
    min_accuracy      accuracy over all samples
    max_weighted_nfr  negative flips weighted by `severity` (class -> weight, default 1)
    references        original's name -> max_nfr over the samples that it covers
    classes           class -> max_nfr over the samples of that class
    max_nfr_upper     upper end of the 95 % interval of max_nfr's rate, which a small sample cannot keep by chance
    """

    max_nfr: float | None = None
    min_accuracy: float | None = None
    max_weighted_nfr: float | None = None
    severity: Mapping[int, float] = field(default_factory=dict)
    references: Mapping[str, float] = field(default_factory=dict)
    classes: Mapping[int, float] = field(default_factory=dict)
    max_nfr_upper: float | None = None


@dataclass(frozen=True)
class Check:
    """The check of one limit for one net."""

    what: str
    value: float | None
    limit: float
    least: bool
    passed: bool

    def __str__(self) -> str:
        bound = "at least" if self.least else "at most"
        verdict = "kept" if self.passed else "BROKEN"
        # As many digits as it takes to tell the value from the limit.
        digits = next((n for n in (2, 3, 4) if percent(self.value, n) != percent(self.limit, n)), 2)
        return f"{verdict}: {self.what} is {percent(self.value, digits)}, {bound} {percent(self.limit, digits)} allowed"


def check_budget(report: FlipReport, budget: Budget) -> list[Check]:
    """Check every limit for every new net but the baseline. An undefined value breaks every limit.

    Raises: ReportError for a limit on (or a severity of) an original or a class that the report does not have.
    """
    known = {net.name for net in report.references}
    foreign = [f"original {name!r}" for name in budget.references if name not in known]
    foreign += [f"class {c}" for c in {**budget.classes, **budget.severity} if c not in report.old.classes]
    raise_all([ReportError(f"the budget names {name}, which is not in this report") for name in foreign])
    new = [candidate for candidate in report.candidates if candidate.role == "new"]
    return [found for candidate in new for found in _checks(candidate, budget, report.class_name)]


def read_budget(path: str | os.PathLike[str]) -> Budget:
    """Read a budget from JSON, or the table [gate] of a TOML file: the fields of Budget.

    Rates are fractions or texts like "0.5%".
    Raises: ReportError listing all errors; OSError.
    """
    data, place = Path(path).read_bytes(), str(path)
    is_toml = place.endswith(".toml")
    given = parse_toml(data, place, ReportError).get("gate") if is_toml else parse_json(data, place, ReportError)
    if not isinstance(given, dict):
        form = 'a table: [gate] and below it max_nfr = "0.5%"' if is_toml else 'a JSON object: {"max_nfr": "0.5%"}'
        raise ReportError("there is no budget in this file", place=place, hint=f"it is {form}")
    if not given:
        raise ReportError("this budget limits nothing", place=str(path), hint='{"max_nfr": "0.5%"}')
    errors: list[FusionError] = []
    found: dict[str, Any] = {}
    for name, value in given.items():
        try:
            found[name] = _field(name, value)
        except (ReportError, ValueError, TypeError, AttributeError, OverflowError) as error:
            errors.append(ReportError(f"{name}: {error}", place=str(path)))
    if found.get("severity") and "max_weighted_nfr" not in given:
        hint = 'limit the weighted negative flips too: "max_weighted_nfr": "0.5%"'
        errors.append(ReportError("severity: it weighs nothing without a limit", place=str(path), hint=hint))
    raise_all(errors)
    return Budget(**found)


def parse_rate(text: str | float) -> float:
    """Return a fraction from 0.005 or "0.5%". Raises: ValueError unless it is in [0, 1], and for a 1 without a sign."""
    percentage = isinstance(text, str) and text.strip().endswith("%")
    value = float(text.strip()[:-1]) / 100 if isinstance(text, str) and percentage else float(text)
    if value == 1 and not percentage:
        raise ValueError(f"{text} may be taken for 1%; write 1% or 100%")
    if not 0 <= value <= 1:
        raise ValueError(f"{text} is not between 0 and 1; a percentage takes its sign: {text}%")
    return value


def _weight(given: str | float) -> float:
    value = float(given)
    if not 0 <= value < math.inf:
        raise ValueError(f"a weight of {given}; it must be 0 or more")
    return value


def _field(name: str, value: Any) -> Any:
    if name in ("max_nfr", "max_nfr_upper", "min_accuracy", "max_weighted_nfr"):
        return parse_rate(value)
    if name == "severity":
        return {int(c): _weight(weight) for c, weight in value.items()}
    if name == "references":
        return {str(reference): parse_rate(limit) for reference, limit in value.items()}
    if name == "classes":
        return {int(c): parse_rate(limit) for c, limit in value.items()}
    known = [item.name for item in fields(Budget)]
    raise ReportError("no such limit", hint=did_you_mean(name, known) or f"one of {', '.join(known)}")


def _checks(candidate: Candidate, budget: Budget, class_name: Callable[[int], str]) -> list[Check]:
    name, whole = candidate.name, candidate.whole
    found: list[Check] = []
    if budget.min_accuracy is not None:
        over = f" over all {plural(len(candidate.net), 'sample')}" if len(candidate.net) > len(whole.outcomes) else ""
        found.append(_least(f"accuracy of {name}{over}", candidate.accuracy.value, budget.min_accuracy))
    if budget.max_nfr is not None:
        found.append(_most(f"NFR of {name}", whole.outcomes.value("negative_flip_rate"), budget.max_nfr))
    if budget.max_nfr_upper is not None:
        high = whole.intervals["negative_flip_rate"].high
        found.append(_most(f"upper end of the 95\u00a0% interval of the NFR of {name}", high, budget.max_nfr_upper))
    if budget.max_weighted_nfr is not None:
        weighted = pct.severity_weighted_nfr(old=whole.pair.old, new=whole.pair.new, severity=budget.severity)
        found.append(_most(f"severity-weighted NFR of {name}", weighted, budget.max_weighted_nfr))
    for comparison in candidate.each or (whole,):
        if comparison.old.name in budget.references:
            value = comparison.outcomes.value("negative_flip_rate")
            found.append(
                _most(f"NFR of {name} against {comparison.old.name}", value, budget.references[comparison.old.name])
            )
    for c, limit in budget.classes.items():
        value = whole.per_class[c].value("negative_flip_rate")
        found.append(_most(f"NFR of {name} on class {class_name(c)}", value, limit))
    return found


def _most(what: str, value: float | None, limit: float) -> Check:
    return Check(what, value, limit, False, value is not None and value <= limit)


def _least(what: str, value: float | None, limit: float) -> Check:
    return Check(what, value, limit, True, value is not None and value >= limit)
