"""The tables, bars and boxes of the page: each figure is in its own cell."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree

import numpy as np
import pytest

from fusion import pct
from fusion.report import Budget, Curve, check_budget, gather, per_class, sections
from fusion.report.components import colour, legend, measured
from fusion.report.format_numbers import explanation
from fusion.report.html import Markup
from fusion.report.report_data import FlipReport


def tree(markup: Markup) -> ElementTree.Element:
    return ElementTree.fromstring(f"<x>{markup}</x>")


def rows(markup: Markup) -> list[list[str]]:
    """The texts of a table's cells; the ends of an interval follow after a slash."""
    text = [["/".join(cell.itertext()) for cell in row] for row in tree(markup).iter("tr")]
    return [[cell.replace("\u00a0", " ") for cell in row] for row in text]


@pytest.fixture
def report(eight: Sequence[pct.Predictions]) -> FlipReport:
    old, base, new = eight
    return gather(old=[old], new=[base, new])


def test_the_table_of_comparisons(report: FlipReport) -> None:
    assert rows(sections.comparison_table(report)) == [
        ["", "negative flips", "positive flips", "accuracy", "before", "relative NFR", "churn", "trust kept (BTC)",
         "p (McNemar)", "samples"],
        ["base", "37.50 %/13.68–69.43 %", "12.50 %/2.24–47.09 %", "50.00 %/−25.00 points", "75.00 %",
         "100.0 %/44.4–160.0 %", "50.00 %/21.52–78.48 %", "50.00 %/18.76–81.24 %", "0.62", "8"],
        ["new", "25.00 %/7.15–59.07 %", "12.50 %/2.24–47.09 %", "62.50 %/−12.50 points", "75.00 %",
         "88.9 %/0.0–160.0 %", "50.00 %/21.52–78.48 %", "66.67 %/30.00–90.32 %", "1.00", "8"],
    ]  # fmt: skip


def test_a_baseline_is_marked_and_each_original_has_its_row(eight: Sequence[pct.Predictions]) -> None:
    old, base, new = eight
    twice = gather(old=[old, base], new=[new], baseline=base.named("plain"))
    names = [row[0] for row in rows(sections.comparison_table(twice))]
    assert names == ["", "plain (baseline)", "against old", "against base", "new", "against old", "against base"]
    kinds = [row.get("class") for row in tree(sections.comparison_table(twice)).iter("tr")]
    assert kinds == [None, "net c-0", "part", "part", "net c-new", "part", "part"]


def test_the_figures_by_class(report: FlipReport) -> None:
    assert rows(per_class.classes(report)) == [
        ["class", "samples", "negative flips"],
        ["ant", "2", "50.00 % (1)/50.00 % (1)"],
        ["bee", "2", "0.00 % (0)/0.00 % (0)"],
        ["cat", "4", "50.00 % (2)/25.00 % (1)"],
    ]
    widths = re.findall(r'class="(c-\w+)" style="--w:([\d.]+)"', per_class.classes(report))
    assert widths == [
        ("c-0", "1.000"), ("c-new", "1.000"), ("c-0", "0.000"), ("c-new", "0.000"), ("c-0", "1.000"), ("c-new", "0.500")
    ]  # fmt: skip
    assert re.findall(r"swatch ([\w-]+)", per_class.classes(report)) == ["c-0", "c-new"]
    alone = gather(old=[report.old], new=[report.featured.net])
    assert "legend" not in per_class.classes(alone)
    assert "highest rates" not in per_class.classes(alone)


def test_the_flips_by_class_and_answer(report: FlipReport) -> None:
    assert rows(per_class.flip_table(report)) == [
        ["is \\ now", "ant", "bee", "cat", "all"],
        ["ant", "", "1", "", "1"],
        ["bee", "", "", "", "0"],
        ["cat", "1", "", "", "1"],
    ]
    kept = gather(old=[report.old], new=[report.old])
    assert "No answer was forgotten, in any class." in per_class.flip_table(kept)


def many_classes(count: int, each: Sequence[int]) -> FlipReport:
    """Class i loses `each[i]` of its ten samples to the next class."""
    labels = np.repeat(np.arange(count), 10)
    wrong = np.concatenate([np.arange(10) < lost for lost in each])
    keys = [str(number) for number in range(len(labels))]
    old = pct.Predictions(keys, labels, np.eye(count)[labels], meta={"name": "old"})
    new = pct.Predictions(keys, labels, np.eye(count)[(labels + wrong) % count], meta={"name": "new"})
    return gather(old=[old], new=[new])


def test_a_cell_is_darker_the_more_flips_it_has() -> None:
    markup = per_class.flip_table(many_classes(24, [8, 4, *[0] * 22]))
    cells = re.findall(r'<td style="--h:([\d.]+)">(\d+)', markup)
    assert cells == [("1.000", "8"), (f"{0.5**0.7:.3f}", "4")]
    assert [row[0] for row in rows(markup)][1:] == [str(number) for number in range(24)]
    own = [[cell.get("class") for cell in row].index("own") - 1 for row in list(tree(markup).iter("tr"))[1:]]
    assert own == list(range(24))


def test_many_classes_are_listed_as_pairs() -> None:
    lost = [3, 9, 0, 9, *[1] * 21]
    markup = per_class.flip_table(many_classes(25, lost))
    found = rows(markup)
    assert found[:4] == [["is", "now", "flips"], ["1", "2", "9"], ["3", "4", "9"], ["0", "1", "3"]]
    assert len(found) == 21
    assert "The 20 most frequent of 24 pairs." in markup


def test_of_many_classes_those_with_the_highest_rates_are_listed() -> None:
    lost = [1, 0, 2, 0, *[1] * 28]
    markup = per_class.classes(many_classes(32, lost))
    found = [row[0] for row in rows(markup)[1:]]
    assert found == [str(number) for number in range(32) if number not in (1, 3)]
    assert rows(markup)[2][2] == "20.00 % (2)"
    assert "The 30 classes with the highest rates." in markup
    assert "highest rates" not in per_class.classes(many_classes(30, [1] * 30))


def test_the_figures_by_slice(report: FlipReport) -> None:
    found = per_class.slices(report)
    assert found is not None
    assert rows(found) == [
        ["slice", "samples", "old accuracy", "new accuracy", "negative flips", "positive flips"],
        ["original", "4", "75.00 %", "75.00 %", "25.00 %/4.56–69.94 %", "25.00 %"],
        ["noise", "4", "75.00 %", "50.00 %", "25.00 %/4.56–69.94 %", "0.00 %"],
    ]


def test_the_balance(report: FlipReport) -> None:
    found = [["".join(cell.itertext()) for cell in row] for row in tree(sections.balance(report))[0]]
    assert found == [["", "forgot", "learned"], ["base", "3", "1"], ["new", "2", "1"]]
    assert re.findall(r"--w:([\d.]+)", sections.balance(report)) == ["1.000", "0.333", "0.667", "0.333"]
    same = gather(old=[report.old], new=[report.old])
    assert re.findall(r"--w:([\d.]+)", sections.balance(same)) == ["0.000", "0.000"]
    learned = gather(old=[report.featured.net], new=[report.old])
    assert re.findall(r"--w:([\d.]+)", sections.balance(learned)) == ["0.500", "1.000"]


def test_the_tiles(report: FlipReport) -> None:
    tiles = [tile for tile in tree(sections.verdict(report, [])).iter("div") if tile.get("class") == "tile"]
    assert [[(part.text or "").replace("\u00a0", " ") for part in tile] for tile in tiles] == [
        ["Negative flips", "25.00 %", "7.15–59.07 %"],
        ["Positive flips", "12.50 %", "2.24–47.09 %"],
        ["Accuracy", "62.50 %", "30.57–86.32 %"],
        ["Change of accuracy", "−12.50 points", "−52.78 to +32.85 %"],
        ["Relative NFR", "88.9 %", "100 % = unrelated nets"],
        ["Churn", "50.00 %", "21.52–78.48 %"],
    ]
    assert [tile[1].get("class") for tile in tiles] == ["neg", "pos", None, None, None, None]


def test_the_gate_lists_broken_limits_first(report: FlipReport) -> None:
    markup = sections.gate_box(check_budget(report, Budget(max_nfr=0.3, min_accuracy=0.1)))
    assert markup is not None
    items = [(item.get("class"), (item.text or "").split(" is ")[0]) for item in tree(markup).iter("li")]
    assert items == [
        ("broken", "BROKEN: NFR of base"),
        ("kept", "kept: accuracy of base"),
        ("kept", "kept: accuracy of new"),
        ("kept", "kept: NFR of new"),
    ]
    assert "The budget is broken: 1 of 4 limits." in markup
    assert 'class="gate broken"' in markup
    kept = sections.gate_box(check_budget(report, Budget(max_nfr=0.9)))
    assert kept is not None
    assert "The budget is kept." in kept
    assert 'class="gate kept"' in kept
    assert sections.gate_box([]) is None


def test_a_net_has_one_colour_everywhere(report: FlipReport) -> None:
    many = gather(old=[report.old], new=[report.featured.net.named(f"net {number}") for number in range(9)])
    assert [colour(many, net) for net in many.candidates] == [*[f"c-{n}" for n in (0, 1, 2, 3, 4, 5, 0, 1)], "c-new"]
    drawn = legend(report, report.shown)
    assert re.findall(r'swatch ([\w-]+)"></i>(\w+)', drawn) == [("c-old", "before"), ("c-0", "base"), ("c-new", "new")]
    assert re.findall(r"swatch ([\w-]+)", legend(report, report.shown, old=False)) == ["c-0", "c-new"]


def test_a_share_without_an_interval_has_no_ends() -> None:
    assert measured(pct.Interval(None, None, None)) == "<td>–</td>"
    assert measured(pct.Interval(0.5, 0.25, 0.75), 0) == "<td>50\u00a0%<small>25–75\u00a0%</small></td>"


def test_the_charts_that_there_is_data_for(report: FlipReport) -> None:
    assert [title for title, _, _ in sections.plots(report)] == [
        "Flips against error", "Change of confidence", "Calibration"
    ]  # fmt: skip
    alone = gather(old=[report.old], new=[report.featured.net])
    assert [title for title, _, _ in sections.plots(alone)] == ["Change of confidence", "Calibration"]
    _, note, _ = sections.plots(report)[2]
    assert note.replace("\u00a0", " ").endswith("calibration error: base 40.0 %, new 22.6 %.")
    _, _, change = sections.plots(report)[1]
    assert "2 samples lost more than half, 0 gained as much." in change


def test_curves_have_the_colours_of_their_nets(report: FlipReport) -> None:
    curves = [Curve("other", [(0, 1.0)]), Curve("new", [(0, 1.0)], {"acc": [(0, 0.5)]}, [(0, 0.1)])]
    markup = sections.training(report, curves)
    assert re.findall(r'swatch ([\w-]+)"></i>(\w+)', markup) == [("c-3", "other"), ("c-new", "new")]
    assert re.findall("<h3>([^<]+)", markup) == ["Training loss", "Test accuracy", "Learning rate"]
    more = [Curve(f"run {number}", [(0, 1.0)]) for number in range(4)]
    assert re.findall(r"swatch ([\w-]+)", sections.training(report, more)) == ["c-3", "c-4", "c-5", "c-0"]
    assert re.findall("<h3>([^<]+)", sections.training(report, more)) == ["Training loss"]


def test_a_clear_difference_is_not_too_close_to_call() -> None:
    clear = many_classes(4, [0, 0, 0, 0])
    worse = many_classes(4, [6, 6, 6, 6]).featured.net.named("worse")
    assert explanation(gather(old=[clear.old], new=[worse, clear.featured.net]))[-1].startswith(
        "worse forgets 24, so new forgets 100\u00a0% fewer (NFR −60.00"
    )
    back = explanation(gather(old=[clear.old], new=[worse, worse.named("other")]))[-1]
    assert back.startswith("worse forgets 24 (NFR +0.00")
    milder = many_classes(4, [6, 1, 0, 0]).featured.net.named("milder")
    more = explanation(gather(old=[clear.old], new=[milder, worse]))[-1]
    assert "so worse forgets 243\u00a0% more (NFR +42.50" in more
    assert "too close" not in more
    near = many_classes(4, [6, 2, 0, 0]).featured.net.named("near")
    assert explanation(gather(old=[clear.old], new=[milder, near]))[-1].endswith("; too close to call).")
