"""Figures as text, the same in the terminal and on the page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusion.pct.intervals import Interval

if TYPE_CHECKING:
    from fusion.report.report_data import FlipReport

NONE = "–"


def percent(value: float | None, digits: int = 2) -> str:
    """Format 0.0123 as '1.23 %', with a no-break space; None as a dash."""
    return NONE if value is None else f"{100 * value:.{digits}f}\u00a0%"


def span(interval: Interval, digits: int = 2) -> str:
    """Format the ends of an interval in percent: '1.02–1.44 %'."""
    if interval.low is None or interval.high is None:
        return NONE
    if interval.low < 0:
        return f"{signed_points(interval.low, digits)} to {signed_points(interval.high, digits)}\u00a0%"
    return f"{100 * interval.low:.{digits}f}–{100 * interval.high:.{digits}f}\u00a0%"


def signed_points(value: float, digits: int = 2) -> str:
    """Format a difference in percentage points with its sign, a true minus: '−0.31'."""
    text = f"{100 * value:+.{digits}f}"
    return text.replace("-", "\u2212")


def points(value: float | None, digits: int = 2) -> str:
    """Format a difference as '+0.12 points'."""
    return NONE if value is None else f"{signed_points(value, digits)}\u00a0points"


def commas(value: int) -> str:
    """Format 12345 as '12,345'."""
    return f"{value:,}"


def p_value(value: float | None) -> str:
    """Format the p-value of a test, never as 0."""
    if value is None:
        return NONE
    return "< 0.0001" if value < 0.0001 else f"{value:.4f}" if value < 0.01 else f"{value:.2f}"


def plural(count: int, one: str, many: str | None = None) -> str:
    """Format '1 answer', '2 answers'."""
    return f"{commas(count)} {one if count == 1 else many or one + 's'}"


def headline(report: FlipReport) -> str:
    """Return the verdict in one sentence."""
    featured = report.featured
    counted = featured.whole.outcomes
    had = counted.both_right + counted.negative
    if had == 0:
        return f"{report.old.name} had nothing right that {featured.name} could forget."
    forgotten = commas(counted.negative) if counted.negative else "none"
    return f"{featured.name} forgets {forgotten} of the {plural(had, 'answer')} that {report.originals} had right."


def explanation(report: FlipReport) -> list[str]:
    """Return the details of the headline: rates with intervals, the balance, the base, samples not counted."""
    featured = report.featured
    whole, counted = featured.whole, featured.whole.outcomes
    nfr, change = whole.intervals["negative_flip_rate"], whole.intervals["accuracy_difference"]
    sentences = [
        f"Negative flips: {percent(nfr.value)} of {plural(len(counted), 'sample')} (95\u00a0% interval {span(nfr)}).",
        f"In return {plural(counted.positive, 'answer is', 'answers are')} right that "
        f"{'were' if counted.positive != 1 else 'was'} wrong before; accuracy on these samples goes from "
        f"{percent(whole.intervals['accuracy_old'].value)} to {percent(whole.intervals['accuracy_new'].value)} "
        f"({points(change.value)}, interval {span(change)}).",
    ]
    if report.base is not None and report.spared is not None:
        sentences.append(_against_base(report, report.base.name, report.base.whole.outcomes.negative, report.spared))
    if report.unknown:
        sentences.append(
            f"{plural(report.unknown, 'sample is', 'samples are')} of classes that {report.originals} never knew; "
            f"they count only in the accuracy over all {plural(len(featured.net), 'sample')}, "
            f"{percent(featured.accuracy.value)}."
        )
    return sentences


def _against_base(report: FlipReport, name: str, before: int, spared: Interval) -> str:
    now = report.featured.whole.outcomes.negative
    rates = f"NFR {points(spared.value)}, interval {span(spared)}"
    if before == 0 or now == before:
        return f"{name} forgets {commas(before)} ({rates})."
    share = abs(now - before) / before
    less = f"{100 * share:.0f}\u00a0% {'fewer' if now < before else 'more'}"
    clear = spared.low is not None and spared.high is not None and (spared.low > 0 or spared.high < 0)
    doubt = "" if clear else "; too close to call"
    return f"{name} forgets {commas(before)}, so {report.featured.name} forgets {less} ({rates}{doubt})."
