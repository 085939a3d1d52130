"""The study's tables in Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from study.figures import Figures, cuts, shown
from study.plan import ENSEMBLE, FOUR, METHODS, NONE, OTHERS, SAME, Method, Size, Update
from timing import machine, table

Found = Mapping[tuple[Update, Method], Figures]
# Error and relative NFR in per cent, ImageNet: Yan et al. 2021, ResNet-18 to ResNet-18, as far as they were published.
PUBLISHED = {
    "none": (30.29, 6.44, 30.5),
    "naive": (29.34, 5.72, 28.0),
    "BCT": (29.66, 6.39, 30.9),
    "FD-KL": (30.63, 2.50, 11.7),
    "FD-LM": (30.47, 2.35, 11.1),
    "ensemble": (25.98, 1.70, 8.9),
}
_HEAD = ("method", "weight", "error old, %", "error new, %", "NFR, %", "relative NFR, %", "NFR cut by, %")


class Chosen(NamedTuple):
    """Figures of all weights that were tried, and the chosen weights."""

    tried: Mapping[Method, Mapping[float, Figures]]
    weights: Mapping[Method, float]


def page(size: Size, most: Chosen, fused: Chosen, found: Found) -> str:
    """Return all tables, each under a title."""
    parts = [
        f"**Same architecture** ({size.seeds} pairs of nets; ± is the 95 % interval over pairs):",
        same_table(most.weights, found),
        f"**Other updates** ({size.fewer} pairs each; weights as above, with separate ones for the fused net):",
        others_table(most, fused, found),
        "**Choice of the weights** (pairs that are not reported, measured on 5,000 held-out training images):",
        tried_table(most),
        "The same for the fused net:",
        tried_table(fused),
        machine(),
    ]
    return "\n\n".join(parts) + "\n"


def same_table(chosen: Mapping[Method, float], found: Found) -> str:
    """Return the table of every method, beside the published results."""
    rows = []
    for method in METHODS:
        published = PUBLISHED.get(method.title)
        beside = f"{100 * (1 - published[1] / PUBLISHED['none'][1]):.0f}" if published else "not given"
        rows.append([*_row(method, chosen.get(method), found[SAME, method], found[SAME, NONE]), beside])
    return table([*_HEAD, "published cut, %"], rows)


def digits_table(chosen: Mapping[Method, float], found: Mapping[Method, Figures]) -> str:
    """Return the table of the methods on scikit-learn's digits."""
    return table(["method", *_HEAD[1:]], [_row(m, chosen.get(m), f, found[NONE]) for m, f in found.items()])


def others_table(most: Chosen, fused: Chosen, found: Found) -> str:
    """Return the table of the four methods that all updates have, and of those that do not apply."""
    rows = []
    for update in OTHERS:
        for method in FOUR:
            weight = (fused if update.fused else most).weights.get(method)
            rows.append([update.title, *_row(method, weight, found[update, method], found[update, NONE])])
        absent = [method for method in METHODS if method not in FOUR and method.share is None]
        if update.fused:
            rows.append([update.title, "CNA, BCT", "n/a: the bodies are frozen", *["n/a"] * 5])
            absent = [method for method in absent if method.title not in ("CNA", "BCT")]
        rows.append([update.title, ", ".join(method.title for method in absent), *["not run"] * 6])
    return table(["update", *_HEAD], rows)


def tried_table(of: Chosen) -> str:
    """Return the table of weights with their figures, the chosen ones bold."""
    rows = []
    tried, chosen = of
    for method, weights in tried.items():
        for weight, figures in sorted(weights.items()):
            mark = "**" if method.weights and chosen[method] == weight else ""
            rows.append([method.title, f"{mark}{weight:g}{mark}" if method.weights else "-",
                         shown(figures.error), shown(figures.nfr)])  # fmt: skip
    return table(["method", "weight", "error new, %", "NFR, %"], rows)


def _row(method: Method, weight: float | None, figures: Figures, untreated: Figures) -> list[str]:
    given = f"{weight:g}" if weight and method not in (NONE, ENSEMBLE) else "-"
    cut = "-" if method == NONE else shown(cuts(figures, untreated), 0)
    return [method.title, given, shown(figures.error_old), shown(figures.error), shown(figures.nfr),
            shown(figures.relative, 1), cut]  # fmt: skip
