"""Forward and backward of an iteration, by the quickest way that gives the same gradients."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor

from fusion.solver.feeds import CachedFeed, LiveFeed
from fusion.solver.steps.layouts import has_foreign
from fusion.solver.steps.losses import EVERY
from fusion.solver.steps.pace import sample, untouched
from fusion.solver.steps.stepping import Behind, Step, Traced, eager, traced, traced_behind
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

    traced  the traced step, or None
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
        self.traced: Traced | Behind | None = None
        self._learn: Callable[[], None] | None = None
        step: Step = eager(job.runs, arena)
        if watched is not None:
            layers, asked = watched
            step = layers.instead(step, asked)
        elif settings.iter_size == 1 and (team is None or traceable(job.runs)):
            self._learn, found = _traced(job, arena, alone=team is None)
            self.traced, step = found, found or step
        self._step = step if team is None else team.together(step)

    def trial(self) -> Callable[[], object] | None:
        """A step on one batch, to be timed on a CPU; what it leaves in the net is undone."""
        on_cpu = self._arena.updated[0].device.type == "cpu"
        own = self._team is None and on_cpu and not has_foreign(self._job.net)  # others' code may count its calls
        blobs = sample(self._job) if own else None
        if blobs is None:
            return None

        def step() -> None:
            with untouched(self._job.net):
                self._arena.zero()
                self._step(blobs)
                self._arena.zero()

        return step

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
        assert self._learn is not None, "there is a traced step"
        self._learn()

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

    def _set_ramps(self, iteration: int) -> None:
        for ramp in self._job.ramps:
            ramp.set(iteration)


def _traced(job: Job, arena: Arena, alone: bool) -> tuple[Callable[[], None], Traced | Behind] | tuple[None, None]:
    """A traced step for the head, where the net has a frozen trunk; and what leaves the next batch's gradients.

    alone  whether no other process trains with this one
    """
    feed = job.feed
    if isinstance(feed, CachedFeed):
        head = traced(job.runs, arena, feed)
        return (None, None) if head is None else (partial(head.learn, feed), head)
    found = split(job.net) if alone and not job.live and isinstance(feed, LiveFeed) else None
    if found is None or not isinstance(feed, LiveFeed):
        return None, None
    batch = sample(job)
    whole = None if batch is None else traced_behind(found, arena, [batch], _labels(job))
    return (None, None) if whole is None else (partial(whole.learn, feed), whole)


def _labels(job: Job) -> dict[str, int]:
    """The blobs that hold labels known from the start, and how many different ones there can be."""
    found = {}
    for source in job.sources:
        labels = source.labels
        if labels is not None and len(source.tops) > 1 and len(labels) and labels.min() >= 0 and labels.max() < _MOST:
            found[source.tops[1]] = int(labels.max()) + 1
    return found
