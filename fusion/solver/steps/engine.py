"""Forward and backward of an iteration, by the quickest way that gives the same gradients."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor

from fusion.solver.feeds import CachedFeed, LiveFeed
from fusion.solver.options.precision import Precision
from fusion.solver.steps.compiling import Compilable
from fusion.solver.steps.layouts import has_foreign
from fusion.solver.steps.losses import EVERY
from fusion.solver.steps.pace import sample, untouched
from fusion.solver.steps.plain import Step, eager
from fusion.solver.steps.stepping import Behind, Traced, traced, traced_behind
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
        self.traced: Traced | Behind | None = None
        self._learn: Callable[[], None] | None = None
        self._large: Compilable | None = None if watched else Compilable(job.runs)
        step: Step = eager(job.runs, job.precision, self._large)
        self._measured = step
        if watched is not None:
            layers, asked = watched
            step = layers.instead(step, asked)
        elif settings.iter_size == 1 and (team is None or traceable(job.runs)):
            self._measured = step = self._trace() or step
        self._step = step if team is None else team.together(step)

    def _trace(self) -> Traced | Behind | None:
        """A traced step for the head, where the net has a frozen trunk, and what leaves the next batch's gradients."""
        job, feed = self._job, self._job.feed
        if isinstance(feed, CachedFeed):
            head = traced(job.runs, self._arena, feed)
            if head is not None:
                self._learn, self._large = partial(head.learn, feed), None
            self.traced = head
        elif isinstance(feed, LiveFeed) and self._team is None and not job.live:
            found, batch = split(job.net), sample(job)
            if found is not None and batch is not None:
                trunk = Compilable(found.trunk)
                run = partial(job.precision.outputs, trunk)
                whole = traced_behind(found, run, self._arena, [batch], _labels(job))
                if whole is not None:
                    self._learn, self._large = partial(whole.learn, feed), trunk
                self.traced = whole
        if self.traced is not None:
            self.precision = Precision()
        return self.traced

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
        step = self.trial()
        if step is None:
            return f"not compiled: {'several processes' if self._team else 'other code than ours'} runs in it"
        return self._large.choose(step, self._arena.updated[0].device, sure=before is True)

    def trial(self) -> Callable[[], object] | None:
        """A step on one batch, to be timed; what it leaves in the net is undone. None where it may not be repeated."""
        own = self._team is None and not has_foreign(self._job.net)  # others' code may count its calls
        blobs = sample(self._job) if own else None
        if blobs is None:
            return None

        def step() -> None:
            with untouched(self._job.net):
                self._arena.zero()
                self._measured(blobs)
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


def _labels(job: Job) -> dict[str, int]:
    """The blobs that hold labels known from the start, and how many different ones there can be."""
    found = {}
    for source in job.sources:
        labels = source.labels
        if labels is not None and len(source.tops) > 1 and len(labels) and labels.min() >= 0 and labels.max() < _MOST:
            found[source.tops[1]] = int(labels.max()) + 1
    return found
