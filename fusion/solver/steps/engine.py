"""Forward and backward of an iteration, by the quickest way that gives the same gradients."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fusion.errors import DataError
from fusion.solver.feeds import Blobs, CachedFeed, LiveFeed
from fusion.solver.options.precision import Precision
from fusion.solver.steps.blocks import BlockFeed
from fusion.solver.steps.compiling import Compilable
from fusion.solver.steps.layouts import has_foreign
from fusion.solver.steps.losses import EVERY
from fusion.solver.steps.pace import Trial, sample, untouched
from fusion.solver.steps.plain import Step, eager
from fusion.solver.steps.stepping import Traced, traced, traced_behind
from fusion.solver.team import Team, traceable
from fusion.trunk import split

if TYPE_CHECKING:
    from fusion.solver.interrupts import Requests
    from fusion.solver.jobs import Job
    from fusion.solver.settings import Settings
    from fusion.solver.steps.arena import Arena
    from fusion.solver.watching.debugging import Watched


_MOST = 4096  # labels that are worth a table


class Engine:
    """A traced step for small heads on cached rows, else autograd; with the other processes, where there are some.

    traced     the traced step, or None
    precision  of the gradients: a traced head reckons in float32, for it waits for the start of its operations
    """

    def __init__(
        self,
        job: Job,
        arena: Arena,
        settings: Settings,
        team: Team | None,
        watched: tuple[Watched, Callable[[], bool]] | None,
    ) -> None:
        self._job, self._arena, self._settings, self._team = job, arena, settings, team
        self.precision = job.precision
        self.traced: Traced | None = None
        self._large: Compilable | None = None if watched else Compilable(job.runs)
        step: Step = eager(job.runs, job.precision, self._large)
        self._measured = step
        if watched is not None:
            layers, asked = watched
            step = layers.instead(step, asked)
        elif settings.iter_size == 1 and (team is None or traceable(job.runs)):
            self._measured = step = self._trace() or step
        self._step = step if team is None else team.together(step)

    def _trace(self) -> Step | None:
        """A traced step for the head, where the net has a frozen trunk that is kept or runs in each iteration."""
        job, feed = self._job, self._job.feed
        step: Step | None = None
        if isinstance(feed, CachedFeed):
            before = set(feed.rows)
            head = traced(job.runs, self._arena, feed)
            if self._team is not None and not self._team.all(head is not None):
                head = None  # gradients that are averaged must be in one precision
                feed.keep(before)
            if head is not None:
                self.traced = step = head
                self._large = None
        elif isinstance(feed, LiveFeed) and self._team is None and not job.live:
            step = self._trace_behind(feed)
        if step is not None:
            self.precision = Precision()
        return step

    def _trace_behind(self, feed: LiveFeed) -> Step | None:
        job, found, batch = self._job, split(self._job.net), sample(feed)
        if found is None or batch is None:
            return None
        trunk = Compilable(found.trunk)
        blocks = BlockFeed(feed, found.trunk, partial(job.precision.outputs, trunk))
        head = traced_behind(found.head, self._arena, blocks.computed([batch]), _labels(job))
        if head is None:
            return None
        job.feed, self._large, self.traced = blocks, trunk, head
        sides = [key for key, _ in found.trunk.plan.outputs if key not in found.boundary]

        def step(blobs: Blobs) -> tuple[dict[str, Tensor], Tensor]:
            out, loss = head(blobs)
            return {**{key: blobs[key] for key in sides}, **out}, loss

        return step

    @property
    def compiled(self) -> bool:
        """Whether torch's compiler has made what runs in each iteration."""
        return self._large is not None and self._large.compiled

    def compile(self, before: bool | None) -> str:
        """Compile what runs in each iteration where that is faster; returns what to say.

        before  what a snapshot was written with, which is done again; None: there is none
        """
        if before is False:
            return "not compiled, as the snapshot was written"
        if self._large is None:
            whole = "the head is a straight list of operations already" if self.traced else "debug_info shows layers"
            return f"not compiled: {whole}"
        if self._team is not None:
            return "not compiled: several processes train together"
        if has_foreign(self._job.net):
            return "not compiled: there is other people's code in the net, whose calls may count"
        trial = self.trial()
        if trial is None:
            return "not compiled: no batch can be had to try it on"
        return self._large.choose(trial, self._arena.updated[0].device, sure=before is True)

    def trial(self) -> Trial | None:
        """Steps to be timed; what they leave in the net is undone. None where they may not be repeated."""
        feed = self._job.feed
        blocks = feed if isinstance(feed, BlockFeed) else None
        own = self._team is None and not has_foreign(self._job.net)  # others' code may count its calls
        count = 1 if blocks is None else blocks.count
        try:
            batches = [sample(feed if blocks is None else blocks.feed, number) for number in range(count if own else 0)]
        except DataError:  # it is one when its batch is due
            return None
        known = [blobs for blobs in batches if blobs is not None]
        if not known:
            return None

        def run() -> None:
            with untouched(self._job.net):
                self._arena.zero()
                for blobs in known if blocks is None else blocks.computed(known):
                    self._measured(blobs)
                self._arena.zero()

        return Trial(run, count)

    def is_unseen(self, iteration: int, stop: int, asked: Requests) -> bool:
        """Whether nothing will ask for an iteration's loss, so that its gradients are enough."""
        settings, after = self._settings, iteration + 1
        if self.traced is None or self._team is not None or settings.average_loss > 1 or asked.stop or asked.snapshot:
            return False
        if after == stop or after % EVERY == 0 or (settings.display and iteration % settings.display == 0):
            return False
        return not any(interval and after % interval == 0 for interval in (settings.snapshot, settings.test_interval))

    def learn(self, iteration: int) -> None:
        """Leave the gradients of the next batch in the arena."""
        self._set_ramps(iteration)
        assert self.traced is not None, "is_unseen has said so"
        feed = self._job.feed
        self.traced.gradients(feed.take(self.traced.needs) if isinstance(feed, CachedFeed) else feed.take())

    def run(self, iteration: int, asked: Requests) -> tuple[dict[str, Tensor], Tensor]:
        """Add up the gradients of iter_size batches; returns the last one's outputs and the mean loss."""
        self._set_ramps(iteration)
        feed, size = self._job.feed, self._settings.iter_size
        if self.traced is None:
            self._arena.zero()
        out, total = self._step(feed.take())
        for _ in range(size - 1):
            out, loss = self._step(feed.take())
            total = total + loss
        if self._team is not None:
            total = self._team.average(total, asked, iteration)
        return out, total if size == 1 else total / size

    @torch.no_grad()
    def outputs(self, blobs: Blobs) -> dict[str, Tensor]:
        """The net's outputs for a batch of its feed, worked out as in an iteration."""
        if isinstance(self._job.feed, BlockFeed):
            return self._step(blobs)[0]
        return self.precision.outputs(self._job.runs, blobs)

    def _set_ramps(self, iteration: int) -> None:
        for ramp in self._job.ramps:
            ramp.set(iteration)


def _labels(job: Job) -> dict[str, int]:
    """The blobs that hold labels known from the start, and how many different ones there can be."""
    found = {}
    for source in job.sources:
        labels = source.labels
        if labels is not None and source.label_tops and len(labels) and labels.min() >= 0 and labels.max() < _MOST:
            found[source.label_tops[0]] = int(labels.max()) + 1
    return found
