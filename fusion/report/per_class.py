"""The page's sections on subsets of the samples: the featured net's flips by class and by slice."""

from __future__ import annotations

from collections.abc import Sequence

from fusion import pct
from fusion.pct.intervals import share_interval
from fusion.pct.metrics import Outcomes
from fusion.report.components import colour, html_table, legend, measured, scrolling
from fusion.report.format_numbers import NONE, commas, percent, plural
from fusion.report.html import Markup, concat, elem
from fusion.report.report_data import FlipReport

MATRIX_CLASSES = 24
BAR_CLASSES = 30


def flip_table(report: FlipReport) -> Markup:
    """Return the negative flips of the featured net by true class and new answer."""
    pair = report.featured.whole.pair
    classes, counts = pct.flip_matrix(old=pair.old, new=pair.new)
    most = int(counts.max(initial=0))
    if most == 0:
        return elem("p", "No answer was forgotten, in any class.", class_="quiet")
    names = [report.class_name(c) for c in classes]
    if len(classes) > MATRIX_CLASSES:
        return _worst_pairs(names, counts.tolist())
    rows = []
    for c, name, row in zip(classes, names, counts.tolist(), strict=True):
        cells = [_heat(value, most, own=c == answer) for answer, value in zip(classes, row, strict=True)]
        rows.append(elem("tr", elem("th", name, scope="row"), *cells, elem("td", commas(sum(row)), class_="sum")))
    return scrolling("Negative flips by class", html_table(("is \\ now", *names, "all"), rows, "matrix"))


def classes(report: FlipReport) -> Markup:
    """Return the NFR by true class, the featured net beside the base."""
    shown = [c for c in (report.base, report.featured) if c is not None]
    found = [candidate.whole.per_class for candidate in shown]
    order = sorted(found[-1], key=lambda c: (-(found[-1][c].value("negative_flip_rate") or 0), c))
    order = sorted(order[:BAR_CLASSES])
    values = [counted[c].value("negative_flip_rate") or 0 for counted in found for c in order]
    most = max([*values, 1e-9])
    rows = []
    for c in order:
        bars = [
            _bar(counted[c], most, colour(report, candidate)) for candidate, counted in zip(shown, found, strict=True)
        ]
        rows.append(
            elem(
                "tr",
                elem("th", report.class_name(c), scope="row"),
                elem("td", commas(len(found[-1][c])), class_="n"),
                elem("td", *bars, class_="bars"),
            )
        )
    note = f"The {BAR_CLASSES} classes with the highest rates." if len(found[-1]) > BAR_CLASSES else None
    return concat(
        legend(report, shown, old=False) if len(shown) > 1 else None,
        html_table(("class", "samples", "negative flips"), rows, "classes"),
        elem("p", note, class_="quiet") if note else None,
    )


def slices(report: FlipReport) -> Markup | None:
    """Return the featured net's figures by variant of the samples; None if there is only one."""
    found = report.featured.whole.per_slice(report.slices)
    if not found:
        return None
    head = ("slice", "samples", "old accuracy", "new accuracy", "negative flips", "positive flips")
    rows = []
    for name, counted in found.items():
        metrics = ("accuracy_old", "accuracy_new", "positive_flip_rate")
        old, new, learned = (elem("td", percent(counted.value(metric))) for metric in metrics)
        forgot = measured(share_interval(counted.negative, len(counted)))
        rows.append(
            elem(
                "tr",
                elem("th", name or "original", scope="row"),
                elem("td", commas(len(counted))),
                *(old, new, forgot, learned),
            )
        )
    return scrolling("By slice", html_table(head, rows))


def _heat(value: int, most: int, own: bool) -> Markup:
    if own:
        return elem("td", class_="own")
    return elem("td", commas(value) if value else "", style=f"--h:{(value / most) ** 0.7:.3f}" if value else None)


def _worst_pairs(names: Sequence[str], counts: list[list[int]], most: int = 20) -> Markup:
    pairs = [(value, names[i], names[j]) for i, row in enumerate(counts) for j, value in enumerate(row) if value]
    rows = [
        elem("tr", elem("th", label, scope="row"), elem("td", answer), elem("td", commas(value)))
        for value, label, answer in sorted(pairs, key=lambda pair: (-pair[0], pair[1], pair[2]))[:most]
    ]
    note = elem("p", f"The {len(rows)} most frequent of {plural(len(pairs), 'pair')}.", class_="quiet")
    return concat(scrolling("Negative flips by class", html_table(("is", "now", "flips"), rows, "names")), note)


def _bar(counted: Outcomes, most: float, kind: str) -> Markup:
    value = counted.value("negative_flip_rate")
    text = NONE if value is None else f"{percent(value)} ({commas(counted.negative)})"
    return elem("span", elem("i", class_=kind, style=f"--w:{(value or 0) / most:.3f}"), elem("b", text))
