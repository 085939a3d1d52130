"""Rates against counting by hand, the published check, and what must be None."""

from __future__ import annotations

import numpy as np
import pytest

from fusion import pct
from fusion.errors import ReportError
from fusion.pct.metrics import FORMULAS


def predictions(
    logits: list[list[float]], labels: list[int], classes: list[int] | None = None, **rest: object
) -> pct.Predictions:
    keys = [f"{i}.png" for i in range(len(labels))]
    return pct.Predictions(keys, labels, np.array(logits, np.float32), classes, **rest)


def test_the_papers_figure() -> None:
    """6.44 % NFR at 30.24 % and 30.29 % error is 30.48 % relative; counts of 10,000 samples."""
    counted = pct.Outcomes(both_right=6332, negative=644, positive=639, both_wrong=2385)
    assert counted.value("error_rate_old") == pytest.approx(0.3024)
    assert counted.value("error_rate_new") == pytest.approx(0.3029)
    assert round(100 * counted.value("relative_nfr"), 2) == 30.48


def test_rates_by_hand() -> None:
    old = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0], bool)
    new = np.array([1, 1, 1, 0, 1, 1, 0, 0, 0, 0], bool)
    given = {"old": old, "new": new}
    assert pct.outcomes(**given) == pct.Outcomes(3, 1, 2, 4)
    assert len(pct.outcomes(**given)) == 10
    assert pct.negative_flip_rate(**given) == pytest.approx(0.1)
    assert pct.positive_flip_rate(**given) == pytest.approx(0.2)
    assert pct.relative_nfr(**given) == pytest.approx(0.1 / (0.4 * 0.5))
    assert pct.negative_flip_impact(**given) == pytest.approx(1 / 5)
    assert pct.backward_trust_compatibility(**given) == pytest.approx(3 / 4)
    assert pct.backward_error_compatibility(**given) == pytest.approx(4 / 5)
    values = pct.outcomes(**given).values()
    assert values["accuracy_new"] - values["accuracy_old"] == pytest.approx(values["accuracy_difference"])


def test_what_has_no_denominator_is_none() -> None:
    assert set(pct.Outcomes(0, 0, 0, 0).values().values()) == {None}
    perfect = pct.Outcomes(5, 0, 0, 0).values()
    assert [name for name, value in perfect.items() if value is None] == [
        "relative_nfr", "negative_flip_impact", "backward_error_compatibility",
    ]  # fmt: skip
    empty = predictions(np.zeros((0, 3)).tolist() or np.zeros((0, 3)), [])
    assert pct.accuracy(empty) is None
    assert pct.error_rate(empty) is None
    assert pct.expected_calibration_error(empty) is None
    assert pct.margin_weighted_flips(old=empty, new=empty) is None
    assert pct.severity_weighted_nfr(old=empty, new=empty, severity={}) is None


def test_a_reference_is_measured_on_the_classes_it_knows() -> None:
    new = predictions([[9, 0, 0], [0, 9, 0], [0, 0, 9], [9, 0, 0]], [0, 1, 2, 1])
    old = predictions([[5, 0], [0, 5], [5, 0], [5, 0]], [0, 1, 2, 1], [1, 2])
    pair = pct.align(old=old, new=new)
    assert (len(pair.new), pair.total) == (3, 4)
    assert pct.outcomes(old=old, new=new) == pct.Outcomes(0, 1, 2, 0)
    assert pct.per_class(old=old, new=new) == {1: pct.Outcomes(0, 1, 1, 0), 2: pct.Outcomes(0, 0, 1, 0)}
    found = pct.flips(old=old, new=new)
    assert [(f.key, f.label, f.old_answer, f.new_answer) for f in found] == [("3.png", 1, 1, 0)]
    assert [f.key for f in pct.flips(old=old, new=new, positive=True)] == ["1.png", "2.png"]
    classes, counts = pct.flip_matrix(old=old, new=new)
    assert classes == [0, 1, 2]
    assert counts.tolist() == [[0, 0, 0], [1, 0, 0], [0, 0, 0]]
    assert pct.severity_weighted_nfr(old=old, new=new, severity={1: 3.0}) == pytest.approx(3 / 7)


def test_margin_weighted_flips() -> None:
    old = predictions([[5, 0], [5, 0]], [0, 0])
    new = predictions([[0, 0.5], [1, 0]], [0, 0])
    right, wrong = 1 / (1 + np.exp(0.5)), 1 / (1 + np.exp(-0.5))
    assert pct.margin_weighted_flips(old=old, new=new) == pytest.approx((wrong - right) / 2)


def test_slices() -> None:
    old = predictions([[5, 0]] * 4, [0] * 4, variants=["", "", "noise", "noise"])
    new = predictions([[5, 0], [0, 5], [0, 5], [0, 5]], [0] * 4, variants=["", "", "noise", "noise"])
    assert pct.per_slice(old=old, new=new) == {"": pct.Outcomes(1, 1, 0, 0), "noise": pct.Outcomes(0, 2, 0, 0)}
    assert pct.per_slice(old=old, new=new, by={"0.png": "a", "3.png": "b"}) == {
        "a": pct.Outcomes(1, 0, 0, 0), "b": pct.Outcomes(0, 1, 0, 0),
    }  # fmt: skip
    assert len(pct.per_slice(old=old, new=new, by=lambda key, variant: key + variant)) == 4


def test_calibration() -> None:
    confident = np.log(np.array([[0.78, 0.22]] * 4 + [[0.55, 0.45]] * 2))
    net = predictions(confident.tolist(), [0, 0, 0, 1, 1, 1])
    assert pct.expected_calibration_error(net) == pytest.approx((4 * 0.03 + 2 * 0.55) / 6, abs=1e-6)
    bins = pct.reliability(net)
    assert [b.count for b in bins] == [0, 0, 0, 0, 0, 2, 0, 4, 0, 0]
    assert bins[0].accuracy is None
    assert bins[7].accuracy == 0.75


def test_refusals() -> None:
    net = predictions([[1, 0]], [0])
    with pytest.raises(ReportError, match="cannot be compared with an array"):
        pct.negative_flip_rate(old=net, new=np.array([True]))
    with pytest.raises(ReportError, match="bool"):
        pct.outcomes(old=np.array([1]), new=np.array([1]))
    with pytest.raises(ReportError, match="unknown metric 'nfr'"):
        pct.Outcomes(1, 1, 1, 1).value("nfr")


def test_formulas_take_many_counts_at_once() -> None:
    drawn = np.random.default_rng(0).multinomial(20, [0.4, 0.2, 0.2, 0.2], size=50).astype(float)
    for name, formula in FORMULAS.items():
        alone = [pct.Outcomes(*row.astype(int).tolist()).value(name) for row in drawn]
        np.testing.assert_allclose(formula(drawn), [np.nan if x is None else x for x in alone], err_msg=name)
