"""Forward and backward of one iteration: through autograd, or as a flat list of operations traced once.

A small head spends more time in autograd's and the modules' bookkeeping than in arithmetic. Traced, an iteration is
the same operations in a straight line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, fx, nn

from fusion.graph import Net
from fusion.nets import total_loss
from fusion.solver.feeds import Blobs, CachedFeed
from fusion.solver.steps.arena import Arena
from fusion.solver.steps.columns import fill, settle, take_out
from fusion.solver.steps.programs import shorten

Step = Callable[[Blobs], tuple[dict[str, Tensor], Tensor]]  # outputs and loss; gradients are left in the arena

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


def eager(net: Net, arena: Arena) -> Step:
    """Through autograd; gradients are added to what the arena holds."""

    def step(blobs: Blobs) -> tuple[dict[str, Tensor], Tensor]:
        out = net(blobs)
        loss = total_loss(net, out)
        loss.backward()  # type: ignore[no-untyped-call]
        return out, loss.detach()

    return step


def traced(net: Net, arena: Arena, feed: CachedFeed) -> Traced | None:
    """The same, from a trace; it overwrites the gradients. None where the net or the number of records do not allow it.

    The trace is made with the feed's first batch and must give autograd's gradients for this and the next. What
    follows from a record alone becomes further rows of the feed.
    """
    size, records = feed.source.batch_size, len(feed.source)
    if arena.single or records < size or not {call.type for call in net.plan.calls} <= TRACEABLE:
        return None
    params = [blob.tensor for blob, home in zip(arena.blobs, arena.homes, strict=True) if home is not None]
    if not all(isinstance(param, nn.Parameter) for param in params):
        return None
    try:
        step = _trace(net, arena, params, feed)
        agrees = all(
            _agrees(net, arena, step, feed.pick(np.arange(start, start + size) % records)) for start in (0, size)
        )
    except Exception:  # whatever a layer does that cannot be traced, autograd can do it
        agrees = False
    arena.zero()
    return step if agrees else None


class Traced:
    """A traced step.

    program  gives the outputs, the loss and the gradients for rows with these keys
    names    of the outputs
    targets  each flat gradient, and the numbers of the parameters that lie in it
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

    def learn(self, feed: CachedFeed) -> None:
        """`gradients` for the feed's next batch, of which it takes only the rows that they follow from."""
        self.gradients(feed.take(self._quick.keys))

    def _leave(self, gradients: Sequence[Tensor]) -> None:
        for flat, members in self._targets:
            torch.cat([gradients[i].reshape(-1) for i in members], out=flat)


class _Part(NamedTuple):
    """Some of a program's results, and the keys of the rows that they follow from."""

    keys: tuple[str, ...]
    run: Callable[..., list[Tensor]]

    def __call__(self, blobs: Blobs) -> list[Tensor]:
        return self.run(*[blobs[key] for key in self.keys])


def _part(program: fx.GraphModule, keys: Sequence[str], start: int) -> _Part:
    """The results from number `start` on."""
    graph = fx.Graph()
    results = graph.graph_copy(program.graph, {})
    assert isinstance(results, (list, tuple))
    graph.output(list(results[start:]))
    graph.eliminate_dead_code()
    used = []
    for key, node in zip(keys, graph.find_nodes(op="placeholder"), strict=True):
        if node.users:
            used.append(key)
        else:
            graph.erase_node(node)
    return _Part(tuple(used), fx.GraphModule(program, graph).forward)


def _trace(net: Net, arena: Arena, params: list[Tensor], feed: CachedFeed) -> Traced:
    from torch.fx.experimental.proxy_tensor import make_fx

    keys = [key for key, _ in net.plan.inputs]
    names: list[str] = []

    def whole(*values: Tensor) -> list[Tensor]:
        out = net(dict(zip(keys, values, strict=True)))
        names[:] = out
        loss = total_loss(net, out)
        gradients = torch.autograd.grad(loss, params, allow_unused=True)
        used = [torch.zeros_like(p) if g is None else g for p, g in zip(params, gradients, strict=True)]
        return [*out.values(), loss.detach(), *used]

    size = feed.source.batch_size
    sample = feed.pick(np.arange(size))
    program = make_fx(whole)(*(sample[key] for key in keys))
    living = [*net.parameters(), *net.buffers()]
    shorten(program, living)
    maker = take_out(program, size, living)
    if maker is not None:
        columns = fill(maker, [feed.rows[key] for key in keys], size)
        keys += feed.add(settle(program, columns, size))
    return Traced(program, keys, names, _targets(arena))


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
    _, expected = eager(net, arena)(blobs)
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
