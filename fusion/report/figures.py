"""The report for programs: plain dictionaries for JSON; undefined values are null."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from fusion import pct
from fusion.pct.intervals import MCNEMAR, Interval, share_interval
from fusion.pct.metrics import Outcomes
from fusion.report.format_numbers import headline
from fusion.report.gate import Check
from fusion.report.report_data import Candidate, FlipComparison, FlipReport


def figures(report: FlipReport, checks: Sequence[Check] = ()) -> dict[str, Any]:
    """Return all figures of the report; rates are fractions, intervals [low, high] at 95 %."""
    known = {str(c): report.class_name(c) for c in sorted({c for net in _nets(report) for c in net.classes.tolist()})}
    names = {c: name for c, name in known.items() if name != c}
    return {
        "title": report.title,
        **({"class_names": names} if names else {}),
        "verdict": headline(report),
        "references": [_net(net) for net in report.references],
        "old": {**_net(report.old), "accuracy": pct.accuracy(report.old)},
        "new": [_candidate(candidate, report) for candidate in report.candidates],
        "featured": report.featured.name,
        "base": report.base.name if report.base else None,
        "nfr_difference": _interval(report.spared) if report.spared else None,
        "tests": {"mcnemar_p": MCNEMAR},
        "samples_of_unknown_classes": report.unknown,
        "gate": {"passed": all(check.passed for check in checks), "checks": [asdict(check) for check in checks]}
        if checks
        else None,
    }


def _nets(report: FlipReport) -> list[pct.Predictions]:
    return [*report.references, *(candidate.net for candidate in report.candidates)]


def report_json(report: FlipReport, checks: Sequence[Check] = ()) -> str:
    """Return the figures as JSON text; the same predictions give the same text."""
    return json.dumps(figures(report, checks), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _net(net: pct.Predictions) -> dict[str, Any]:
    meta: Mapping[str, Any] = {key: value for key, value in net.meta.items() if key != "name"}
    return {"name": net.name, "samples": len(net), "classes": net.classes.tolist(), "meta": meta}


def _candidate(candidate: Candidate, report: FlipReport) -> dict[str, Any]:
    return {
        **_net(candidate.net),
        "role": candidate.role,
        "accuracy": _interval(candidate.accuracy),
        "expected_calibration_error": candidate.calibration,
        "against_all": _comparison(candidate.whole, report),
        "against": {comparison.old.name: _comparison(comparison, report) for comparison in candidate.each},
    }


def _comparison(comparison: FlipComparison, report: FlipReport) -> dict[str, Any]:
    pair = comparison.pair
    return {
        "samples": len(pair.new),
        "outcomes": asdict(comparison.outcomes),
        "metrics": {name: _interval(interval) for name, interval in comparison.intervals.items()},
        "churn": _interval(comparison.churn),
        "mcnemar_p": comparison.p_value,
        "margin_weighted_flips": comparison.margin_weighted,
        "per_class": {str(c): _outcomes(counted) for c, counted in comparison.per_class.items()},
        "per_slice": {name: _outcomes(counted) for name, counted in comparison.per_slice(report.slices).items()},
        "negative_flips": [_flip(flip) for flip in pct.flips(old=pair.old, new=pair.new)],
    }


def _outcomes(counted: Outcomes) -> dict[str, Any]:
    interval = share_interval(counted.negative, len(counted))
    return {**asdict(counted), "negative_flip_rate": interval.value, "interval": [interval.low, interval.high]}


def _flip(flip: pct.Flip) -> dict[str, Any]:
    fields = asdict(flip)
    fields.pop("row")
    return fields


def _interval(interval: Interval) -> dict[str, Any]:
    return {"value": interval.value, "low": interval.low, "high": interval.high}
