"""What comes in front of the first iteration: data is read, frozen trunks are computed, tests are counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch

from fusion.data.class_order import sorted_classes_warning
from fusion.solver.batches import load_all
from fusion.solver.evaluate_test_nets import Test, averages_records
from fusion.solver.step.memory_format import has_filters, set_layout
from fusion.solver.trunk_cache import cache_trunk

if TYPE_CHECKING:
    from fusion.data import Source
    from fusion.solver.logging.console import Display
    from fusion.solver.logging.debug_info import Watched
    from fusion.solver.net_with_data import NetWithData
    from fusion.solver.trunk_cache_files import TrunkFiles


def read_ahead(
    jobs: Sequence[NetWithData], budget: int, files: TrunkFiles | None, display: Display, device: torch.device
) -> None:
    """Read what fits into memory, and keep the outputs of frozen trunks (`trunks.cache_trunk`); no feed moves on."""
    for job in jobs:
        phase = job.net.plan.phase
        if device.type == "cuda" and job.precision.dtype is not None:
            set_layout(job.net, channels_last=True)  # what its matrix units work on; a CPU's layout is measured
        if phase == "TRAIN":
            tell_order(job.sources, display)
        load_all(job.sources, partial(display.progress, f"decoding ({phase})"))
        position = job.feed.position
        outcome = cache_trunk(job, budget, display, device, files)
        job.feed.position = position
        display.say(f"{phase} net: {outcome}")


def tell_order(sources: Sequence[Source], display: Display) -> None:
    """Say where the records of training come sorted by class."""
    for source in sources:
        line = sorted_classes_warning(source)
        if line is not None:
            display.say(line)


def layout_setter(jobs: Sequence[NetWithData], device: torch.device) -> Callable[[bool], None] | None:
    """What lays the nets out with the channels last, or not; None where that makes no difference to training.

    jobs  the net in training comes first
    """
    if device.type != "cpu" or not has_filters(jobs[0].runs):
        return None

    def arrange(channels_last: bool) -> None:
        for job in jobs:
            set_layout(job.net, channels_last)

    return arrange


def tests_of(
    jobs: Sequence[NetWithData], iterations: Sequence[int], watched: Callable[[NetWithData], Watched] | None
) -> list[Test]:
    """The test nets; one that has no number of iterations is one to choose by, which sees all records once."""
    rest = [max(-(-len(source) // source.batch_size) for source in job.sources) for job in jobs[len(iterations) :]]
    return [
        Test(job.runs, job.feed, count, averages_records(job.message), watched(job) if watched else None)
        for job, count in zip(jobs, [*iterations, *rest], strict=True)
    ]
