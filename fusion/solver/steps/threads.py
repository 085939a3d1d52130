"""How many CPU threads training takes: measured at its start, since small nets run faster with few of them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import nn

from fusion.solver.feeds import Blobs, CachedFeed, LiveFeed

if TYPE_CHECKING:
    from fusion.solver.jobs import Job

Asked = int | Literal["auto"] | None
_SECONDS = 0.6  # for all measurements together
_ROUNDS = 3
_LONG = 0.25  # seconds of a step that is left to all threads: so large a net keeps them busy
_ALIKE = 1.03  # so much slower is as good, and fewer threads leave room for those that read data


class Threads:
    """The number of threads for the loop.

    asked     a number, "auto" to measure, or None to leave torch's as it is
    replayed  the number that a snapshot was written with: the same bits need the same
    """

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.replayed: int | None = None

    def settle(self, step: Callable[[], object] | None) -> str:
        """Set the number; returns what to say about it, or "".

        step  forward and backward of one batch, to be measured; None where that cannot be done
        """
        most, before = torch.get_num_threads(), self.replayed
        if isinstance(self.asked, int):
            torch.set_num_threads(self.asked)
        elif self.asked == "auto" and before is not None and before <= (os.cpu_count() or before):
            torch.set_num_threads(before)
            return f"threads: {before}, as the snapshot was written with"
        elif self.asked == "auto" and step is not None and most > 1:
            return _fastest(step, most)
        now = torch.get_num_threads()
        if before is not None and before != now:
            return f"threads: {now}, but the snapshot was written with {before}: the last bits may differ"
        return ""


def candidates(most: int) -> list[int]:
    """Numbers to try: all, then powers of two downwards."""
    return [most, *(1 << power for power in range(most.bit_length() - 1, -1, -1) if 1 << power < most)]


def fewest(seconds: dict[int, float]) -> int:
    """The smallest number that is about as fast as the fastest."""
    best = min(seconds.values())
    return min(count for count, value in seconds.items() if value <= best * _ALIKE)


def _fastest(step: Callable[[], object], most: int) -> str:
    """Measure, set, and tell."""
    seconds = _measured(step, candidates(most))
    chosen = fewest(seconds)
    torch.set_num_threads(chosen)
    times = ", ".join(f"{count}: {_spoken(value)}" for count, value in sorted(seconds.items()))
    return f"threads: {chosen} of {most} (time of a step by threads: {times})"


def _spoken(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} us"


def _measured(step: Callable[[], object], counts: Sequence[int]) -> dict[int, float]:
    """Seconds of a step by threads, the best of a few rounds in turn; only the first count where steps are long."""
    found = dict.fromkeys(counts, float("inf"))
    for count in counts:
        torch.set_num_threads(count)
        step()
        start = time.perf_counter()
        step()
        if time.perf_counter() - start > _LONG:
            return {counts[0]: time.perf_counter() - start}
    share = _SECONDS / (len(counts) * _ROUNDS)
    for _ in range(_ROUNDS):
        for count in counts:
            torch.set_num_threads(count)
            found[count] = min(found[count], _time(step, share))
    return found


def _time(step: Callable[[], object], share: float) -> float:
    """The mean over about so many seconds."""
    steps, start = 0, time.perf_counter()
    while True:
        step()
        steps += 1
        elapsed = time.perf_counter() - start
        if elapsed >= share:
            return elapsed / steps


def sample(job: Job) -> Blobs | None:
    """A batch of what the job runs on, without moving its feed; None where there is no telling."""
    feed = job.feed
    if isinstance(feed, CachedFeed):
        return feed.pick(np.arange(feed.source.batch_size) % len(feed.source))
    if isinstance(feed, LiveFeed):
        blobs: Blobs = {}
        for source in feed.sources:
            blobs.update(source.batch(next(source.order(0))))
        return blobs
    return None


@contextmanager
def untouched(net: nn.Module) -> Iterator[None]:
    """Behind the block, all buffers of the net (statistics, carried states) are what they were."""
    before = [(name, buffer, buffer.clone()) for name, buffer in net.named_buffers()]
    absent = [(module, key) for module in net.modules() for key, buffer in module._buffers.items() if buffer is None]
    try:
        yield
    finally:
        for name, buffer, value in before:
            folder, _, key = name.rpartition(".")
            net.get_submodule(folder)._buffers[key] = buffer.copy_(value)
        for module, key in absent:
            module._buffers[key] = None
