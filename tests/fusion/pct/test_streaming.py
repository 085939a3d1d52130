"""Counting batch by batch gives what counting at once gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fusion import pct
from fusion.errors import ReportError


def test_batches_add_up() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 6, 50)
    new, old = generator.normal(size=(50, 6)), generator.normal(size=(50, 3))
    classes = [1, 3, 5]
    keys = [str(i) for i in range(50)]
    whole = pct.outcomes(old=pct.Predictions(keys, labels, old, classes), new=pct.Predictions(keys, labels, new))
    rates, halves, accuracy = pct.FlipRates(classes), pct.FlipRates(classes), pct.Accuracy()
    for i, rows in enumerate((slice(0, 20), slice(20, 45), slice(45, 50), slice(50, 50))):
        batch = {"old": old[rows], "new": new[rows], "target": labels[rows]}
        (halves if i else rates).update(
            **{k: torch.from_numpy(v).requires_grad_(v.dtype == float) for k, v in batch.items()}
        )
        accuracy.update(new[rows], labels[rows])
    assert (rates + halves).outcomes() == whole
    assert (rates + halves).compute() == whole.values()
    assert accuracy.compute() == (new.argmax(1) == labels).mean()
    assert (accuracy + accuracy).compute() == accuracy.compute()


def test_before_the_first_sample_and_after_a_reset() -> None:
    accuracy, rates = pct.Accuracy(), pct.FlipRates()
    logits = torch.tensor([[1.0, 0.0]], dtype=torch.bfloat16)
    accuracy.update(logits, [0])
    rates.update(old=logits, new=logits, target=[0])
    assert accuracy.compute() == rates.compute()["accuracy_new"] == 1
    accuracy.reset()
    rates.reset()
    assert accuracy.compute() is rates.compute()["accuracy_new"] is None


def test_refusals() -> None:
    with pytest.raises(ReportError, match="name the reference's classes"):
        pct.FlipRates().update(old=np.zeros((2, 3)), new=np.zeros((2, 5)), target=[0, 1])
    with pytest.raises(ReportError, match="2 classes"):
        pct.FlipRates([1, 2]).update(old=np.zeros((2, 3)), new=np.zeros((2, 5)), target=[0, 1])
    with pytest.raises(ReportError, match="targets of shape"):
        pct.Accuracy().update(np.zeros((2, 3)), [0])
