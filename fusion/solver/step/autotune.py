"""The number of threads and the memory layout of training on a CPU, measured at its start.

Small nets run faster with few threads, and some nets with the channels last.
"""

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
_SHARE = 0.05  # seconds of a measurement, one per configuration and round
# Seconds of a step from which fewer threads are tried only while they make it shorter. A net that large keeps all
# threads busy, unless other processes do: a LeNet's step of 14 ms takes two threads half a second on two busy cores.
_LONG = 0.25
_DOUBTFUL = 1.0  # seconds that other processes can hardly be the reason for
_TOO_LONG = 5.0  # seconds of a step that is not worth repeating in another layout
# A round for each, without the configurations that took more than this times the least; a single step is less certain
# than a round. Of 35 choices on a busy machine, all were as good as those of three full rounds, in half the time.
_SLOW = (2.0, 1.5, 1.5)
# Times the least: as good. More threads have to gain more, because they take the CPU from those that read data and lose
# most when the machine is busy: an MLP head that two threads were chosen for ran at 0.77 of a loop with one.
_ALIKE = 1.1
_WORTH = 0.95  # of the usual layout's time, so that rounding changes for a gain only


class RunConfig(NamedTuple):
    """How the loop runs on a CPU: the number of threads, and the layout."""

    threads: int
    channels_last: bool = False

    def __str__(self) -> str:
        return f"{self.threads}{', channels last' * self.channels_last}"


class Measurement(NamedTuple):
    """Forward and backward of a number of batches, to be measured; no trace of it remains in the net."""

    run: Callable[[], object]
    steps: int = 1


class Autotuner:
    """The choice of a configuration for the loop.

    requested  a number of threads, "auto" to measure them and the layout, or None to leave torch's
    replayed   the configuration that a snapshot was written with: the same bits need the same
    """

    def __init__(self, requested: RequestedConfig) -> None:
        self.requested = requested
        self.channels_last = False
        self.replayed: RunConfig | None = None
        self._arrange: Callable[[bool], None] | None = None

    def settle(self, ask: Callable[[], Measurement | None], arrange: Callable[[bool], None] | None = None) -> str:
        """Set the configuration; returns a line for the log, or "".

        ask      returns the measurement; None where that cannot be done
        arrange  sets the layout, channels last or not; None where that makes no difference
        """
        self._arrange = arrange
        most, before = torch.get_num_threads(), self.replayed
        self.channels_last = before is not None and before.channels_last
        if arrange is not None:
            arrange(self.channels_last)  # an earlier run may have left another layout in shared filters
        if isinstance(self.requested, int):
            torch.set_num_threads(self.requested)
        elif self.requested == "auto" and before is not None and before.threads <= (os.cpu_count() or before.threads):
            self._set(before)
            return f"threads: {before}, as the snapshot was written with"
        elif self.requested == "auto" and (trial := ask()) is not None:
            less = f"; the snapshot was written with {before.threads}: the last bits may differ" if before else ""
            return self._fastest(trial, most) + less
        now = torch.get_num_threads()
        if before is not None and before.threads != now:
            return f"threads: {now}, but the snapshot was written with {before.threads}: the last bits may differ"
        return ""

    def _fastest(self, trial: Measurement, most: int) -> str:
        """Measure all configurations, set the best and describe it."""
        layouts = (False, True) if self._arrange is not None and self.replayed is None else (self.channels_last,)
        configs = [RunConfig(count, layout) for layout in layouts for count in candidates(most)]
        if len(configs) == 1:
            return ""
        seconds = self._measured(trial.run, configs)
        chosen = best(seconds)
        self._set(chosen)
        times = "; ".join(f"{config}: {format_seconds(seconds[config] / trial.steps)}" for config in sorted(seconds))
        layout = ", channels last" * chosen.channels_last
        return f"threads: {chosen.threads} of {most}{layout} (time of a step by threads: {times})"

    def _measured(self, step: Callable[[], object], configs: Sequence[RunConfig]) -> dict[RunConfig, float]:
        """Return seconds of a step by configuration: the mean of a few rounds in turn, or of one step if that is long.

        configs  of each layout, the most threads first
        """
        found: dict[RunConfig, float] = {}
        fewest = 1
        for config in configs:
            if config.threads < fewest or (config.channels_last and found[configs[0]] > _TOO_LONG):
                continue
            found[config] = elapsed = self._once(step, config)
            least = min(value for other, value in found.items() if other.channels_last == config.channels_last)
            shorter = elapsed <= _LONG or (elapsed == least and elapsed <= _DOUBTFUL)
            fewest = 1 if shorter else config.threads
        if min(found.values()) > _LONG:
            return found
        # The mean: a step of many threads waits for all of them, and is short by luck only where processors are busy.
        for number, slow in enumerate(_SLOW, 1):
            rest = [config for config, value in found.items() if value <= slow * min(found.values())]
            for config in rest if len(rest) > 1 else ():
                self._set(config)
                found[config] += (timed(step, _SHARE) - found[config]) / number
        return found

    def _once(self, step: Callable[[], object], config: RunConfig) -> float:
        """Return seconds of the second step with this configuration."""
        self._set(config)
        step()
        start = time.perf_counter()
        step()
        return time.perf_counter() - start

    def _set(self, config: RunConfig) -> None:
        torch.set_num_threads(config.threads)
        if self._arrange is not None and config.channels_last != self.channels_last:
            self._arrange(config.channels_last)
            self.channels_last = config.channels_last


def candidates(most: int) -> list[int]:
    """Return the numbers of threads to try: all, then powers of two downwards."""
    return [most, *(1 << power for power in range(most.bit_length() - 1, -1, -1) if 1 << power < most)]


def best(seconds: Mapping[RunConfig, float]) -> RunConfig:
    """Return the usual layout, unless the other is clearly faster, with the fewest threads of about the best time."""
    least = dict.fromkeys((False, True), math.inf)
    for config, value in seconds.items():
        least[config.channels_last] = min(least[config.channels_last], value)
    last = least[True] < _WORTH * least[False]
    return min(p for p, value in seconds.items() if p.channels_last == last and value <= least[last] * _ALIKE)


def format_seconds(seconds: float) -> str:
    """Return seconds, or milli- or microseconds, with three digits."""
    if seconds >= 0.9995:  # which rounds to 1
        return f"{seconds:.3g} s"
    return f"{seconds * 1e3:.3g} ms" if seconds >= 0.9995e-3 else f"{seconds * 1e6:.3g} us"


def timed(step: Callable[[], object], share: float) -> float:
    """Return seconds of a step, the mean over about `share` seconds."""
    steps, start = 0, time.perf_counter()
    while True:
        step()
        steps += 1
        elapsed = time.perf_counter() - start
        if elapsed >= share:
            return elapsed / steps


def sample(feed: Batches, number: int = 0) -> Blobs | None:
    """Return a batch of a feed by its number, without advancing the feed; None where batches have no numbers."""
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
    """Restore all buffers of the net (statistics, carried states) after the block."""
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
