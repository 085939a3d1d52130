"""The pace of training on a CPU, measured at its start: small nets run faster with few threads, and some nets with the
channels last."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import nn

from fusion.solver.batches import Batches, Blobs, CachedBatches, LiveBatches

RequestedConfig = int | Literal["auto"] | None
_SHARE = 0.05  # seconds of a measurement; each pace has one in each round
_ROUNDS = 3
_LONG = 0.25  # seconds of a trial that is left to all threads: so large a net keeps them busy
_TOO_LONG = 5.0  # seconds of a trial that is not worth repeating in another layout
_ALIKE = 1.03  # so much slower is as good, and fewer threads leave room for those that read data
_WORTH = 0.95  # of the usual layout's time, so that rounding changes for a gain only


class RunConfig(NamedTuple):
    """How the loop runs on a CPU: with so many threads, and in this layout."""

    threads: int
    channels_last: bool = False

    def __str__(self) -> str:
        return f"{self.threads}{', channels last' * self.channels_last}"


class Measurement(NamedTuple):
    """Forward and backward of so many batches, to be measured; it leaves nothing behind."""

    run: Callable[[], object]
    steps: int = 1


class Autotuner:
    """The pace of the loop.

    asked     a number of threads, "auto" to measure them and the layout, or None to leave torch's
    replayed  the pace that a snapshot was written at: the same bits need the same
    """

    def __init__(self, asked: RequestedConfig) -> None:
        self.asked = asked
        self.channels_last = False
        self.replayed: RunConfig | None = None
        self._arrange: Callable[[bool], None] | None = None

    def settle(self, ask: Callable[[], Measurement | None], arrange: Callable[[bool], None] | None = None) -> str:
        """Set the pace; returns what to say about it, or "".

        ask      gives what to measure; None where that cannot be done
        arrange  sets the layout, channels last or not; None where that makes no difference
        """
        self._arrange = arrange
        most, before = torch.get_num_threads(), self.replayed
        self.channels_last = before is not None and before.channels_last
        if arrange is not None:
            arrange(self.channels_last)  # whatever ran before, such as a trunk of shared filters, may have left another
        if isinstance(self.asked, int):
            torch.set_num_threads(self.asked)
        elif self.asked == "auto" and before is not None and before.threads <= (os.cpu_count() or before.threads):
            self._set(before)
            return f"threads: {before}, as the snapshot was written with"
        elif self.asked == "auto" and (trial := ask()) is not None:
            less = f"; the snapshot was written with {before.threads}: the last bits may differ" if before else ""
            return self._fastest(trial, most) + less
        now = torch.get_num_threads()
        if before is not None and before.threads != now:
            return f"threads: {now}, but the snapshot was written with {before.threads}: the last bits may differ"
        return ""

    def _fastest(self, trial: Measurement, most: int) -> str:
        """Measure, set, and tell."""
        layouts = (False, True) if self._arrange is not None and self.replayed is None else (self.channels_last,)
        paces = [RunConfig(count, layout) for layout in layouts for count in candidates(most)]
        if len(paces) == 1:
            return ""
        seconds = self._measured(trial.run, paces)
        chosen = best(seconds)
        self._set(chosen)
        times = "; ".join(f"{pace}: {spoken(seconds[pace] / trial.steps)}" for pace in sorted(seconds))
        layout = ", channels last" * chosen.channels_last
        return f"threads: {chosen.threads} of {most}{layout} (time of a step by threads: {times})"

    def _measured(self, step: Callable[[], object], paces: Sequence[RunConfig]) -> dict[RunConfig, float]:
        """Seconds of a step by pace, the best of a few rounds in turn; where steps are long, with all threads only."""
        found = dict.fromkeys(paces, math.inf)
        for pace in paces:
            elapsed = self._once(step, pace)
            if elapsed > _LONG:
                alike = [other for other in paces if other.threads == pace.threads and other != pace]
                others = alike if elapsed <= _TOO_LONG else []
                return {pace: elapsed, **{other: self._once(step, other) for other in others}}
        for _ in range(_ROUNDS):
            for pace in paces:
                self._set(pace)
                found[pace] = min(found[pace], timed(step, _SHARE))
        return found

    def _once(self, step: Callable[[], object], pace: RunConfig) -> float:
        """Seconds of the second step at this pace."""
        self._set(pace)
        step()
        start = time.perf_counter()
        step()
        return time.perf_counter() - start

    def _set(self, pace: RunConfig) -> None:
        torch.set_num_threads(pace.threads)
        if self._arrange is not None and pace.channels_last != self.channels_last:
            self._arrange(pace.channels_last)
            self.channels_last = pace.channels_last


def candidates(most: int) -> list[int]:
    """Numbers of threads to try: all, then powers of two downwards."""
    return [most, *(1 << power for power in range(most.bit_length() - 1, -1, -1) if 1 << power < most)]


def best(seconds: Mapping[RunConfig, float]) -> RunConfig:
    """The usual layout, unless the other is clearly faster; then the fewest threads that are about as fast as any."""
    least = dict.fromkeys((False, True), math.inf)
    for pace, value in seconds.items():
        least[pace.channels_last] = min(least[pace.channels_last], value)
    last = least[True] < _WORTH * least[False]
    return min(p for p, value in seconds.items() if p.channels_last == last and value <= least[last] * _ALIKE)


def spoken(seconds: float) -> str:
    """Seconds, or milli- or microseconds, with three digits."""
    if seconds >= 1:
        return f"{seconds:.3g} s"
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} us"


def timed(step: Callable[[], object], share: float) -> float:
    """Seconds of a step: the mean over about `share` seconds."""
    steps, start = 0, time.perf_counter()
    while True:
        step()
        steps += 1
        elapsed = time.perf_counter() - start
        if elapsed >= share:
            return elapsed / steps


def sample(feed: Batches, number: int = 0) -> Blobs | None:
    """A batch of a feed, by its number, without moving the feed on; None where there is no telling."""
    if isinstance(feed, CachedBatches):
        size, records = feed.source.batch_size, len(feed.source)
        return feed.pick(np.arange(number * size, (number + 1) * size) % records)
    if isinstance(feed, LiveBatches):
        blobs: Blobs = {}
        for source in feed.sources:
            batch = source.batch(next(source.order(number)), draw=number)
            blobs.update({top: tensor.to(feed.device) for top, tensor in batch.items()})
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
