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
from fusion.sweep.results import Entry, Judge, Result, choose
from fusion.sweep.stacked_heads import Stack, answers

if TYPE_CHECKING:
    from fusion.solver.read_nets import Descriptions

PathLike = str | os.PathLike[str]
_CHUNK = 2000


def selecting(
    bench: SweepContext, nets: Descriptions, held: NDArray[np.int64], select_on: float | PathLike, display: Display
) -> EvalSet:
    """Return the records to choose on: those kept back, or those of a list that the test net reads."""
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
    report: EvalSet,
    slack: float,
    out: Path | None,
) -> Result:
    """Each head on the records that choose and on those that are reported; with `out` all files of the sweep."""
    logits = class_scores_blob(bench.train.message)
    judges = []
    for panel in (select, report):
        old = known_answers(panel, bench.held, bench.device)
        judges.append(Judge(records_of(panel), old))
        if panel is report and out is not None:
            _save(old, out / "old")
    entries = []
    for group in groups:
        chosen, shown = (_logits(panel, logits, group.heads.trained) for panel in (select, report))
        for index, cell in enumerate(group.cells):
            kept_back, reported = (
                judge.figures(values[index]) for judge, values in zip(judges, (chosen, shown), strict=True)
            )
            if None in (kept_back["accuracy"], reported["accuracy"]):
                kept_back, reported = dict.fromkeys(kept_back), dict.fromkeys(reported)
            entries.append(Entry(cell, losses[cell], kept_back, reported))
        if out is not None:
            base = records_of(report)
            meta = {"preprocessing": report.job.sources[0].fingerprint()}
            _save([replace(base, logits=v, classes=None, meta={"name": c.name, **meta})  # type: ignore[arg-type]
                   for c, v in zip(group.cells, shown, strict=True) if np.isfinite(v).all()], out / "new")  # fmt: skip
    setting = choose(entries, slack)
    best = next(entry.cell for entry in entries if entry.cell.setting == setting)
    result = Result(tuple(replace(entry, chosen=entry.cell.setting == setting) for entry in entries), best)
    if out is not None:
        result.write(out)
        _write_best(bench, groups, best, out / "best.caffemodel")
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
