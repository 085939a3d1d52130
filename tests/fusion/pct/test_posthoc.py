"""Methods without training, each against trying out every choice or against the formula sample by sample."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from fusion import pct
from fusion.errors import ReportError
from fusion.pct.posthoc import bayesian, blend_weights, confusion, fit_margin, gated, within_budget


def net(name: str, seed: int, skill: float, classes: list[int] | None = None, count: int = 300) -> pct.Predictions:
    generator = np.random.default_rng(seed)
    space = classes or [0, 1, 2]
    labels = np.random.default_rng(9).integers(0, 3, count)
    logits = generator.normal(size=(count, len(space))) + skill * (labels[:, None] == np.array(space))
    return pct.Predictions([str(i) for i in range(count)], labels, logits, space, meta={"name": name})


OLD, NEW = net("old", 0, 2.0), net("new", 1, 2.5)


def test_the_gate_at_its_ends() -> None:
    assert np.array_equal(gated(old=OLD, new=NEW, margin=1.0).answers, NEW.answers)
    assert np.array_equal(gated(old=OLD, new=NEW, margin=-2.0).answers, OLD.answers)
    half = gated(old=OLD, new=NEW, margin=0.0)
    assert np.array_equal(half.answers, np.where(OLD.confidence > NEW.confidence, OLD.answers, NEW.answers))
    np.testing.assert_allclose(half.probabilities.sum(1), 1, rtol=1e-5)


@pytest.mark.parametrize("max_nfr", [0.0, 0.02, 0.05, 1.0])
def test_the_margin_is_the_best_of_all(max_nfr: float) -> None:
    chosen = gated(old=OLD, new=NEW, margin=fit_margin(old=OLD, new=NEW, max_nfr=max_nfr))
    assert pct.negative_flip_rate(old=OLD, new=chosen) <= max_nfr
    lead = np.sort(OLD.confidence.astype(float) - NEW.confidence)
    tried = [gated(old=OLD, new=NEW, margin=m) for m in [-2, *(lead[:-1] + lead[1:]) / 2, 1]]
    allowed = [pct.accuracy(p) for p in tried if pct.negative_flip_rate(old=OLD, new=p) <= max_nfr]
    assert pct.accuracy(chosen) == max(allowed)


def test_an_old_net_of_fewer_classes_may_decide_and_a_union_may_not() -> None:
    part = net("part", 2, 2.0, [2, 0])
    answers = gated(old=part, new=NEW, margin=-2.0).answers
    assert np.array_equal(answers, part.answers)
    union = pct.union([part, net("rest", 3, 2.0, [1])])
    with pytest.raises(ReportError, match="cannot decide"):
        gated(old=union, new=NEW, margin=0.0)
    with pytest.raises(ReportError, match="different samples"):
        fit_margin(old=OLD.take(range(10)), new=NEW)


def test_bayes_sample_by_sample() -> None:
    seen = [confusion(p) for p in (OLD, NEW)]
    prior = [0.5, 0.3, 0.2]
    shuffled = NEW.take(np.random.default_rng(0).permutation(len(NEW)))
    found = bayesian([OLD, shuffled], seen, prior=prior)
    for i in range(20):
        joint = np.array([prior[y] * seen[0][y, OLD.answers[i]] * seen[1][y, NEW.answers[i]] for y in range(3)])
        np.testing.assert_allclose(found.probabilities[i], joint / joint.sum(), rtol=1e-5)
    even = bayesian([OLD, NEW], seen)
    assert pct.accuracy(even) >= pct.accuracy(NEW) - 0.01


def test_confusion_by_counting() -> None:
    p = pct.Predictions(["a", "b", "c", "d"], [5, 5, 7, 9], [[1, 0], [0, 1], [0, 1], [0, 1]], [5, 7])
    np.testing.assert_allclose(confusion(p), [[2 / 4, 2 / 4], [1 / 3, 2 / 3]])
    np.testing.assert_allclose(confusion(p.take([0]), smoothing=0), [[1, 0], [0.5, 0.5]])


def test_bayes_refuses_what_does_not_fit() -> None:
    with pytest.raises(ReportError, match="1 nets and 0 confusions"):
        bayesian([OLD], [])
    with pytest.raises(ReportError, match="part: classes"):
        bayesian([OLD, net("part", 2, 1.0, [0, 1])], [confusion(OLD)] * 2)


def test_blended_weights() -> None:
    old = {"a": [np.zeros((2, 2), np.float32)], "b": [np.ones(3, np.float32)]}
    new = {"a": [np.ones((2, 2), np.float32)], "b": [np.zeros(3, np.float32)]}
    blend = blend_weights(old=old, new=new, share=0.25)
    assert [blend["a"][0][0, 0], blend["b"][0][0]] == [0.25, 0.75]
    assert blend["a"][0].dtype == np.float32
    with pytest.raises(ReportError) as caught:
        blend_weights(old={**old, "c": []}, new={**new, "a": [np.ones(4)]}, share=0.5)
    assert ["'c'" in str(caught.value.errors[0]), "'a'" in str(caught.value.errors[1])] == [True, True]


def test_the_share_within_a_budget() -> None:
    shares = {share: pct.ensemble([OLD.weighted(1 - share), NEW.weighted(share)]) for share in (0.1, 0.5, 0.9)}
    rates = {share: pct.negative_flip_rate(old=OLD, new=p) for share, p in shares.items()}
    limits = sorted(rates.values())
    for limit, tighter in itertools.pairwise([*limits, 1.0]):
        chosen = within_budget(shares, old=OLD, max_nfr=limit)
        assert rates[chosen] <= limit <= tighter
        assert pct.accuracy(shares[chosen]) == max(pct.accuracy(shares[s]) for s in shares if rates[s] <= limit)
    with pytest.raises(ReportError, match="no candidate"):
        within_budget(shares, old=OLD, max_nfr=-1)
