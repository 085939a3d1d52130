"""All heads of a sweep through all iterations, on the records that are not kept back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

from fusion.data import DataSource
from fusion.solver.batches import CachedBatches
from fusion.solver.holdout import filter_batches
from fusion.solver.logging.console import Display
from fusion.solver.settings import Settings
from fusion.sweep.grid import Trial
from fusion.sweep.prepare import Group, SweepContext
from fusion.sweep.stacked_heads import batch_place


def train(
    bench: SweepContext, groups: Sequence[Group], held: NDArray[np.int64], settings: Settings, display: Display
) -> dict[Trial, float]:
    """Train all; returns each head's mean loss over the last hundred iterations."""
    feed, job = bench.train.batches, bench.train
    assert isinstance(feed, CachedBatches)
    batches = batches_of(feed.source, held)
    totals = [torch.zeros(len(group.heads), device=bench.device) for group in groups]
    last = max(0, settings.max_iter - 100)
    display.say(f"{sum(len(g.cells) for g in groups)} heads in {len(groups)} groups, {settings.max_iter} iterations")
    display.start(0, settings.max_iter)
    try:
        for iteration in range(settings.max_iter):
            indices = next(batches)
            place, blobs = (
                batch_place(indices) if feed.in_memory else indices,
                feed.pick(indices) if iteration >= last else {},
            )
            for warmup in job.warmups:
                warmup.set(iteration)
            for group, total in zip(groups, totals, strict=True):
                if iteration >= last:
                    total += group.heads.losses(blobs)
                group.heads.train(place)
            display.tick(iteration + 1)
    finally:
        display.close()
    count = max(1, settings.max_iter - last)
    return {
        cell: value / count
        for group, total in zip(groups, totals, strict=True)
        for cell, value in zip(group.cells, total.tolist(), strict=True)
    }


@contextmanager
def threads_of(count: int) -> Iterator[None]:
    """Set the number of threads of torch's CPU operations in the block.

    One is best: hundreds of small operations per step gain nothing from a second, which makes them wait for each other
    as soon as anything else runs.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def batches_of(source: DataSource, held: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Return the source's order without the records that are kept back, in batches of the usual size."""
    if not len(held):
        return source.order()
    kept = np.ones(len(source), bool)
    kept[held] = False
    return filter_batches(source.order(), kept, source.batch_size)
