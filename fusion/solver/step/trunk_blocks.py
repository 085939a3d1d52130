"""A frozen trunk that runs in each iteration, on several batches at once.

No update changes it, so it may run ahead of them. Small batches gain by it: layers are started less often, and the
head's small operations find their data in the caches, which a trunk fills with other data.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fusion.nets.graph import Net
from fusion.solver.batches import Blobs, LiveBatches
from fusion.solver.step.eager_step import Run
from fusion.solver.trunk_cache import records_at_once


class BlockBatches:
    """Batches with the outputs of the trunk, which runs on `count` batches at once, a block.

    Blocks begin at multiples of `count`, so that a resumed run computes the same ones.

    feed   the batches
    trunk  the trunk, and `run` that runs it
    count  how many of them are as many records as are well computed together
    also   computes more values from a block's blobs and the trunk's outputs
    """

    def __init__(self, feed: LiveBatches, trunk: Net, run: Run) -> None:
        self.feed, self.trunk, self.run = feed, trunk, run
        self.also: Run | None = None
        self.count = max(1, min(records_at_once(source) // source.batch_size for source in feed.sources))
        feed.depth = max(feed.depth, self.count)  # the next block is read while the trunk is at this one
        self._position = feed.position
        self._block: list[Blobs] = []
        self._error: Exception | None = None

    @property
    def position(self) -> int:
        """Return the number of batches handed out."""
        return self._position

    @position.setter
    def position(self, value: int) -> None:
        self._position, self._block = value, []

    def __iter__(self) -> BlockBatches:
        return self

    def __next__(self) -> Blobs:
        place = self._position % self.count
        if not place or not self._block:
            self._read(self._position - place)
        if place >= len(self._block) and self._error is not None:
            raise self._error
        self._position += 1
        return self._block[place]

    def close(self) -> None:
        """Stop reading ahead."""
        self.feed.close()

    def _read(self, start: int) -> None:
        """Compute the block; a batch that cannot be read raises its error when it is due."""
        self.feed.position, self._error, batches = start, None, list[Blobs]()
        try:
            while len(batches) < self.count:
                batches.append(next(self.feed))
        except Exception as error:
            self._error = error
        self._block = self.computed(batches) if batches else []

    def computed(self, batches: Sequence[Blobs]) -> list[Blobs]:
        """Return these batches, each with the trunk's outputs in the usual layout."""
        joined = batches[0] if len(batches) == 1 else {key: torch.cat([b[key] for b in batches]) for key in batches[0]}
        inputs = {key: joined[key] for key, _ in self.trunk.plan.inputs}
        with torch.no_grad():
            made = {key: blob.contiguous() for key, blob in self.run(inputs).items()}
            if self.also is not None:
                made.update(self.also({**joined, **made}))
            chunks = {key: blob.chunk(len(batches)) for key, blob in made.items()}
        return [{**blobs, **{key: parts[i] for key, parts in chunks.items()}} for i, blobs in enumerate(batches)]
