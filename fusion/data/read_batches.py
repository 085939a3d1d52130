"""Batches in order, read by this process or by several workers; the batches are the same.

The records of a batch, and its random crops and flips, depend on the source's seed and the batch's number alone. So
each of N workers makes every Nth batch, and the workers need not communicate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle
from typing import TYPE_CHECKING

from fusion.data.in_step_sources import InStep, members_of
from fusion.data.sharding import Shard, ShardSpec
from fusion.data.source import DataSource, ImageSource
from fusion.data.worker_pipe import PATIENCE, WorkerError, running
from fusion.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

_SHOWN = 5


def batches(
    source: DataSource, start: int = 0, *, workers: int = 0, patience: float = PATIENCE
) -> Iterator[dict[str, Tensor]]:
    """Yield the source's batches from number `start` on, without end.

    workers   processes that read; 0: this one. Arrays, fillers and data that is kept in memory need none
    patience  seconds without a sign of life after which a worker is given up
    Raises    DataError for records that cannot be read, and when a worker dies
    """
    whole, part = (source.source, source.part) if isinstance(source, Shard) else (source, ShardSpec())
    read = whole.members if isinstance(whole, InStep) else (whole,)
    images = [member for member in read if isinstance(member, ImageSource)]
    # Data that this process keeps in memory would be decoded again by workers, for every batch.
    if workers > 0 and len(images) == len(read) and not all(member.store.keeps for member in images):
        yield from _by_workers(images, part, start, workers, patience)
    for number, indices in enumerate(source.order(start), start):
        yield source.batch(indices, draw=number)


def bad_records(sources: Sequence[DataSource]) -> dict[str, DataError]:
    """Return the errors of the records that were skipped so far, by place (`list.txt:7`)."""
    found: dict[str, DataError] = {}
    for source in sources:
        for member in members_of(source):
            found.update((member.place(index), error) for index, error in sorted(member.bad.items()))
    return found


def skipped_lines(sources: Sequence[DataSource]) -> list[str]:
    """Return the lines about skipped records for the end of a run; none where all were good."""
    found = bad_records(sources)
    if not found:
        return []
    lines = [f"warning: {len(found)} bad records were skipped, and the next good ones taken instead:"]
    lines += [f"  {place}: {error.message}" for place, error in list(found.items())[:_SHOWN]]
    return lines + ([f"  and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else [])


def _by_workers(
    sources: Sequence[ImageSource], part: ShardSpec, start: int, workers: int, patience: float
) -> Iterator[dict[str, Tensor]]:
    """Take batches from the workers in turn; worker number w makes the batches start + w, start + w + workers, ..."""
    configs = [source.config.to_json() for source in sources]
    jobs = [
        {"configs": configs, "part": vars(part), "first": start + number, "step": workers} for number in range(workers)
    ]
    with running(jobs) as started:
        for worker in cycle(started):
            try:
                head, (indices, *values) = worker.receive(patience)
            except WorkerError as error:
                hint = "is there too little memory? Take fewer workers, or 0 to read in this process"
                raise DataError(f"a reading process {error}", hint=hint) from error
            blobs: dict[str, Tensor] = {}
            for source, bad, pixels in zip(sources, head["bad"], values, strict=True):
                source.bad.update({int(i): DataError(text, place=source.place(int(i))) for i, text in bad.items()})
                blobs.update(source.finish(pixels, indices))
            yield blobs
