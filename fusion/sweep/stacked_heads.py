"""Heads of one structure side by side: the same net with stacked parameters, one step for all.

As the batch is the same for all, a fully connected layer of H heads becomes one matrix product of the batch with all
their weights. The gradients of each head are those that a run by itself computes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, groupby, product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call, grad, vmap

from fusion.errors import TrainingError
from fusion.layers.score_gradients import NoClosedFormError
from fusion.nets.build import loss_weights
from fusion.nets.graph import Net, with_outputs
from fusion.references import LossWarmup
from fusion.solver.batches import Blobs, CachedBatches
from fusion.solver.callbacks.ema import averaging_decay
from fusion.solver.lr_policy import Schedule, advance, learning_rate
from fusion.solver.optimizers import CaffeOptimizer
from fusion.solver.step.closed_form import ClosedForm, ScoreLosses

Stack = dict[str, Tensor]  # parameters by name, [heads, ...] each
Place = int | NDArray[np.int64]  # the first of consecutive records, or indices

# Layers without randomness and without a memory of earlier calls, so that many heads may run in one step.
PLAIN = frozenset(
    {
        *("AbsVal", "Accuracy", "BNLL", "BCTLoss", "Bias", "Clip", "Concat", "ELODILoss", "ELU", "Eltwise"),
        *("EuclideanLoss", "Exp", "Flatten", "FocalDistillationLoss", "HingeLoss", "InnerProduct", "KDLoss", "LDILoss"),
        *("Log", "LogitMatchingLoss", "NaivePCTLoss", "PReLU", "Power", "ReLU", "Reshape", "Scale", "Sigmoid"),
        *("SigmoidCrossEntropyLoss", "Silence", "Slice", "Softmax", "SoftmaxWithLoss", "Split", "Swish", "TanH"),
        "WeightedSum",
    }
)


@dataclass(frozen=True, eq=False)
class Segment:
    """Heads with one loss towards references and one learning rate, next to each other in the stack.

    heads    their places
    paths    the loss's layers, by name
    numbers  options of its function instead of the net's
    weights  float32 [H], the loss's weight for each head
    shares   factors of the net's own losses and of those towards references (kd_alpha)
    """

    heads: slice
    paths: Mapping[str, str]
    numbers: Mapping[str, float]
    weights: Tensor
    shares: tuple[float, float]
    schedule: Schedule

    def loss_at(self, net: Net, path: str) -> Any:
        """Return a copy of the loss layer at a path, with the segment's numbers."""
        module = copy(_loss_at(net, path))
        module.loss = partial(module.loss, **self.numbers)
        return module


class NotSweepableError(TrainingError):
    """The heads of this net and solver cannot be trained together."""


class Heads:
    """H heads in training.

    head       the net after the trunk, with all losses in it
    feed       its kept rows
    params     each head's start, stacked
    task       the outputs that are the net's own losses
    segments   of all heads, in order
    rates      lr_mult and decay_mult by the parameter's name
    optimizer  makes the update rule for groups of tensors
    ema        decay of averaged weights, which then are evaluated; 0: none

    choice     how the gradients are computed and why, in words
    """

    def __init__(
        self,
        head: Net,
        feed: CachedBatches,
        params: Stack,
        task: Sequence[str],
        segments: Sequence[Segment],
        rates: Mapping[str, tuple[float, float]],
        optimizer: Callable[[list[dict[str, Any]]], CaffeOptimizer],
        ema: float = 0.0,
    ) -> None:
        self.params = {name: tensor.clone() for name, tensor in params.items()}
        self.trained = {name: tensor.clone() for name, tensor in params.items()} if ema else self.params
        self._feed, self._task, self._segments, self._ema = feed, task, segments, ema
        values, names = dict(head.plan.outputs), [list(each.paths) for each in segments]
        self._head, *self._nets = (
            with_outputs(head, {key: values[key] for key in (*task, *dict.fromkeys(paths))})
            for paths in (chain(*names), *names)
        )
        for tensor in self.params.values():
            tensor.grad = torch.zeros_like(tensor)
        self._closed: ClosedForm | None = None
        try:
            self._closed = self._in_closed_form()
            self.choice = "gradients: closed form of the heads"
        except NoClosedFormError as error:
            self.choice = f"gradients: autograd, because {error}"
        self._updates = [
            (schedule, self._update_of(slice(run[0].heads.start, run[-1].heads.stop), rates, optimizer))
            for schedule, members in groupby(segments, lambda segment: segment.schedule)
            for run in [list(members)]
        ]
        self._steps, self._iteration = [0] * len(self._updates), 0

    def __len__(self) -> int:
        return len(next(iter(self.params.values())))

    @property
    def has_closed_form(self) -> bool:
        """Whether one step computes the gradients of all heads."""
        return self._closed is not None

    def train(self, place: Place) -> None:
        """Run one iteration of all heads on these kept records."""
        if self._closed is None:
            self._differentiate(self._feed.pick(_indices(place, self._feed.source.batch_size)))
        with torch.inference_mode():
            if self._closed is not None:
                self._closed.gradients_at(place)
            for number, (schedule, update) in enumerate(self._updates):
                self._steps[number] = advance(schedule, self._iteration, self._steps[number])
                update(learning_rate(schedule, self._iteration, self._steps[number]))
            self._iteration += 1
            if self._ema:
                share = 1 - averaging_decay(self._ema, self._iteration)
                torch._foreach_lerp_(list(self.trained.values()), list(self.params.values()), share)

    @torch.no_grad()
    def losses(self, blobs: Blobs) -> Tensor:
        """Return each head's loss on a batch, float [H]."""
        return torch.cat([self._per_head(number, lambda loss: loss, blobs) for number in range(len(self._segments))])

    def _in_closed_form(self) -> ClosedForm:
        """Return the step of all heads, bound to the kept rows. Raises: NoClosedFormError."""
        sample = self._feed.pick(np.arange(self._feed.source.batch_size) % len(self._feed.source))
        form = ClosedForm(self._head, sample, self.params)
        form.losses = self._by_segment(form.losses)
        return form.keep(self._feed)

    def _by_segment(self, groups: Sequence[ScoreLosses]) -> list[ScoreLosses]:
        """Return the net's own losses for all heads, then those of each segment, which are added to them."""
        device = next(iter(self.params.values())).device
        shares = torch.cat([torch.full((len(each.weights), 1), each.shares[0]) for each in self._segments]).to(device)
        scale = None if bool((shares == 1).all()) else shares
        compared = {id(_loss_at(self._head, path)) for each in self._segments for path in each.paths.values()}
        found = []
        for group in groups:
            own = tuple(member for member in group.members if id(member[0]) not in compared)
            if own or all(group.scores != other.scores for other in groups if other is not group):
                found.append(replace(group, members=own, scale=scale))
        for group, segment in product(groups, self._segments):
            modules = {
                id(_loss_at(self._head, path)): segment.loss_at(self._head, path) for path in segment.paths.values()
            }
            members = tuple(
                (modules[id(loss)], weight, keys) for loss, weight, keys in group.members if id(loss) in modules
            )
            if members:
                scale = (segment.weights * segment.shares[1])[:, None]
                found.append(replace(group, members=members, heads=segment.heads, scale=scale))
        return found

    def _update_of(
        self,
        heads: slice,
        rates: Mapping[str, tuple[float, float]],
        optimizer: Callable[[list[dict[str, Any]]], CaffeOptimizer],
    ) -> Callable[[float], None]:
        """Return the update of some heads by the learning rate."""
        groups: dict[tuple[float, float], list[Tensor]] = {}
        for name, tensor in self.params.items():
            part = tensor[heads]
            assert tensor.grad is not None, "allocated beforehand"
            part.grad = tensor.grad[heads]
            groups.setdefault(rates[name], []).append(part)
        return optimizer(
            [{"params": group, "lr_mult": lr, "decay_mult": decay} for (lr, decay), group in groups.items()]
        ).prepared()

    def _differentiate(self, blobs: Blobs) -> None:
        """Compute the gradients through autograd."""
        for number, segment in enumerate(self._segments):
            for name, gradient in self._per_head(number, grad, blobs).items():
                whole = self.params[name].grad
                assert whole is not None, "allocated beforehand"
                whole[segment.heads] = gradient

    def _per_head(self, number: int, transform: Callable[..., Any], blobs: Blobs) -> Any:
        """Return the result of a transform of the loss for each head of a segment."""
        segment = self._segments[number]
        params = {name: tensor[segment.heads] for name, tensor in self.params.items()}
        loss = transform(partial(self._loss, segment, self._nets[number]))
        return vmap(loss, in_dims=(0, 0, None))(params, segment.weights, blobs)

    def _loss(self, segment: Segment, net: Net, params: Stack, weight: Tensor, blobs: Blobs) -> Tensor:
        """Return the loss of one head."""
        modules = {path: _loss_at(net, path) for path in segment.paths.values()}
        before = {path: module.loss for path, module in modules.items()}
        try:
            for path, module in modules.items():
                module.loss = partial(before[path], **segment.numbers)
            out = functional_call(net, params, (blobs,))
        finally:
            for path, module in modules.items():
                module.loss = before[path]
        weights = loss_weights(net)
        total = sum(out[key].sum() * (weights[key] * segment.shares[0]) for key in self._task)
        for key in segment.paths:
            total = total + out[key].sum() * (weight * (weights[key] * segment.shares[1]))
        return torch.as_tensor(total)


def _loss_at(net: Net, path: str) -> Any:
    """Return the loss layer itself, where its weight grows."""
    module = net.get_submodule(path)
    return module.loss if isinstance(module, LossWarmup) else module


def batch_place(indices: NDArray[np.int64]) -> Place:
    """Return the first of records that follow each other, else the indices: those rows are copied."""
    return int(indices[0]) if bool((np.diff(indices) == 1).all()) else indices


def _indices(place: Place, count: int) -> NDArray[np.int64]:
    return np.arange(place, place + count) if isinstance(place, int) else place


@torch.no_grad()
def answers(net: Net, params: Stack, blobs: Blobs) -> Tensor:
    """Return the output of a net with one output under each head's parameters, float32 [H, N, C]."""
    (key,) = (key for key, _ in net.plan.outputs)
    inputs = {name: blobs[name] for name, _ in net.plan.inputs}
    found: Tensor = vmap(lambda own: functional_call(net, own, (inputs,))[key])(params)
    return found


def check_head(head: Net) -> None:
    """Raise NotSweepableError for layers that draw numbers or keep a state, which heads in one step would share."""
    foreign = sorted({call.type for call in head.plan.calls} - PLAIN)
    if foreign:
        raise NotSweepableError(
            f"heads with {', '.join(foreign)} layers cannot be trained together",
            hint="a sweep needs a head of plain layers after the frozen trunk; train such heads separately",
        )
