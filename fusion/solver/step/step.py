"""Forward and backward of an iteration, by the quickest way that gives the same gradients."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fusion.errors import DataError
from fusion.layers.score_gradients import NoClosedFormError
from fusion.nets.split import split_trunk
from fusion.solver.batches import Blobs, CachedBatches, LiveBatches
from fusion.solver.data_parallel import DataParallel, is_independent
from fusion.solver.mixed_precision import Precision
from fusion.solver.step.autotune import Measurement, sample, untouched
from fusion.solver.step.closed_form import ClosedForm
from fusion.solver.step.compile import Compilable
from fusion.solver.step.eager_step import Step, eager
from fusion.solver.step.loss_window import EVERY
from fusion.solver.step.memory_format import has_foreign
from fusion.solver.step.trunk_blocks import BlockBatches

if TYPE_CHECKING:
    from fusion.solver.logging.debug_info import Watched
    from fusion.solver.net_with_data import NetWithData
    from fusion.solver.settings import Settings
    from fusion.solver.signals import Requests
    from fusion.solver.step.flat_params import FlatParams


class Engine:
    """A head in closed form where it has one, else autograd; with the other processes, where there are some.

    closed     the head in closed form, or None
    choice     which of the two it is and why, in words
    batches    that the steps take: those of the net, or after a live trunk blocks of them
    precision  of the gradients: a head in closed form computes in float32, since starting its operations takes longest
    """

    def __init__(
        self,
        job: NetWithData,
        flat_params: FlatParams,
        settings: Settings,
        data_parallel: DataParallel | None,
        watched: tuple[Watched, Callable[[], bool]] | None,
    ) -> None:
        self._job, self._flat_params, self._settings, self._data_parallel = job, flat_params, settings, data_parallel
        self.precision = job.precision
        self.batches = job.batches
        self.closed: ClosedForm | None = None
        self._compilable: Compilable | None = None if watched or job.by_layer else Compilable(job.active_net)
        step: Step = eager(job.active_net, job.precision, self._compilable)
        self._measured = step
        reason = ""
        if job.by_layer is not None:
            self._measured = step = job.by_layer.step
            reason = "a script sees each layer"
        elif watched is not None:
            layers, is_due = watched
            step, reason = layers.instead(step, is_due), "debug_info shows layers"
        elif settings.iter_size != 1:
            reason = f"iter_size is {settings.iter_size}"
        elif data_parallel is not None and not is_independent(job.active_net):
            reason = "a layer communicates with the other processes"
        else:
            try:
                self._measured = step = self._in_closed_form()
            except NoClosedFormError as error:
                reason = str(error)
        self.choice = f"gradients: autograd, because {reason}" if reason else "gradients: closed form of the head"
        self._step = step if data_parallel is None else data_parallel.in_step(step)

    def _in_closed_form(self) -> Step:
        """Return a step for the head after a frozen trunk, kept or live. Raises: NoClosedFormError."""
        job, feed = self._job, self.batches
        if isinstance(feed, CachedBatches):
            before, reason = set(feed.rows), ""
            try:
                first = feed.pick(np.arange(feed.source.batch_size) % len(feed.source))
                head = ClosedForm(job.active_net, first).keep(feed)
            except NoClosedFormError as error:
                reason = str(error)
            if self._data_parallel is not None and not self._data_parallel.all(not reason):
                reason = reason or "another process has none"  # gradients that are averaged must be in one precision
                feed.keep(before)
            if reason:
                raise NoClosedFormError(reason)
            self._compilable, self.closed = None, head
            step: Step = head
        elif isinstance(feed, LiveBatches) and self._data_parallel is None and not job.no_cache_reason:
            step = self._after_live_trunk(feed)
        else:
            raise NoClosedFormError(job.no_cache_reason or "several processes share a live trunk")
        self.precision = Precision()
        return step

    def _after_live_trunk(self, feed: LiveBatches) -> Step:
        job, found, batch = self._job, split_trunk(self._job.net), sample(feed)
        if found is None or batch is None:
            raise NoClosedFormError("no frozen layers lie below those that learn")
        trunk = Compilable(found.trunk)
        blocks = BlockBatches(feed, found.trunk, partial(job.precision.outputs, trunk))
        (first,) = blocks.computed([batch])
        head = ClosedForm(found.head, first).follow(first)
        blocks.also = head.constants
        self.batches, self._compilable, self.closed = blocks, trunk, head
        sides = [key for key, _ in found.trunk.plan.outputs if key not in found.boundary]

        def step(blobs: Blobs) -> tuple[dict[str, Tensor], Tensor]:
            out, loss = head(blobs)
            return {**{key: blobs[key] for key in sides}, **out}, loss

        return step

    @property
    def compiled(self) -> bool:
        """Return whether the net in each iteration is compiled."""
        return self._compilable is not None and self._compilable.compiled

    def compile(self, before: bool | None) -> str:
        """Compile the net or its trunk where that is faster; returns a line for the log.

        before  whether the step that wrote the snapshot was compiled, which is repeated; None: no snapshot
        """
        if before is False:
            return "not compiled, as the snapshot was written"
        if self._compilable is None:
            whole = "the head is a handful of operations already" if self.closed else "layers run one at a time"
            return f"not compiled: {whole}"
        if self._data_parallel is not None:
            return "not compiled: several processes train together"
        if has_foreign(self._job.net):
            return "not compiled: there is other people's code in the net, whose calls may count"
        trial = self.trial()
        if trial is None:
            return "not compiled: no batch can be had to try it on"
        return self._compilable.choose(trial, self._flat_params.updated[0].device, sure=before is True)

    def trial(self) -> Measurement | None:
        """Return steps to be timed, without effect on the net; None where they may not be repeated."""
        feed = self.batches
        blocks = feed if isinstance(feed, BlockBatches) else None
        own = self._data_parallel is None and not has_foreign(self._job.net)  # others' code may count its calls
        count = 1 if blocks is None else blocks.count
        try:
            batches = [sample(feed if blocks is None else blocks.feed, number) for number in range(count if own else 0)]
        except DataError:  # raised again when the batch is due
            return None
        known = [blobs for blobs in batches if blobs is not None]
        if not known:
            return None

        def run() -> None:
            with untouched(self._job.net):
                self._flat_params.zero()
                for blobs in known if blocks is None else blocks.computed(known):
                    self._measured(blobs)
                self._flat_params.zero()

        return Measurement(run, count)

    def window_end(self, iteration: int, stop: int) -> int:
        """Return where a window from this iteration on ends: nobody reads the losses in it, gradients are enough.

        Loss layers run in Python: those of two references take 1.8 ms, as long as 15 steps of the gradients. So ends
        of windows of EVERY iterations look at the gradients instead (`is_finite`).
        """
        settings = self._settings
        if self.closed is None or self._data_parallel is not None or settings.average_loss > 1:
            return iteration
        ends = [stop - 1, iteration + EVERY - iteration % EVERY]
        if settings.display:
            ends.append(iteration + -iteration % settings.display)
        if settings.snapshot:
            ends.append(iteration + settings.snapshot - 1 - iteration % settings.snapshot)
        if settings.test_interval:
            ends.append(iteration + settings.test_interval - iteration % settings.test_interval)
        return min(ends)

    def window(self) -> AbstractContextManager[object]:
        """Return a context for all calls of `learn` in a window."""
        assert self.closed is not None, "as window_end says"
        self.closed.attach()
        kept = isinstance(self.batches, CachedBatches)  # a live trunk may be compiled, which is done for one mode
        return torch.inference_mode() if kept else torch.no_grad()

    def learn(self, iteration: int) -> None:
        """Leave the gradients of the next batch in the flat parameters; in a context of `window`."""
        self._set_warmups(iteration)
        assert self.closed is not None, "as window_end says"
        feed = self.batches
        if isinstance(feed, CachedBatches) and feed.in_memory:
            self.closed.gradients_at(feed.next_place())
        else:
            self.closed.gradients(next(feed))

    def is_finite(self) -> bool:
        """Return whether the last gradients are numbers; if not, step back to their batch, so that `run` repeats it."""
        assert self.closed is not None, "as window_end says"
        finite = self.closed.is_finite()
        if not finite:
            self.batches.position -= 1
        return finite

    def run(self, iteration: int, requests: Requests) -> tuple[dict[str, Tensor], Tensor]:
        """Add up the gradients of iter_size batches; returns the last one's outputs and the mean loss."""
        self._set_warmups(iteration)
        feed, size = self.batches, self._settings.iter_size
        if self.closed is None:
            self._flat_params.zero()
        out, total = self._step(next(feed))
        for _ in range(size - 1):
            out, loss = self._step(next(feed))
            total = total + loss
        if self._data_parallel is not None:
            total = self._data_parallel.average(total, requests, iteration)
        return out, total if size == 1 else total / size

    @torch.no_grad()
    def outputs(self, blobs: Blobs) -> dict[str, Tensor]:
        """Return the net's outputs for a batch, computed as in an iteration."""
        if self._job.by_layer is not None:
            return self._job.by_layer(blobs)
        if isinstance(self.batches, BlockBatches):
            return self._step(blobs)[0]
        return self.precision.outputs(self._job.active_net, blobs)

    def _set_warmups(self, iteration: int) -> None:
        for warmup in self._job.warmups:
            warmup.set(iteration)
