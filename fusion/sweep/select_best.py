"""The evaluation of the trained heads: figures on two splits, the choice, and the files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fusion.nets.build import restrict_to_blobs
from fusion.nets.weights import save_weights
from fusion.pct.predictions import Predictions
from fusion.references import class_scores_blob
from fusion.solver.batches import CachedBatches
from fusion.solver.logging.console import Display
from fusion.sweep.evaluate_heads import EvalSet, known_answers, records_of
from fusion.sweep.grid import Trial
from fusion.sweep.prepare import Group, SweepContext
from fusion.sweep.results import Entry, Judge, Result, with_choice
from fusion.sweep.stacked_heads import Stack, answers

if TYPE_CHECKING:
    from fusion.solver.read_nets import Descriptions

PathLike = str | os.PathLike[str]
_CHUNK = 2000


def selecting(
    bench: SweepContext, nets: Descriptions, held: NDArray[np.int64], select_on: float | PathLike, display: Display
) -> EvalSet:
    """Return the records to choose on: those kept back, or those of a list that the first test net reads."""
    if isinstance(select_on, float):
        return EvalSet(bench.train, held)
    job = bench.open_test(nets.test_on(select_on))
    display.say(f"choosing on {select_on}: {len(job.sources[0])} records")
    return EvalSet(job, np.arange(len(job.sources[0])))


def judge(
    bench: SweepContext,
    groups: Sequence[Group],
    losses: dict[Trial, float],
    select: EvalSet,
    report: EvalSet | None,
    slack: float,
    out: Path | None,
) -> Result:
    """Measure each head on the records that choose, and those that are reported; with `out` write the sweep's files."""
    logits = class_scores_blob(bench.train.message)
    panels = [select] if report is None else [select, report]
    judges = []
    for panel in panels:
        old = known_answers(panel, bench.held, bench.device)
        judges.append(Judge(records_of(panel), old))
        if panel is report and out is not None:
            _save(old, out / "old")
    entries = []
    for group in groups:
        every = [_logits(panel, logits, group.heads.trained) for panel in panels]
        for index, cell in enumerate(group.cells):
            figures = [judge.figures(values[index]) for judge, values in zip(judges, every, strict=True)]
            if any(found["accuracy"] is None for found in figures):
                figures = [dict.fromkeys(found) for found in figures]
            entries.append(Entry(cell, losses[cell], figures[0], figures[-1] if report else {}))
        if report is not None and out is not None:
            base = records_of(report)
            meta = {"preprocessing": report.job.sources[0].fingerprint()}
            shown = zip(group.cells, every[-1], strict=True)
            _save([replace(base, logits=v, classes=None, meta={"name": c.name, **meta})  # type: ignore[arg-type]
                   for c, v in shown if np.isfinite(v).all()], out / "new")  # fmt: skip
    result = with_choice(entries, slack)
    if out is not None:
        result.write(out)
        _write_best(bench, groups, result.best, out / "best.caffemodel")
    return result


def _save(nets: Sequence[Predictions], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for net in nets:
        net.save(folder / f"{net.name}.npz")


def _logits(panel: EvalSet, blob: str, params: Stack) -> NDArray[np.float32]:
    """Logits of all heads, float32 [H, N, C]."""
    feed = panel.job.batches
    assert isinstance(feed, CachedBatches)
    net = restrict_to_blobs(panel.job.active_net, [blob])
    parts = [
        answers(net, params, feed.pick(panel.rows[at : at + _CHUNK])).flatten(2).cpu().numpy()
        for at in range(0, len(panel.rows), _CHUNK)
    ]
    return np.concatenate(parts, axis=1)


@torch.no_grad()
def _write_best(bench: SweepContext, groups: Sequence[Group], best: Trial, path: Path) -> None:
    for group in groups:
        if best in group.cells:
            index = group.cells.index(best)
            for name, values in group.heads.trained.items():
                target: Tensor = bench.train.net.get_parameter(name)
                target.copy_(values[index])
    save_weights(bench.train.net, path)
