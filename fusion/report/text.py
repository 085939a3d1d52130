"""The report for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from fusion.pct.intervals import MCNEMAR, share_interval
from fusion.pct.metrics import Outcomes
from fusion.report.format_numbers import commas, explanation, headline, p_value, percent, span
from fusion.report.gate import Check
from fusion.report.report_data import FlipComparison, FlipReport
from prototxt.summary.text_table import format_table

HEAD = ("", "samples", "accuracy", "NFR", "95 % interval", "PFR", "churn", "relative NFR", "BTC", "p")

CLASSES = 5

SLICE_HEAD = ("slice", "samples", "old accuracy", "accuracy", "NFR", "95 % interval", "PFR")


def report_text(report: FlipReport, checks: Sequence[Check] = ()) -> str:
    """Return title, table, verdict and gate as plain text."""
    rows = [_old_row(report.old.name, report)]
    for candidate in report.candidates:
        rows.append(_row(candidate.name, candidate.whole))
        rows += [_row(f"  against {comparison.old.name}", comparison) for comparison in candidate.each]
    table = format_table(HEAD, rows, right=HEAD[1:])
    lines = [report.title, "", table, "", f"p: {MCNEMAR}.", headline(report), *explanation(report)]
    sliced = report.featured.whole.per_slice(report.slices)
    if sliced:
        rows = [_slice_row(name, counted) for name, counted in sliced.items()]
        lines += ["", format_table(SLICE_HEAD, rows, right=SLICE_HEAD[1:])]
    lines += _forgotten(report)
    if checks:
        lines += ["", *map(str, checks)]
    return "\n".join(lines).replace("\u00a0", " ") + "\n"


def _forgotten(report: FlipReport) -> list[str]:
    """Return the classes with the most negative flips, if any of them has a name."""
    counted = {c: found for c, found in report.featured.whole.per_class.items() if found.negative}
    worst = sorted(counted, key=lambda c: (-counted[c].negative, c))[:CLASSES]
    if not worst or all(report.class_name(c) == str(c) for c in worst):
        return []
    texts = [f"{report.class_name(c)} ({c}) {commas(counted[c].negative)} of {commas(len(counted[c]))}" for c in worst]
    return ["", f"Most negative flips by class: {', '.join(texts)}."]


def _old_row(name: str, report: FlipReport) -> tuple[str, ...]:
    whole = report.featured.whole
    accuracy = percent(whole.outcomes.value("accuracy_old"))
    return (f"{name} (old)", commas(len(whole.outcomes)), accuracy, *[""] * (len(HEAD) - 3))


def _slice_row(name: str, counted: Outcomes) -> tuple[str, ...]:
    nfr = share_interval(counted.negative, len(counted))
    old, new, flips = (percent(counted.value(x)) for x in ("accuracy_old", "accuracy_new", "positive_flip_rate"))
    return (name or "original", commas(len(counted)), old, new, percent(nfr.value), span(nfr), flips)


def _row(name: str, comparison: FlipComparison) -> tuple[str, ...]:
    found = comparison.intervals
    return (
        name,
        commas(len(comparison.outcomes)),
        percent(found["accuracy_new"].value),
        percent(found["negative_flip_rate"].value),
        span(found["negative_flip_rate"]),
        percent(found["positive_flip_rate"].value),
        percent(comparison.churn.value),
        percent(found["relative_nfr"].value, 1),
        percent(found["backward_trust_compatibility"].value),
        p_value(comparison.p_value),
    )
