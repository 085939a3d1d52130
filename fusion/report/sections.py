"""The page's sections about whole nets: verdict, figures, charts; each a function of the report."""

from __future__ import annotations

from collections.abc import Sequence

from fusion import pct
from fusion.pct.metrics import Outcomes
from fusion.report import charts
from fusion.report.components import chart_row, colour, html_table, legend, measured, scrolling
from fusion.report.curves import Curve, accuracies, losses, rates
from fusion.report.format_numbers import (
    commas,
    explanation,
    headline,
    p_value,
    percent,
    plural,
    points,
    span,
)
from fusion.report.gate import Check
from fusion.report.html import Markup, concat, elem
from fusion.report.report_data import Candidate, FlipComparison, FlipReport


def verdict(report: FlipReport, checks: Sequence[Check]) -> Markup:
    """Return the headline, its figures, and the result of the gate."""
    whole = report.featured.whole
    nfr, change = whole.intervals["negative_flip_rate"], whole.intervals["accuracy_difference"]
    accuracy, positive = whole.intervals["accuracy_new"], whole.intervals["positive_flip_rate"]
    tiles = [
        _tile("Negative flips", percent(nfr.value), span(nfr), "neg"),
        _tile("Positive flips", percent(positive.value), span(positive), "pos"),
        _tile("Accuracy", percent(accuracy.value), span(accuracy), ""),
        _tile("Change of accuracy", points(change.value), span(change), ""),
        _tile("Relative NFR", percent(whole.outcomes.value("relative_nfr"), 1), "100 % = unrelated nets", ""),
        _tile("Churn", percent(whole.churn.value), span(whole.churn), ""),
    ]
    samples = f"Over {plural(len(whole.outcomes), 'sample')}"
    if report.unknown:
        samples += f" of classes that {report.originals} {'know' if len(report.references) > 1 else 'knows'}"
        every = report.featured.accuracy
        below = f"{span(every)}, over all {plural(len(report.featured.net), 'sample')}"
        tiles.append(_tile("Accuracy on all classes", percent(every.value), below, ""))
        samples += "; the last card is over all samples"
    return elem(
        "header",
        elem("p", report.title, class_="kicker"),
        elem("h1", headline(report)),
        elem("p", " ".join(explanation(report)), class_="lead"),
        gate_box(checks),
        elem("p", f"{samples}.", class_="quiet"),
        elem("div", *tiles, class_="tiles"),
    )


def gate_box(checks: Sequence[Check]) -> Markup | None:
    """Return the result of the gate, limit by limit; None without a budget."""
    if not checks:
        return None
    broken = [check for check in checks if not check.passed]
    result = (
        f"The budget is broken: {len(broken)} of {plural(len(checks), 'limit')}." if broken else "The budget is kept."
    )
    order = sorted(checks, key=lambda check: check.passed)
    rows = [elem("li", str(check), class_="kept" if check.passed else "broken") for check in order]
    return elem(
        "div", elem("strong", result), elem("ul", *rows), class_=f"gate {'broken' if broken else 'kept'}", role="status"
    )


def balance(report: FlipReport) -> Markup:
    """Return bars of negative flips to the left and positive ones to the right, for every new net."""
    most = max([1, *(max(c.whole.outcomes.negative, c.whole.outcomes.positive) for c in report.shown)])
    rows = [_balance_row(c, c.whole.outcomes, most, report) for c in report.shown]
    head = elem(
        "div",
        elem("span"),
        elem("span", "forgot", class_="left"),
        elem("span", "learned", class_="right"),
        class_="row head",
    )
    return elem("div", head, *rows, class_="balance")


def comparison_table(report: FlipReport) -> Markup:
    """Return the table of every new net against all originals together and against each, with intervals."""
    head = (
        "",
        "negative flips",
        "positive flips",
        "accuracy",
        "before",
        "relative NFR",
        "churn",
        "trust kept (BTC)",
        "p (McNemar)",
        "samples",
    )
    rows = []
    for candidate in report.candidates:
        role = " (baseline)" if candidate.role == "baseline" else ""
        rows.append(_comparison_row(candidate.name + role, candidate.whole, f"net {colour(report, candidate)}"))
        if candidate in report.shown:
            rows += [_comparison_row(f"against {c.old.name}", c, "part") for c in candidate.each]
    return scrolling("Figures against each original", html_table(head, rows))


def plots(report: FlipReport) -> list[tuple[str, str, Markup]]:
    """Return (title, caption, chart) of the charts that there is data for."""
    found = []
    if len(report.candidates) > 1:
        marks = [
            charts.NetPoint(
                c.name, c.whole.intervals["error_rate_new"], c.whole.intervals["negative_flip_rate"], colour(report, c)
            )
            for c in report.candidates
        ]
        note = (
            "Each new net with its 95 % intervals. Down and to the left is better; the line joins the nets that none "
            "beats in both."
        )
        found.append(("Flips against error", note, charts.pareto(marks)))
    pair = report.featured.whole.pair
    change = charts.confidence_change(pair.old.probability_of_label, pair.new.probability_of_label)
    note = f"How far {report.featured.name} moved the probability of the true class; counts on a logarithmic scale."
    found.append(("Change of confidence", note, change))
    nets = [(report.old.name, "c-old", pct.reliability(report.old))]
    nets += [(c.name, colour(report, c), c.reliability) for c in report.shown]
    errors = ", ".join(f"{c.name} {percent(c.calibration, 1)}" for c in report.shown)
    note = f"Below the dashed line a net is overconfident. Expected calibration error: {errors}."
    if report.unknown:
        note += f" The old side is over {commas(len(report.old))} samples, the new nets over all of their files."
    found.append(("Calibration", note, concat(charts.calibration(nets), legend(report, report.shown))))
    return found


def training(report: FlipReport, curves: Sequence[Curve]) -> Markup:
    """Return the charts of loss, accuracy and learning rate over the iterations of each run."""
    colours = {candidate.name: colour(report, candidate) for candidate in report.candidates}
    shown = [(curve, colours.get(curve.name, f"c-{(i + 3) % 6}")) for i, curve in enumerate(curves)]
    found = [("Training loss", "Smoothed by the solver, on a logarithmic scale.", losses(shown))]
    accuracy = accuracies(shown)
    if accuracy is not None:
        found.append(
            ("Test accuracy", "Measured while training; the test before the first step is left out.", accuracy)
        )
    rate = rates(shown)
    if rate is not None:
        found.append(("Learning rate", "On a logarithmic scale.", rate))
    names = elem(
        "ul", *(elem("li", elem("i", class_=f"swatch {c}"), curve.name) for curve, c in shown), class_="legend"
    )
    return concat(names, chart_row(found))


def _tile(name: str, value: str, below: str, kind: str) -> Markup:
    return elem("div", elem("p", name), elem("strong", value, class_=kind or None), elem("small", below), class_="tile")


def _balance_row(candidate: Candidate, counted: Outcomes, most: int, report: FlipReport) -> Markup:
    left = elem(
        "span",
        elem("b", commas(counted.negative)),
        elem("i", style=f"--w:{counted.negative / most:.3f}"),
        class_="left",
    )
    right = elem(
        "span",
        elem("i", style=f"--w:{counted.positive / most:.3f}"),
        elem("b", commas(counted.positive)),
        class_="right",
    )
    name = elem("span", elem("i", class_=f"swatch {colour(report, candidate)}"), candidate.name, class_="name")
    return elem("div", name, left, right, class_="row")


def _comparison_row(name: str, comparison: FlipComparison, kind: str) -> Markup:
    found = comparison.intervals
    flips = [measured(found[metric]) for metric in ("negative_flip_rate", "positive_flip_rate")]
    return elem(
        "tr",
        elem("th", name, scope="row"),
        *flips,
        elem("td", percent(found["accuracy_new"].value), elem("small", points(found["accuracy_difference"].value))),
        elem("td", percent(found["accuracy_old"].value)),
        measured(found["relative_nfr"], 1),
        measured(comparison.churn),
        measured(found["backward_trust_compatibility"]),
        elem("td", p_value(comparison.p_value)),
        elem("td", commas(len(comparison.outcomes))),
        class_=kind,
    )
