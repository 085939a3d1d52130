"""Measuring a test net: the average of its outputs over test_iter batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fusion.nets.build import loss_weights
from fusion.nets.dead_shares import warn_of_dead_shares
from fusion.nets.graph import Net
from fusion.solver.batches import Batches, Blobs, CachedBatches
from fusion.solver.trunk_cache_files import MappedFeed

if TYPE_CHECKING:
    from fusion.distributed.process_group import ProcessGroup
    from fusion.solver.logging.debug_info import Watched
    from prototxt.schema.messages import LayerParameter, NetParameter

_AVERAGED = ("Accuracy", "SoftmaxWithLoss", "EuclideanLoss", "MultinomialLogisticLoss", "HingeLoss")
_CHUNK = 1 << 14  # records evaluated at once where that gives the same averages


@dataclass(eq=False)
class Test:
    """A test net with its data.

    net         what runs: the net, or its head where the trunk is cached
    batches     test_iter
    averaging   its outputs are means over the records of a batch, so that batches of equal size may be joined
    watched     what runs instead of the net, if each layer is to be told of
    """

    net: Net
    feed: Batches
    batches: int
    averaging: bool = False
    watched: Watched | None = None


@dataclass(frozen=True)
class Average:
    """Mean outputs: values by name, in the order that Caffe prints, and each output's weight in the loss."""

    outputs: tuple[tuple[str, list[float], float], ...]

    @property
    def loss(self) -> float:
        """The mean of the total loss."""
        return sum(weight * value for _, values, weight in self.outputs for value in values)

    def __getitem__(self, name: str) -> float:
        return next(values[0] for output, values, _ in self.outputs if output == name)


@torch.no_grad()
def measure(test: Test, world: ProcessGroup | None = None) -> Average:
    """Run `test_iter` batches and average. The data goes on where the last test ended, as in Caffe.

    world  several processes share the batches out, where there is one for each
    Warns: DeadShares.
    """
    warn_of_dead_shares(test.net)
    totals: dict[str, Tensor] = {}
    shared = world if world is not None and test.batches >= world.size else None
    start = test.feed.position
    first, last = shared.share(test.batches) if shared is not None else (0, test.batches)
    if first:
        test.feed.position += first
    for blobs, batches in _joined(test, last - first):
        for name, value in (test.watched or test.net)(blobs).items():
            part = value.detach().to(torch.float64).reshape(-1) * batches
            totals[name] = totals[name] + part if name in totals else part
    if shared is not None:
        totals = {name: shared.add(totals[name]) for name in sorted(totals)}
        test.feed.position = start + test.batches
    weights = loss_weights(test.net)
    return Average(
        tuple((name, (totals[name] / test.batches).tolist(), weights.get(name, 0.0)) for name in sorted(totals))
    )


def _joined(test: Test, batches: int) -> Iterator[tuple[Blobs, int]]:
    """Inputs of so many batches, and how many each stands for."""
    feed = test.feed
    apart = test.watched is not None or not test.averaging or isinstance(feed, MappedFeed)
    if apart or not isinstance(feed, CachedBatches):
        for _ in range(batches):
            yield feed.take(), 1
        return
    together = max(1, _CHUNK // feed.source.batch_size)
    for done in range(0, batches, together):
        count = min(together, batches - done)
        yield feed.take_many(count), count


def averages_records(net: NetParameter) -> bool:
    """Whether every output is a mean over the records of a batch, each counting the same."""
    taken = {bottom for layer in net.layer for bottom in layer.bottom}
    ends = [layer for layer in net.layer if layer.bottom and not (set(layer.top) & taken)]
    return bool(ends) and all(_is_mean(layer) for layer in ends)


def _is_mean(layer: LayerParameter) -> bool:
    if layer.type not in _AVERAGED or len(layer.top) > 1:
        return False
    if layer.accuracy_param.HasField("ignore_label") or layer.loss_param.HasField("ignore_label"):
        return False
    return layer.loss_param.normalization != layer.loss_param.NONE
