"""Forward and backward of a small head as matrix products, with the gradients of its losses in closed form.

A small head spends more time in autograd's and the modules' bookkeeping than in arithmetic. Where it is a chain of
fully connected layers, ReLUs, sums and concatenations under losses of `score_gradients`, its gradients are a handful of
operations that write where the update reads them. All of them are bound once: a step of the linear head of the
benchmark takes 110 us instead of 207 us, where the same loop written by hand takes 118 us.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fusion.errors import TrainingError
from fusion.layers.score_gradients import NoClosedFormError, Operations, ScoreGradient, Terms, terms_of
from fusion.nets.build import total_loss
from fusion.nets.graph import Call, Net
from fusion.references import LossWarmup
from fusion.solver.batches import Blobs, CachedBatches
from fusion.solver.step.head_layers import Stack, add_slopes, gradient_of, head_layer

_ROOM = 1 << 29  # bytes for the constants kept beside the records of a feed
_CHUNK = 4096  # records whose constants are computed at once


@dataclass(frozen=True, eq=False)
class ScoreLosses:
    """The losses on one blob of scores that grow together.

    scores   the value that they read
    classes  its width C
    members  each loss's layer, weight in the total loss, and the keys of its other bottoms
    factor   of all members, which changes between iterations (loss warm-up), or None
    heads    of stacked heads those that have these losses; None: all
    scale    float [H, 1], the factor of each of these heads, or None
    """

    scores: str
    classes: int
    members: tuple[tuple[nn.Module, float, tuple[str, ...]], ...]
    factor: Tensor | None
    heads: slice | None = None
    scale: Tensor | None = None

    def terms(self, blobs: Mapping[str, Tensor], batch: int) -> Terms:
        """Return the sum of the members' terms for these records. Raises: NoClosedFormError."""
        total = Terms()
        for loss, weight, keys in self.members:
            total.add(terms_of(loss, weight, self.classes, batch, [blobs[key] for key in keys]))
        return total


@dataclass(frozen=True, eq=False)
class BatchInput:
    """Rows of a batch as a tensor that operations are bound to: its storage changes from step to step, it does not.

    key   of the blob that it shows
    view  [N, ...], contiguous
    """

    key: str
    view: Tensor

    def show(self, rows: Tensor, start: int = 0) -> None:
        """Show N rows of a contiguous tensor from `start` on."""
        view = self.view
        first = rows.storage_offset() + start * view.stride(0)
        view.set_(rows.untyped_storage(), first, view.shape, view.stride())


class ClosedForm:
    """A step of a head, or of H heads of one structure; it overwrites the gradients.

    net     the head
    sample  a batch of its inputs
    stack   the parameters of the H heads by name, [H, ...] each; None: the net's own

    layers  from the lowest that learns up to the scores, in the order of execution
    losses  by the scores that they read
    inputs  of the layers and the losses
    Raises: NoClosedFormError with the layer that autograd must differentiate.
    """

    def __init__(self, net: Net, sample: Blobs, stack: Stack | None = None) -> None:
        self._net, self._batch, self._stacked = net, len(next(iter(sample.values()))), stack is not None
        self._device = next(iter(sample.values())).device
        keys = {value: key for key, value in net.plan.inputs}
        learning = _learning(net)
        self.layers = [head_layer(net, call, learning, stack) for call in _between(net, learning)]
        tops = {layer.call.tops[0] for layer in self.layers}
        outside = {value for layer in self.layers for value in layer.call.bottoms} - tops
        _check_params(net, [layer.module for layer in self.layers], outside <= keys.keys())
        self._operations: Operations = []
        self._values: dict[str, Tensor] = {}
        self.inputs: list[BatchInput] = []
        for value in sorted(outside):
            self._values[value] = self._input(keys[value], sample[keys[value]].flatten(1))
        for layer in self.layers:
            bottoms = [self._values[value] for value in layer.call.bottoms]
            self._values[layer.call.tops[0]] = layer.forward(self._operations, bottoms)
        widths = {value: self._values[value].shape[-1] for value in tops}
        self.losses = _groups(net, learning, widths, keys)
        self._constants: list[BatchInput] = []
        self._slopes: list[Tensor] = []
        self._gradients = [
            (p, gradient_of(p)) for layer in self.layers for p in (layer.weight, layer.bias) if p is not None
        ]
        self._kept: list[tuple[Tensor, torch.UntypedStorage, int, int, torch.Size, tuple[int, ...]]] = []
        self._rows: Blobs = {}

    def keep(self, feed: CachedBatches) -> ClosedForm:
        """Keep the constants of each record beside the feed's rows, where there is room; returns itself."""
        records = len(feed.source)
        names = {key for group in self.losses for _, _, keys in group.members for key in keys}
        starts = range(0, records, _CHUNK)
        chunks = [{key: feed.rows[key][start : start + _CHUNK] for key in names} for start in starts]
        size = sum(row[:1].nbytes for row in self._terms(chunks[0])) * records
        if size > _ROOM:
            raise NoClosedFormError(f"the constants of {records} records take {size >> 20} MiB")
        columns = [torch.cat(rows) for rows in zip(*(self._terms(chunk) for chunk in chunks), strict=True)]
        self._bind({key: rows.to(self._device) for key, rows in chunks[0].items()}, feed.add(columns))
        self._rows = {each.key: feed.rows[each.key] for each in self.inputs}
        for each in self.inputs:
            view, rows = each.view, feed.rows[each.key]
            place = (int(rows.storage_offset()), view.stride(0), view.shape, view.stride())
            self._kept.append((view, rows.untyped_storage(), *place))
        return self

    def follow(self, sample: Blobs) -> ClosedForm:
        """Expect the constants in each batch, as `constants` computes them; returns itself.

        Raises: NoClosedFormError where labels of later batches may be ignored, for the divisor then changes.
        """
        if any(getattr(loss, "ignore_label", None) is not None for group in self.losses for loss, *_ in group.members):
            raise NoClosedFormError("labels that are ignored change the divisor from batch to batch")
        self._bind(sample, [f"constant {number}" for number in range(len(self._terms(sample)))])
        return self

    def constants(self, blobs: Mapping[str, Tensor]) -> Blobs:
        """Return the constants of these records by key; the step needs them in addition to the head's inputs.

        Raises: TrainingError for labels that are no classes.
        """
        try:
            rows = self._terms(blobs)
        except NoClosedFormError as error:
            raise TrainingError(str(error), hint="correct the labels or num_output") from error
        return dict(zip((each.key for each in self._constants), rows, strict=True))

    def __call__(self, blobs: Blobs) -> tuple[dict[str, Tensor], Tensor]:
        """Return outputs and loss, and leave the gradients in the parameters."""
        with torch.no_grad():
            out = self._net(blobs)
            loss = total_loss(self._net, out)
        self.gradients(blobs)
        return out, loss

    @torch.inference_mode()
    def gradients(self, blobs: Blobs) -> None:
        """Leave the gradients in the parameters, and compute nothing else."""
        self.attach()
        for each in self.inputs:
            each.show(blobs[each.key].contiguous())
        for operation in self._operations:
            operation()

    def attach(self) -> None:
        """Let the parameters have the gradients that are written; FlatParams.zero forgets some of them."""
        for param, gradient in self._gradients:
            param.grad = gradient

    def gradients_at(self, place: int | NDArray[np.int64]) -> None:
        """Compute the gradients for kept records, in torch's inference mode and with the gradients attached.

        place  the first of records that follow each other, or the indices int64 [N]
        """
        if isinstance(place, int):
            for view, storage, offset, row, shape, stride in self._kept:
                view.set_(storage, offset + place * row, shape, stride)
        else:
            for each in self.inputs:
                rows = self._rows[each.key]
                each.show(rows.index_select(0, torch.from_numpy(place).to(rows.device)).to(self._device))
        for operation in self._operations:
            operation()

    def is_finite(self) -> bool:
        """Return whether the last gradients with respect to the scores are numbers; waits for the device."""
        return all(bool(slope.sum().isfinite()) for slope in self._slopes)

    def _terms(self, blobs: Mapping[str, Tensor]) -> list[Tensor]:
        """Return the rows of all losses' terms for these records."""
        return [row for group in self.losses for row in group.terms(blobs, self._batch).rows()]

    def _input(self, key: str, rows: Tensor) -> Tensor:
        """Return a view of a batch of such rows; the same tensor for the same key."""
        view = torch.empty(self._batch, *rows.shape[1:], dtype=rows.dtype, device=self._device)
        self.inputs.append(BatchInput(key, view))
        return view

    def _bind(self, sample: Mapping[str, Tensor], keys: Sequence[str]) -> None:
        """Append the gradients of the losses, of which `keys` name the constants, and the backward pass."""
        names, slopes = iter(keys), dict[str, Tensor]()
        for group in self.losses:
            terms = group.terms(sample, self._batch)
            rows = [row[:, None] if self._stacked else row for row in terms.rows()]
            views = [self._input(next(names), row) for row in rows]
            self._constants += self.inputs[len(self.inputs) - len(views) :]
            z = self._values[group.scores]
            slope = ScoreGradient(terms, group.factor).bind(
                self._operations, z if group.heads is None else z[:, group.heads], views
            )
            self._slopes.append(slope)
            if group.scale is not None:
                self._operations.append(partial(slope.mul_, group.scale))
            if group.heads is None:
                add_slopes(self._operations, slopes, group.scores, slope)
            else:
                self._operations.append(partial(slopes[group.scores][:, group.heads].add_, slope))
        for layer in reversed(self.layers):
            bottoms, top = [self._values[value] for value in layer.call.bottoms], layer.call.tops[0]
            below = layer.backward(self._operations, slopes.pop(top), bottoms, self._values[top])
            for value, learns, part in zip(layer.call.bottoms, layer.learns, below, strict=True):
                if learns and part is not None:
                    add_slopes(self._operations, slopes, value, part)


def _learning(net: Net) -> frozenset[str]:
    """Return the values that depend on a parameter that learns."""
    learning: set[str] = set()
    for call in net.plan.calls:
        module = net.get_submodule(call.path)
        if learning.intersection(call.bottoms) or any(param.requires_grad for param in module.parameters()):
            learning.update(call.tops)
    return frozenset(learning)


def _between(net: Net, learning: frozenset[str]) -> list[Call]:
    """Return the calls on the way to the losses' scores that depend on a parameter that learns, in order."""
    weighted = {value for value, weight in net.plan.loss_weights if weight}
    needed = {value for call in net.plan.calls if weighted.intersection(call.tops) for value in call.bottoms}
    found = []
    for call in reversed(net.plan.calls):
        if weighted.isdisjoint(call.tops) and needed.intersection(call.tops):
            found.append(call)
            needed.update(call.bottoms)
    return [call for call in reversed(found) if learning.intersection(call.tops)]


def _groups(
    net: Net, learning: frozenset[str], widths: Mapping[str, int], inputs: Mapping[str, str]
) -> list[ScoreLosses]:
    """Return the losses by the scores that they read and by their factor."""
    weights = dict(net.plan.loss_weights)
    groups: dict[tuple[str, int], list[tuple[nn.Module, float, tuple[str, ...]]]] = {}
    factors: dict[int, Tensor | None] = {}
    for call in net.plan.calls:
        weight = sum(weights.get(top, 0.0) for top in call.tops)
        if not weight or not learning.intersection(call.bottoms):
            continue
        scores, *others = call.bottoms
        if learning.intersection(others) or scores not in widths or not inputs.keys() >= set(others):
            raise NoClosedFormError(
                f"layer '{call.name}' ({call.type}) compares more with its scores than a record holds"
            )
        module = net.get_submodule(call.path)
        factor = module.factor if isinstance(module, LossWarmup) else None
        factors[id(factor)] = factor
        member = (
            module.loss if isinstance(module, LossWarmup) else module,
            weight,
            tuple(inputs[value] for value in others),
        )
        groups.setdefault((scores, id(factor)), []).append(member)
    if not groups:
        raise NoClosedFormError("no loss depends on a parameter that learns")
    return [
        ScoreLosses(scores, widths[scores], tuple(members), factors[factor])
        for (scores, factor), members in groups.items()
    ]


def _check_params(net: Net, modules: Sequence[nn.Module], known_inputs: bool) -> None:
    """Raise NoClosedFormError where parameters are shared, learn elsewhere than in the layers, or read other values."""
    known = [id(param) for module in modules for param in module.parameters()]
    others = {param for param in net.parameters() if param.requires_grad and id(param) not in known}
    if len(set(known)) < len(known):
        raise NoClosedFormError("layers share their weights")
    if others or not known_inputs:
        raise NoClosedFormError("layers without a closed form lie between those that learn")
