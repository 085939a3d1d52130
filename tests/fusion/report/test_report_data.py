"""The figures that text, JSON and page share, and the budget held against them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from fusion import pct
from fusion.errors import ReportError
from fusion.report import (
    Budget,
    FlipReport,
    check_budget,
    figures,
    gather,
    parse_rate,
    read_budget,
    report_json,
    report_text,
)
from fusion.report.format_numbers import commas, explanation, headline, p_value, percent, plural, points, span
from fusion.report.gate import Check

Nets = dict[str, pct.Predictions]


def report(nets: Nets, **rest: object) -> FlipReport:
    return gather(old=[nets["odd"], nets["even"]], new=[nets["plain"], nets["focal"]], **rest)


def test_the_originals_together_cover_all(nets: Nets) -> None:
    found = report(nets)
    whole = found.featured.whole
    both = pct.union([nets["odd"], nets["even"]])
    assert len(whole.outcomes) == 200
    assert whole.outcomes == pct.outcomes(old=both, new=nets["focal"])
    assert [len(c.outcomes) for c in found.featured.each] == [100, 100]
    assert sum(c.outcomes.negative for c in found.featured.each) == whole.outcomes.negative
    assert (found.base.name, found.featured.name, found.unknown) == ("plain", "focal", 0)
    change = pct.negative_flip_rate(old=both, new=nets["focal"]) - pct.negative_flip_rate(old=both, new=nets["plain"])
    assert found.spared.value == pytest.approx(change)
    assert found.spared.low < change < found.spared.high < 0


def test_one_old_net_is_not_listed_twice(nets: Nets) -> None:
    found = gather(old=[nets["plain"]], new=[nets["focal"]])
    assert found.featured.each == ()
    assert found.base is None
    assert "focal forgets" in headline(found)
    assert "that plain had right" in headline(found)


def test_samples_of_classes_that_nobody_knew(nets: Nets) -> None:
    found = gather(old=[nets["odd"]], new=[nets["focal"]])
    assert found.unknown == 100
    accuracy = percent(pct.accuracy(nets["focal"]))
    expected = "100 samples are of classes that odd never knew; they count only in the accuracy over all 200 samples, "
    assert explanation(found)[-1] == f"{expected}{accuracy}."


def test_names_are_told_apart(nets: Nets) -> None:
    found = gather(old=[nets["odd"], nets["even"]], new=[nets["focal"]], baseline=nets["focal"])
    assert [c.name for c in found.candidates] == ["focal", "focal (2)"]
    assert [c.role for c in found.candidates] == ["baseline", "new"]


def test_new_nets_over_different_samples_are_refused(nets: Nets) -> None:
    with pytest.raises(ReportError, match="different samples"):
        gather(old=[nets["odd"]], new=[nets["plain"].take(range(100)), nets["focal"]])
    with pytest.raises(ReportError, match="at least one old and one new"):
        gather(old=[], new=[nets["focal"]])


def test_extremes_read_well() -> None:
    keys, labels = ["a", "b"], [0, 1]
    good = pct.Predictions(keys, labels, np.eye(2), meta={"name": "good"})
    bad = pct.Predictions(keys, labels, 1 - np.eye(2), meta={"name": "bad"})
    assert headline(gather(old=[good], new=[good])) == "good (2) forgets none of the 2 answers that good had right."
    assert "had nothing right that good could forget" in headline(gather(old=[bad], new=[good]))
    assert "2 answers are right that were wrong before" in explanation(gather(old=[bad], new=[good]))[1]
    twice = explanation(gather(old=[good], new=[bad, bad]))
    assert twice[-1].startswith("bad forgets 2 (NFR +0.00\u00a0points")
    more = explanation(gather(old=[good], new=[good, bad]))
    assert more[-1].startswith("good (2) forgets 0 (")


def test_text_has_a_row_per_comparison(nets: Nets) -> None:
    lines = report_text(report(nets, title="Digits")).splitlines()
    assert lines[0] == "Digits"
    assert [line.split("  ")[0] for line in lines[4:7]] == ["odd ∪ even (old)", "plain", ""]
    assert sum("against odd" in line for line in lines) == 2
    assert len({len(line) for line in lines[2:4] + lines[5:11]}) == 1


def test_json_is_complete_and_finite(nets: Nets) -> None:
    found = report(nets)
    text = report_json(found, check_budget(found, Budget(max_nfr=0.5)))
    assert text == report_json(report(nets), check_budget(found, Budget(max_nfr=0.5)))
    read = json.loads(text, parse_constant=pytest.fail)
    focal = read["new"][1]
    assert (
        focal["against_all"]["metrics"]["negative_flip_rate"]
        == found.featured.whole.intervals["negative_flip_rate"]._asdict()
    )
    assert len(focal["against_all"]["negative_flips"]) == found.featured.whole.outcomes.negative
    assert set(focal["against"]) == {"odd", "even"}
    assert read["gate"]["passed"] is True
    assert figures(found)["gate"] is None


@pytest.mark.parametrize(
    ("budget", "broken"),
    [
        (Budget(), []),
        (Budget(max_nfr=0.9, min_accuracy=0.1), []),
        (Budget(max_nfr=0.1), ["NFR of plain"]),
        (Budget(max_nfr_upper=0.15), ["upper end of the 95\u00a0% interval of the NFR of plain"]),
        (
            Budget(max_nfr=0.06, max_nfr_upper=0.06),
            [
                "NFR of plain",
                *(f"upper end of the 95\u00a0% interval of the NFR of {name}" for name in ("plain", "focal")),
            ],
        ),
        (Budget(min_accuracy=0.9), ["accuracy of plain"]),
        (Budget(min_accuracy=1.0), ["accuracy of plain", "accuracy of focal"]),
        (Budget(max_weighted_nfr=0.3, severity={1: 1e9}), []),
        (Budget(references={"odd": 0.0}), ["NFR of plain against odd", "NFR of focal against odd"]),
        (Budget(classes={1: 0.99}), []),
    ],
)
def test_the_budget(nets: Nets, budget: Budget, broken: list[str]) -> None:
    assert [found.what for found in check_budget(report(nets), budget) if not found.passed] == broken


def test_the_baseline_need_not_keep_the_budget(nets: Nets) -> None:
    found = gather(old=[nets["odd"], nets["even"]], new=[nets["focal"]], baseline=nets["plain"])
    assert all(entry.passed for entry in check_budget(found, Budget(max_nfr=0.1)))


def test_an_undefined_value_keeps_no_limit(nets: Nets) -> None:
    odd = nets["odd"].take(nets["odd"].labels != 5)
    new = nets["focal"].take(np.isin(nets["focal"].labels, [0, 1, 3]))
    (entry,) = check_budget(gather(old=[odd], new=[new]), Budget(classes={5: 1.0}))
    assert (entry.value, entry.passed) == (None, False)
    assert "–" in str(entry)


def test_limits_on_what_is_not_there(nets: Nets) -> None:
    with pytest.raises(ReportError) as caught:
        check_budget(
            report(nets), Budget(references={"old": 0.1}, classes={9: 0.1}, max_weighted_nfr=1, severity={8: 2})
        )
    assert len(caught.value.errors) == 3


def test_a_budget_file(tmp_path: Path) -> None:
    path = tmp_path / "budget.json"
    given = {
        "max_nfr": "0.5%",
        "min_accuracy": 0.98,
        "severity": {"3": 5},
        "references": {"odd": "1%"},
        "classes": {"7": 0},
        "max_weighted_nfr": 0.02,
    }
    path.write_text(json.dumps(given), "utf-8")
    assert read_budget(path) == Budget(0.005, 0.98, 0.02, {3: 5.0}, {"odd": 0.01}, {7: 0.0})
    path.write_text('{"max_nfr": 5, "min_acuracy": 1, "severity": 3}', "utf-8")
    with pytest.raises(ReportError) as caught:
        read_budget(path)
    assert [str(error).split(": ")[1] for error in caught.value.errors] == ["max_nfr", "min_acuracy", "severity"]
    for weights, message in (('{"3": 5}', "weighs nothing"), ('{"3": -1}', "0 or more"), ('{"3": NaN}', "0 or more")):
        path.write_text(f'{{"severity": {weights}}}', "utf-8")
        with pytest.raises(ReportError, match=message):
            read_budget(path)
    for text, message in (("[]", "JSON"), ("{", "JSON"), ("{}", "limits nothing")):
        path.write_text(text, "utf-8")
        with pytest.raises(ReportError, match=message):
            read_budget(path)


def test_a_limit_just_missed_reads_so() -> None:
    missed = Check("NFR", 0.00501, 0.005, False, False)
    assert str(missed) == "BROKEN: NFR is 0.501\u00a0%, at most 0.500\u00a0% allowed"
    assert str(Check("NFR", 0.005, 0.005, False, True)).endswith("0.50\u00a0%, at most 0.50\u00a0% allowed")


def test_rates() -> None:
    assert [parse_rate(x) for x in ("0.5%", "0.005", 0, "100 %")] == [0.005, 0.005, 0, 1]
    for wrong in ("2", "-1%", "many", "1", 1):
        with pytest.raises(ValueError, match=r"between|could not convert|write 1% or 100%"):
            parse_rate(wrong)


def test_figures_in_words() -> None:
    assert percent(0.01234) == "1.23\u00a0%"
    assert percent(None) == points(None) == span(pct.Interval(None, None, None)) == p_value(None) == "–"
    assert points(-0.0031) == "−0.31\u00a0points"
    assert [p_value(x) for x in (1e-9, 0.0001, 0.00312, 0.01, 0.5)] == ["< 0.0001", "0.0001", "0.0031", "0.01", "0.50"]
    assert (percent(0.5, 0), points(0.5, 0)) == ("50\u00a0%", "+50\u00a0points")
    assert span(pct.Interval(0.5, 0.0, 1.0)) == "0.00–100.00\u00a0%"
    assert span(pct.Interval(0.5, -0.001, 1.0), 1) == "−0.1 to +100.0\u00a0%"
    assert span(pct.Interval(0.5, 0.1, None)) == span(pct.Interval(0.5, None, 0.1)) == "–"
    assert [plural(n, "flip") for n in (0, 1, 2, 1234)] == ["0 flips", "1 flip", "2 flips", "1,234 flips"]
    assert plural(2, "answer is", "answers are") == "2 answers are"
    assert commas(1234567) == "1,234,567"


def still(count: int, right: int) -> pct.Predictions:
    """A net that is right on the first samples."""
    labels = np.arange(count) % 2
    answers = np.where(np.arange(count) < right, labels, 1 - labels)
    return pct.Predictions([str(i) for i in range(count)], labels, np.eye(2)[answers], meta={"name": "still"})


def test_no_flip_among_few_samples_keeps_no_upper_limit() -> None:
    found = gather(old=[still(20, 12)], new=[still(20, 12)])
    measured, upper = check_budget(found, Budget(max_nfr=0.01, max_nfr_upper=0.01))
    assert (measured.passed, measured.value) == (True, 0)
    assert (upper.passed, upper.value) == (False, pytest.approx(0.161125, abs=1e-6))
    assert check_budget(found, Budget(max_nfr_upper=0.17))[0].passed
    change = found.featured.whole.intervals["accuracy_difference"]
    assert (change.low, change.high) == (pytest.approx(-0.161125), pytest.approx(0.161125))
    assert "(+0.00\u00a0points, interval \u221216.11 to +16.11\u00a0%)" in explanation(found)[1]


def test_the_gate_of_a_job_is_a_budget(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text('pct = "auto"\n[gate]\nmax_nfr = "0.5%"\nclasses = { 7 = 0.1 }\n')
    assert read_budget(path) == Budget(max_nfr=0.005, classes={7: 0.1})
    path.write_text("[gate]\nmax_nrf = 0.1\n")
    with pytest.raises(ReportError, match=r"job.toml: max_nrf: no such limit\n  hint: did you mean 'max_nfr'\?"):
        read_budget(path)
    path.write_text("num_output = 3\n")
    with pytest.raises(ReportError, match=r"no budget in this file\n  hint: it is a table: \[gate\]"):
        read_budget(path)


def test_the_gate_has_passed_where_every_check_has(nets: Nets) -> None:
    found = report(nets)
    for limits, passed in (((0.9, 0.1), True), ((0.0, 0.1), False), ((0.9, 1.0), False), ((0.0, 1.0), False)):
        checks = check_budget(found, Budget(max_nfr=limits[0], min_accuracy=limits[1]))
        assert figures(found, checks)["gate"]["passed"] is passed
    assert figures(found)["gate"] is None


def test_churn_counts_every_changed_answer() -> None:
    labels = [0, 0, 0, 0, 2]
    old = pct.Predictions(list("abcde"), labels, np.eye(3)[[0, 1, 1, 2, 2]], meta={"name": "old"})
    new = pct.Predictions(list("edcba"), labels[::-1], np.eye(3)[[2, 2, 2, 0, 0]], meta={"name": "new"})
    # a stays right, b is learnt, c changes from one wrong answer to another, d stays wrong, e stays right
    assert pct.churn(old=old, new=new) == pytest.approx(2 / 5)
    assert pct.negative_flip_rate(old=old, new=new) == 0
    found = gather(old=[old], new=[new])
    assert found.featured.whole.churn == pct.share_interval(2, 5)
    assert figures(found)["new"][0]["against_all"]["churn"]["value"] == pytest.approx(0.4)
    head, _, _, row = report_text(found).splitlines()[2:6]
    assert row[head.index("churn") - 3 : head.index("churn") + 5].split() == ["40.00", "%"]
    none = pct.Predictions([], [], np.empty((0, 3)))
    assert pct.churn(old=none, new=none) is None


def test_a_p_says_what_it_is_of(nets: Nets) -> None:
    found = report(nets)
    assert "p: McNemar's exact test, two-sided, that both nets are equally often right." in report_text(found)
    assert figures(found)["tests"]["mcnemar_p"].startswith("McNemar's exact test, two-sided")


def test_accuracy_of_a_gate_names_its_samples(nets: Nets) -> None:
    (one,) = check_budget(gather(old=[nets["odd"]], new=[nets["focal"]]), Budget(min_accuracy=0.1))
    assert one.what == "accuracy of focal over all 200 samples"
    assert one.value == pct.accuracy(nets["focal"])


def test_figures_of_eight_samples(eight: Sequence[pct.Predictions]) -> None:
    old, base, new = eight
    found = gather(old=[old], new=[base, new])
    read = figures(found, check_budget(found, Budget(max_nfr=0.3)))
    assert (read["featured"], read["base"], read["title"]) == ("new", "base", "new against old")
    assert read["class_names"] == {"0": "ant", "1": "bee", "2": "cat"}
    assert read["nfr_difference"]["value"] == pytest.approx(-0.125)
    assert (read["old"]["accuracy"], read["old"]["samples"], read["old"]["classes"]) == (0.75, 8, [0, 1, 2])
    assert read["samples_of_unknown_classes"] == 0
    assert [check["what"] for check in read["gate"]["checks"]] == ["NFR of base", "NFR of new"]
    one = read["new"][1]
    assert (one["name"], one["role"], one["samples"], one["accuracy"]["value"]) == ("new", "new", 8, 0.625)
    assert one["expected_calibration_error"] == pytest.approx(0.22625)
    assert (one["meta"], one["against"]) == ({}, {})
    against = one["against_all"]
    assert against["outcomes"] == {"both_right": 4, "negative": 2, "positive": 1, "both_wrong": 1}
    assert (against["samples"], against["mcnemar_p"], against["churn"]["value"]) == (8, 1.0, 0.5)
    assert [flip["key"] for flip in against["negative_flips"]] == ["pics/b.png", "pics/f.png"]
    flip = {name: value for name, value in against["negative_flips"][1].items() if "confidence" not in name}
    assert flip == {"key": "pics/f.png", "variant": "noise", "label": 2, "old_answer": 2, "new_answer": 0}
    assert against["negative_flips"][1]["old_confidence"] == pytest.approx(0.95)
    assert against["negative_flips"][1]["new_confidence"] == pytest.approx(0.7)
    assert {c: entry["negative"] for c, entry in against["per_class"].items()} == {"0": 1, "1": 0, "2": 1}
    assert against["per_class"]["2"]["negative_flip_rate"] == 0.25
    assert against["per_class"]["2"]["interval"] == pytest.approx([0.0455873, 0.6993582])
    assert list(against["per_slice"]) == ["", "noise"]
    # f: the old net's margin (0.95 less 0.0375 of the next) and so on, over all samples
    assert against["margin_weighted_flips"] == found.featured.whole.margin_weighted
    alone = figures(gather(old=[old], new=[new]))
    assert (alone["base"], alone["nfr_difference"]) == (None, None)


def test_json_refuses_what_is_not_finite_and_keeps_letters(eight: Sequence[pct.Predictions]) -> None:
    assert '"né"' in report_json(gather(old=[eight[0]], new=[eight[2].named("né")]))
    strange = eight[2].named("new", loss=float("nan"))
    with pytest.raises(ValueError, match="not JSON compliant"):
        report_json(gather(old=[eight[0]], new=[strange]))


def test_names_of_classes_come_from_the_labels_or_the_featured_net(eight: Sequence[pct.Predictions]) -> None:
    old, base, new = eight
    other = base.named("base", class_names={"1": "wasp"})
    assert [gather(old=[old], new=[other, new]).class_name(c) for c in (0, 1, 7)] == ["ant", "wasp", "7"]
    featured = new.named("new", class_names=["dog"])
    assert [gather(old=[old], new=[other, featured]).class_name(c) for c in (0, 1, 2)] == ["dog", "wasp", "cat"]
    given = gather(old=[old], new=[featured], labels=["x", ""])
    assert [given.class_name(c) for c in (0, 1, 2)] == ["x", "1", "2"]


def test_up_to_five_nets_are_shown(eight: Sequence[pct.Predictions]) -> None:
    nets = [eight[2].named(f"net {number}") for number in range(6)]
    assert [one.name for one in gather(old=[eight[0]], new=nets[:5]).shown] == [net.name for net in nets[:5]]
    assert [one.name for one in gather(old=[eight[0]], new=nets).shown] == ["net 0", "net 5"]


def test_the_base_may_have_its_samples_in_another_order(eight: Sequence[pct.Predictions]) -> None:
    old, base, new = eight
    order = [3, 1, 7, 5, 0, 2, 6, 4]
    found, turned = (gather(old=[old], new=[one, new]).spared for one in (base, base.take(order)))
    assert found == turned
    assert found is not None
    assert found.value == pytest.approx(-0.125)
    assert [c.role for c in gather(old=[old], new=[new], baseline=base).candidates] == ["baseline", "new"]
    assert [c.role for c in gather(old=[old], new=[base, new]).candidates] == ["new", "new"]


def test_one_slice_is_none(eight: Sequence[pct.Predictions]) -> None:
    whole = gather(old=[eight[0]], new=[eight[2]]).featured.whole
    assert whole.per_slice(lambda key, variant: "all") == {}
    assert list(whole.per_slice(lambda key, variant: 9 if key < "pics/c" else 10)) == ["10", "9"]


def test_each_limit_is_held_against_its_own_figure(eight: Sequence[pct.Predictions]) -> None:
    old, base, new = eight
    budget = Budget(
        max_nfr=0.25, min_accuracy=0.625, max_weighted_nfr=0.9, severity={2: 3.0}, references={"old": 0.2},
        classes={0: 0.5, 2: 0.2}, max_nfr_upper=0.6,
    )  # fmt: skip
    checks = check_budget(gather(old=[old], new=[new], baseline=base), budget)
    weighted = pct.severity_weighted_nfr(old=old, new=new, severity={2: 3.0})
    assert weighted == pytest.approx((1 + 3) / (4 + 4 * 3))
    assert [(c.what, c.value, c.limit, c.least, c.passed) for c in checks] == [
        ("accuracy of new", 0.625, 0.625, True, True),
        ("NFR of new", 0.25, 0.25, False, True),
        ("upper end of the 95\u00a0% interval of the NFR of new", pytest.approx(0.5907246), 0.6, False, True),
        ("severity-weighted NFR of new", weighted, 0.9, False, True),
        ("NFR of new against old", 0.25, 0.2, False, False),
        ("NFR of new on class ant", 0.5, 0.5, False, True),
        ("NFR of new on class cat", 0.25, 0.2, False, False),
    ]


@pytest.mark.parametrize(
    ("value", "limit", "expected"),
    [(0.00501, 0.005, "0.501"), (0.005001, 0.005, "0.5001"), (0.00500001, 0.005, "0.50"), (0.01, 0.005, "1.00")],
)
def test_a_check_has_as_many_digits_as_it_takes(value: float, limit: float, expected: str) -> None:
    assert f" is {expected}\u00a0%, at most" in str(Check("NFR", value, limit, False, False))
    assert f" is {expected}\u00a0%, at least" in str(Check("NFR", value, limit, True, False))


def test_weights_and_rates_at_the_ends_of_their_ranges(tmp_path: Path) -> None:
    path = tmp_path / "budget.json"
    path.write_text('{"severity": {"1": 0}, "max_weighted_nfr": 0, "max_nfr_upper": "100%"}')
    assert read_budget(path) == Budget(max_weighted_nfr=0, severity={1: 0.0}, max_nfr_upper=1)
    for weight in ("Infinity", "1e999", '"inf"'):
        path.write_text(f'{{"severity": {{"1": {weight}}}, "max_weighted_nfr": 0}}')
        with pytest.raises(ReportError, match=r"0 or more|JSON"):
            read_budget(path)
    assert parse_rate(" 0.5 % ") == 0.005
