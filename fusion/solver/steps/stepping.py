"""Forward and backward of one iteration as a flat list of operations, traced once.

A small head spends more time in autograd's and the modules' bookkeeping than in arithmetic. Traced, an iteration is
the same operations in a straight line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, fx, nn

from fusion.graph import Net
from fusion.nets import total_loss
from fusion.solver.feeds import Blobs, CachedFeed
from fusion.solver.steps.arena import Arena
from fusion.solver.steps.columns import check_labels, fill, settle, take_out
from fusion.solver.steps.plain import eager
from fusion.solver.steps.programs import shorten
from fusion.solver.steps.recording import record
from fusion.solver.steps.tables import tabulate

# Makes a trace shorter, given its inputs' keys and tensors that change between steps; returns keys of further inputs.
Prepare = Callable[[fx.GraphModule, list[str], Sequence[Tensor]], list[str]]

# Layers without randomness and without a memory of earlier calls, so that one trace stands for all iterations.
TRACEABLE = frozenset(
    {
        *("AbsVal", "Accuracy", "BNLL", "BCTLoss", "Bias", "Clip", "Concat", "ELODILoss", "ELU", "Eltwise"),
        *("EuclideanLoss", "Exp", "Flatten", "FocalDistillationLoss", "HingeLoss", "InnerProduct", "KDLoss", "LDILoss"),
        *("Log", "LogitMatchingLoss", "NaivePCTLoss", "PReLU", "Power", "ReLU", "Reshape", "Scale", "Sigmoid"),
        *("SigmoidCrossEntropyLoss", "Silence", "Slice", "Softmax", "SoftmaxWithLoss", "Split", "Swish", "TanH"),
        "WeightedSum",
    }
)
_CLOSE = 1e-5
_ROOM = 1 << 29  # bytes for what is kept beside the records of a feed


def traced(net: Net, arena: Arena, feed: CachedFeed) -> Traced | None:
    """A step from a trace; it overwrites the gradients. None where the net or the number of records do not allow it.

    The trace is made with the feed's first batch and must give autograd's gradients for this and the next. What
    follows from a record alone becomes further rows of the feed.
    """
    size, records = feed.source.batch_size, len(feed.source)
    if records < size:
        return None

    def batches() -> list[Blobs]:
        return [feed.pick(np.arange(start, start + size) % records) for start in (0, size)]

    before = set(feed.rows)
    step = _checked(net, arena, batches, partial(_take_columns, feed))
    if step is None:
        feed.keep(before)
    return step


def traced_behind(net: Net, arena: Arena, batches: Sequence[Blobs], labels: Mapping[str, int]) -> Traced | None:
    """The same for a head whose records are not the same ones again and again: they come out of a trunk, or are drawn.

    batches  some; the trace is made with the first and checked with all
    labels   which blobs hold labels from 0 on, and how many different ones there are
    """

    def look_up(program: fx.GraphModule, keys: Sequence[str], living: Sequence[Tensor]) -> list[str]:
        places = program.graph.find_nodes(op="placeholder")
        known = [(place, labels[key]) for place, key in enumerate(keys) if key in labels]
        batch = len(batches[0][keys[0]])
        rows = max((batch, *(count for _, count in known)))
        every = {places[place]: _every(count, rows, places[place]) for place, count in known}
        check_labels(program, batch, living, every)
        for place, count in known:
            tabulate(program, batch, living, place, count)
        return []

    return _checked(net, arena, lambda: batches, look_up)


def _checked(net: Net, arena: Arena, batches: Callable[[], Sequence[Blobs]], prepare: Prepare) -> Traced | None:
    """A trace that gives autograd's gradients for all of these batches, or None.

    It is tried at small weights of its own, so that a run that goes on from a snapshot decides as it did at its start:
    where a net is nearly perfect, its gradients are as small as their rounding.
    """
    if arena.single or not {call.type for call in net.plan.calls} <= TRACEABLE:
        return None
    params = [blob.tensor for blob, home in zip(arena.blobs, arena.homes, strict=True) if home is not None]
    if not all(isinstance(param, nn.Parameter) for param in params):
        return None
    try:
        step = _trace(net, arena, params, batches()[0], prepare)
        with _weights_of_its_own(arena):
            agrees = all(_agrees(net, arena, step, blobs) for blobs in batches())
    except Exception:  # whatever a layer does that cannot be traced, autograd can do it
        agrees = False
    arena.zero()
    return step if agrees else None


@contextmanager
def _weights_of_its_own(arena: Arena) -> Iterator[None]:
    """In the block all that learns has small values, the same each time; behind it, its own again."""
    before = [flat.detach().clone() for flat in arena.flat]
    generator = torch.Generator().manual_seed(0)
    try:
        with torch.no_grad():
            for flat in arena.flat:
                flat.copy_(0.01 * torch.randn(flat.shape, generator=generator, dtype=flat.dtype))
        yield
    finally:
        with torch.no_grad():
            for flat, values in zip(arena.flat, before, strict=True):
                flat.copy_(values)


def _every(count: int, rows: int, label: fx.Node) -> Tensor:
    """Labels from 0 to count - 1, again and again, in so many rows."""
    value = label.meta["val"]
    numbers = torch.arange(rows, device=value.device) % count
    return numbers.to(value.dtype).reshape(-1, *[1] * (value.dim() - 1)).expand(-1, *value.shape[1:])


class Traced:
    """A traced step.

    program  gives the outputs, the loss and the gradients for rows with these keys
    names    of the outputs
    targets  each flat gradient, and the numbers of the parameters that lie in it

    needs    keys of the rows that the gradients follow from
    """

    def __init__(
        self,
        program: fx.GraphModule,
        keys: Sequence[str],
        names: Sequence[str],
        targets: list[tuple[Tensor, list[int]]],
    ) -> None:
        self._names, self._targets = tuple(names), targets
        self._whole = _part(program, keys, 0)
        self._quick = _part(program, keys, len(names) + 1)
        self.needs = self._quick.keys

    def __call__(self, blobs: Blobs) -> tuple[dict[str, Tensor], Tensor]:
        """Outputs and loss; leaves the gradients in the arena."""
        with torch.inference_mode():
            results = self._whole(blobs)
            count = len(self._names)
            self._leave(results[count + 1 :])
        return dict(zip(self._names, results, strict=False)), results[count]

    def gradients(self, blobs: Blobs) -> None:
        """Leave the gradients in the arena, and work out nothing else."""
        with torch.inference_mode():
            self._leave(self._quick(blobs))

    def _leave(self, gradients: Sequence[Tensor]) -> None:
        for flat, members in self._targets:
            torch.cat([gradients[i].reshape(-1) for i in members], out=flat)


class _Part(NamedTuple):
    """Some of a program's results, the keys of the rows that they follow from, and the tensors of its own."""

    keys: tuple[str, ...]
    own: tuple[Tensor, ...]
    run: Callable[..., list[Tensor]]

    def __call__(self, blobs: Blobs) -> list[Tensor]:
        return self.run(*[blobs[key] for key in self.keys], *self.own)


def _part(program: fx.GraphModule, keys: Sequence[str], start: int) -> _Part:
    """The results from number `start` on."""
    graph = fx.Graph()
    results = graph.graph_copy(program.graph, {})
    assert isinstance(results, (list, tuple))
    graph.output(list(results[start:]))
    graph.eliminate_dead_code()
    places = graph.find_nodes(op="placeholder")
    last, own = places[-1], []
    for node in graph.find_nodes(op="get_attr"):  # as arguments, they need not be looked up in each call
        own.append(getattr(program, str(node.target)))
        with graph.inserting_after(last):
            last = graph.placeholder(node.name)
        node.replace_all_uses_with(last)
        graph.erase_node(node)
    used = []
    for key, node in zip(keys, places, strict=True):
        if node.users:
            used.append(key)
        else:
            graph.erase_node(node)
    return _Part(tuple(used), tuple(own), fx.GraphModule({}, graph).forward)


def _trace(net: Net, arena: Arena, params: list[Tensor], sample: Blobs, prepare: Prepare) -> Traced:
    keys = [key for key, _ in net.plan.inputs]
    names: list[str] = []

    def whole(*values: Tensor) -> list[Tensor]:
        out = net(dict(zip(keys, values, strict=True)))
        names[:] = out
        loss = total_loss(net, out)
        gradients = torch.autograd.grad(loss, params, allow_unused=True)
        used = [torch.zeros_like(p) if g is None else g for p, g in zip(params, gradients, strict=True)]
        return [*out.values(), loss.detach(), *used]

    program = record(whole, *(sample[key] for key in keys))
    living = [*net.parameters(), *net.buffers()]
    shorten(program, living)
    keys += prepare(program, keys, living)
    return Traced(program, keys, names, _targets(arena))


def _take_columns(
    feed: CachedFeed, program: fx.GraphModule, keys: Sequence[str], living: Sequence[Tensor]
) -> list[str]:
    """Keep what follows from each record beside the feed's rows; returns the keys of the new ones."""
    size = feed.source.batch_size
    rows = dict(zip(program.graph.find_nodes(op="placeholder"), (feed.rows[key] for key in keys), strict=True))
    check_labels(program, size, living, rows)
    maker = take_out(program, size, living, _ROOM // len(feed.source))
    if maker is None:
        return []
    device = next(tensor.device for tensor in living)
    columns = fill(maker, [feed.rows[key] for key in keys], size, device)
    return feed.add(settle(program, columns, size))


def _targets(arena: Arena) -> list[tuple[Tensor, list[int]]]:
    """Each flat gradient, and the numbers of the parameters that lie in it, in their order."""
    found: dict[Tensor, list[tuple[int, int]]] = {}
    homes = [home for home in arena.homes if home is not None]
    for index, (flat, start) in enumerate(homes):
        found.setdefault(flat, []).append((start, index))
    return [(flat.grad, [i for _, i in sorted(members)]) for flat, members in found.items() if flat.grad is not None]


def _agrees(net: Net, arena: Arena, step: Traced, blobs: Blobs) -> bool:
    """Whether the traced step gives autograd's loss and gradients for this batch, with and without outputs."""
    arena.zero()
    _, expected = eager(net)(blobs)
    gradients = [flat.grad.clone() for flat in arena.flat if flat.grad is not None]
    for run in (step, step.gradients):
        arena.zero()
        result = run(blobs)
        pairs = zip([flat.grad for flat in arena.flat if flat.grad is not None], gradients, strict=True)
        if not all(_close(ours, theirs) for ours, theirs in pairs):
            return False
        if result is not None and not _close(result[1], expected):
            return False
    return True


def _close(ours: Tensor, theirs: Tensor) -> bool:
    scale = theirs.abs().max().item()
    return bool((ours - theirs).abs().max().item() <= _CLOSE * scale)
