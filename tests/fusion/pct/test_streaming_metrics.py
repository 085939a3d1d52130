"""Counting batch by batch gives what counting at once gives."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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


HALF = """
import sys, numpy as np, torch
from fusion import pct
rank = int(sys.argv[1])
torch.distributed.init_process_group("gloo", init_method=sys.argv[2], rank=rank, world_size=2)
accuracy, rates, own = pct.Accuracy(), pct.FlipRates(), pct.FlipRates(sync=False)
answers = np.eye(3)[[0, 1, 2, 0] if rank else [1, 1, 1]]
labels = [0, 1, 2, 2] if rank else [1, 0, 1]
accuracy.update(answers, labels)
for each in (rates, own):
    each.update(old=np.eye(3)[labels], new=answers, target=labels)
assert accuracy.compute() == 5 / 7, accuracy.compute()
assert rates.outcomes() == rates.outcomes() == pct.Outcomes(5, 2, 0, 0), rates.outcomes()
assert rates.compute()["negative_flip_rate"] == 2 / 7
assert len(own.outcomes()) == len(labels)
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_several_processes_count_together(tmp_path: Path) -> None:
    """Each sees its own batches, of other sizes; asking twice counts nothing twice."""
    words = [sys.executable, "-W", "ignore", "-c", HALF]
    halves = [subprocess.Popen([*words, str(rank), f"file://{tmp_path}/meeting"]) for rank in range(2)]
    assert [half.wait(timeout=120) for half in halves] == [0, 0]


def test_refusals() -> None:
    with pytest.raises(ReportError, match="give the reference's classes"):
        pct.FlipRates().update(old=np.zeros((2, 3)), new=np.zeros((2, 5)), target=[0, 1])
    with pytest.raises(ReportError, match="2 classes"):
        pct.FlipRates([1, 2]).update(old=np.zeros((2, 3)), new=np.zeros((2, 5)), target=[0, 1])
    with pytest.raises(ReportError, match="targets of shape"):
        pct.Accuracy().update(np.zeros((2, 3)), [0])
