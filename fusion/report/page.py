"""The report as one self-contained HTML page, without scripts or network access."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files

from fusion.pct.intervals import MCNEMAR
from fusion.pct.predictions import Predictions
from fusion.report import per_class, sections
from fusion.report.components import chart_row, scrolling
from fusion.report.curves import Curve
from fusion.report.format_numbers import commas
from fusion.report.gallery import gallery, missing_note
from fusion.report.gate import Check
from fusion.report.html import Child, Markup, concat, elem
from fusion.report.images import Album
from fusion.report.report_data import FlipReport

MEANINGS = (
    (
        "Negative flip",
        "The old net was right and the new one is wrong: something was forgotten. NFR is their share of the samples.",
    ),
    ("Positive flip", "The old net was wrong and the new one is right: something was learned."),
    (
        "Relative NFR",
        "NFR over what a new net of the same accuracy would show if it had nothing in common with the old one.",
    ),
    ("Trust kept (BTC)", "The share of the old net's right answers that are still right."),
    ("Churn", "The share of samples that the two nets answer differently: flips, and one wrong answer for another."),
    (
        "p",
        f"{MCNEMAR}: the probability of negative and positive flips at least this unequal. It is about accuracy: many "
        "flips that balance have a large p.",
    ),
    (
        "Interval",
        "95 %: Wilson's for shares, Tango's for differences of paired shares, and for the relative NFR a paired "
        "bootstrap over the samples (10,000 draws, fixed seed). All have a width where no flip was seen.",
    ),
    ("Calibration error", "The distance of confidence and accuracy, averaged over ten steps of confidence."),
)

# Names of classes and files come from others: should one ever get around the escaping, it cannot run or fetch anything.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def page(
    report: FlipReport,
    checks: Sequence[Check] = (),
    album: Album | None = None,
    command: str | None = None,
    curves: Sequence[Curve] = (),
) -> str:
    """Return the whole page.

    album    the samples' images; None for a page without images
    command  the command line that creates this page
    curves   of training; one with a new net's name has its colour
    """
    parts = _parts(report, album, command, curves)
    style = files("fusion.report").joinpath("style.css").read_text("utf-8")
    head = elem(
        "head",
        elem("meta", charset="utf-8"),
        elem("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        elem("meta", name="viewport", content="width=device-width, initial-scale=1"),
        elem("meta", name="color-scheme", content="light dark"),
        elem("meta", name="generator", content="fusion-report"),
        elem("link", rel="icon", href="data:,"),
        elem("title", report.title),
        elem("style", Markup(style)),
    )
    nav = elem("nav", *(elem("a", title, href=f"#{name}") for name, title, _ in parts), aria_label="Sections")
    body = elem(
        "body",
        elem("a", "Skip to the figures", href="#figures", class_="skip"),
        elem("main", sections.verdict(report, checks), nav, *(_section(*part) for part in parts)),
    )
    return f"<!doctype html>\n{elem('html', head, body, lang='en')}\n"


def _parts(
    report: FlipReport, album: Album | None, command: str | None, curves: Sequence[Curve]
) -> list[tuple[str, str, Markup]]:
    featured = report.featured.name
    parts = [("figures", "Figures", concat(sections.balance(report), sections.comparison_table(report)))]
    by_class = elem("div", elem("div", elem("h3", "True class and new answer"), per_class.flip_table(report)),
                   elem("div", elem("h3", "Share by class"), per_class.classes(report)), class_="pair")  # fmt: skip
    intro = elem("p", f"Answers that {featured} forgot, by true class (rows) and new answer (columns).", class_="quiet")
    parts.append(("classes", "Where it forgets", concat(intro, by_class)))
    by_slice = per_class.slices(report)
    if by_slice is not None:
        parts.append(("slices", "By slice", by_slice))
    album = album or Album(files("fusion.report"), budget=0)  # type: ignore[arg-type]
    forgot, learned = gallery(report, album), gallery(report, album, positive=True)
    more = elem("details", elem("summary", "Positive flips: newly right"), learned)
    parts.append(
        ("flips", "The flips", concat(elem("h3", "Negative flips: newly wrong"), forgot, more, missing_note(album)))
    )
    parts.append(("charts", "Confidence and trade-off", chart_row(sections.plots(report))))
    if curves:
        parts.append(("training", "Training", sections.training(report, curves)))
    parts.append(("again", "Sources", _provenance(report, command)))
    meanings = elem(
        "dl", *(concat(elem("dt", word), elem("dd", meaning)) for word, meaning in MEANINGS), class_="meanings"
    )
    parts.append(("words", "Glossary", meanings))
    return parts


def _section(name: str, title: str, content: Markup) -> Markup:
    return elem("section", elem("h2", title), content, id=name, aria_label=title)


def _provenance(report: FlipReport, command: str | None) -> Markup:
    nets = [("old", net) for net in report.references] + [(c.role, c.net) for c in report.candidates]
    again = (
        concat(elem("p", "Created by the command:"), scrolling("Command", elem("pre", elem("code", command))))
        if command
        else None
    )
    return concat(*(_net(role, net) for role, net in nets), again)


def _net(role: str, net: Predictions) -> Markup:
    known = ", ".join(map(str, net.classes.tolist()[:20])) + (", …" if len(net.classes) > 20 else "")
    rows: list[Child] = [_entry("samples", commas(len(net))), _entry("classes", f"{len(net.classes)}: {known}")]
    rows += [_entry(key, value) for key, value in sorted(net.meta.items()) if key != "name"]
    return elem("details", elem("summary", elem("b", net.name), f" {role}"), elem("dl", *rows, class_="facts"))


def _entry(key: str, value: object) -> Markup:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        value = ", ".join(value) or "none"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return elem("div", elem("dt", key), elem("dd", elem("code", text)))
