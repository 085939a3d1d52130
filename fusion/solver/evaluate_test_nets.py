"""Test a net: the average of its outputs over test_iter batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fusion.nets.build import loss_weights
from fusion.nets.graph import Net
from fusion.nets.weights import warn_of_dead_shares
from fusion.solver.batches import Batches, Blobs, CachedBatches
from fusion.solver.metrics import MeanOutputs
from fusion.solver.trunk_cache_files import MappedBatches

if TYPE_CHECKING:
    from fusion.distributed.process_group import ProcessGroup
    from prototxt.schema.messages import LayerParameter, NetParameter

_AVERAGED = ("Accuracy", "SoftmaxWithLoss", "EuclideanLoss", "MultinomialLogisticLoss", "HingeLoss")
_CHUNK = 1 << 14  # records evaluated at once where that gives the same averages


@dataclass(frozen=True, eq=False)
class TestNet:
    """A test net with its data.

    net         the net that runs: the whole net, or its head where the trunk is cached
    iterations  test_iter
    averaging   whether its outputs are means over the records of a batch, so that equal batches may be joined
    watched     runs instead of the net, layer by layer, or None
    """

    net: Net
    batches: Batches
    iterations: int
    averaging: bool = False
    watched: Callable[[Blobs], Blobs] | None = None


@torch.no_grad()
def measure(test: TestNet, group: ProcessGroup | None = None) -> MeanOutputs:
    """Run `test_iter` batches and average their outputs. As in Caffe, the data resumes where the last test ended.

    group  several processes divide the batches among them, where there is one for each
    Warns: DeadShares.
    """
    warn_of_dead_shares(test.net)
    totals: dict[str, Tensor] = {}
    shared = group if group is not None and test.iterations >= group.size else None
    start = test.batches.position
    first, last = shared.share(test.iterations) if shared is not None else (0, test.iterations)
    if first:
        test.batches.position += first  # each process reads its own range of the batches
    for blobs, count in _joined(test, last - first):
        for name, value in (test.watched or test.net)(blobs).items():
            part = value.detach().to(torch.float64).reshape(-1) * count
            totals[name] = totals[name] + part if name in totals else part
    if shared is not None:
        # sorted: all processes must reduce in the same order
        totals = {name: shared.add(totals[name]) for name in sorted(totals)}
        test.batches.position = start + test.iterations
    weights = loss_weights(test.net)
    return MeanOutputs(
        tuple((name, (totals[name] / test.iterations).tolist(), weights.get(name, 0.0)) for name in sorted(totals))
    )


def _joined(test: TestNet, iterations: int) -> Iterator[tuple[Blobs, int]]:
    """Yield the inputs of N batches, several at once where that is allowed, and the number of batches in each."""
    batches = test.batches
    apart = test.watched is not None or not test.averaging or isinstance(batches, MappedBatches)
    if apart or not isinstance(batches, CachedBatches):
        for _ in range(iterations):
            yield next(batches), 1
        return
    at_once = max(1, _CHUNK // batches.source.batch_size)
    for done in range(0, iterations, at_once):
        count = min(at_once, iterations - done)
        yield batches.next_many(count), count


def averages_records(net: NetParameter) -> bool:
    """Return whether every output is a mean over the records of a batch, each with the same weight."""
    taken = {bottom for layer in net.layer for bottom in layer.bottom}
    ends = [layer for layer in net.layer if layer.bottom and not (set(layer.top) & taken)]
    return bool(ends) and all(_is_mean(layer) for layer in ends)


def _is_mean(layer: LayerParameter) -> bool:
    if layer.type not in _AVERAGED or len(layer.top) > 1:
        return False
    if layer.accuracy_param.HasField("ignore_label") or layer.loss_param.HasField("ignore_label"):
        return False
    return layer.loss_param.normalization != layer.loss_param.NONE
