"""Components of the page's sections: tables, charts side by side, legends, and each net's colour."""

from __future__ import annotations

from collections.abc import Sequence

from fusion.pct.intervals import Interval
from fusion.report.format_numbers import percent, span
from fusion.report.html import Child, Markup, elem
from fusion.report.report_data import Candidate, FlipReport


def chart_row(found: Sequence[tuple[str, str, Markup]]) -> Markup:
    """Return charts side by side, each with its title and caption."""
    drawn = [elem("figure", elem("h3", title), chart, elem("figcaption", note)) for title, note, chart in found]
    return elem("div", *drawn, class_="charts")


def legend(report: FlipReport, candidates: Sequence[Candidate], old: bool = True) -> Markup:
    """Return the legend of the nets' colours."""
    entries = [("before", "c-old")] if old else []
    entries += [(c.name, colour(report, c)) for c in candidates]
    return elem("ul", *(elem("li", elem("i", class_=f"swatch {c}"), name) for name, c in entries), class_="legend")


def colour(report: FlipReport, candidate: Candidate) -> str:
    """Return the style class that colours a new net everywhere on the page."""
    if candidate is report.featured:
        return "c-new"
    place = next(i for i, other in enumerate(report.candidates) if other is candidate)
    return f"c-{place % 6}"


def html_table(head: Sequence[str], rows: Sequence[Child], kind: str | None = None) -> Markup:
    """Return a table with its column heads."""
    columns = elem("tr", *(elem("th", name, scope="col") if name else elem("td") for name in head))
    return elem("table", elem("thead", columns), elem("tbody", *rows), class_=kind)


def measured(interval: Interval, digits: int = 2) -> Markup:
    """Return a table cell: a share with the ends of its interval below."""
    ends = elem("small", span(interval, digits)) if interval.low is not None else None
    return elem("td", percent(interval.value, digits), ends)


def scrolling(label: str, content: Markup) -> Markup:
    """Return a frame in which a wide table scrolls, also by keyboard."""
    return elem("div", content, class_="scroll", role="region", aria_label=label, tabindex="0")
