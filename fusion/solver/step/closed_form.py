"""Forward and backward of a small head as matrix products, with the gradients of its losses in closed form.

A small head spends more time in autograd's and the modules' bookkeeping than in arithmetic. Where it is a chain of
fully connected layers, ReLUs, sums and concatenations under losses of `score_gradients`, its gradients are a handful of
operations that write where the update reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from fusion.errors import TrainingError
from fusion.layers.concat_eltwise import Sum
from fusion.layers.dense import InnerProduct
from fusion.layers.reshape import Concat
from fusion.layers.score_gradients import NoClosedFormError, ScoreGradient, Terms, terms_of
from fusion.nets.build import total_loss
from fusion.nets.graph import Call, Net
from fusion.references import LossWarmup
from fusion.solver.batches import Blobs, CachedBatches

Values = dict[str, Tensor]
_ROOM = 1 << 29  # bytes for what is kept beside the records of a feed
_ROWS = 2  # axes of scores [N, C]
_CHUNK = 4096  # records whose constants are computed at once


@dataclass(frozen=True, eq=False)
class Losses:
    """The losses on one blob of scores that grow together.

    scores   the value that they read
    classes  its width C
    members  each loss's layer, weight in the total loss, and the keys of its other bottoms
    factor   what they are multiplied by in each iteration (loss warm-up), or None
    """

    scores: str
    classes: int
    members: tuple[tuple[nn.Module, float, tuple[str, ...]], ...]
    factor: Tensor | None

    def terms(self, blobs: Mapping[str, Tensor], batch: int) -> Terms:
        """Return the sum of the members' terms for these records. Raises: NoClosedFormError."""
        total = Terms()
        for loss, weight, keys in self.members:
            total.add(terms_of(loss, weight, self.classes, batch, [blobs[key] for key in keys]))
        return total


class ClosedForm:
    """A step of a head; it overwrites the gradients.

    net     the head
    sample  a batch of its inputs

    layers  between what learns and the scores, in the order of execution
    losses  by the scores that they read
    taken   the values that the layers read from outside, and their keys
    needs   keys of the rows that the gradients are computed from
    Raises: NoClosedFormError with the layer that autograd must differentiate.
    """

    def __init__(self, net: Net, sample: Blobs) -> None:
        self._net, self._batch = net, len(next(iter(sample.values())))
        inputs = {value: key for key, value in net.plan.inputs}
        learning = _learning(net)
        self.layers = [Layer(net, call, learning, self._batch) for call in _between(net, learning)]
        taken = {value for layer in self.layers for value in layer.call.bottoms}
        self.taken = [(value, key) for value, key in inputs.items() if value in taken]
        _check_params(net, self.layers, taken - inputs.keys())
        values = {value: sample[key] for value, key in self.taken}
        with torch.no_grad():
            for layer in self.layers:
                layer.forward(values)
        made = {layer.call.tops[0]: values[layer.call.tops[0]].shape for layer in self.layers}
        self.losses = _groups(net, learning, made, inputs)
        self._gradients: list[ScoreGradient] = []
        self._keys: list[list[str]] = []
        self.needs = [key for _, key in self.taken]

    def keep(self, feed: CachedBatches) -> ClosedForm:
        """Keep what the losses need of each record beside the feed's rows, where there is room; returns itself."""
        records = len(feed.source)
        names = {key for group in self.losses for _, _, keys in group.members for key in keys}
        starts = range(0, records, _CHUNK)
        chunks = [{key: feed.rows[key][start : start + _CHUNK] for key in names} for start in starts]
        size = sum(row[:1].nbytes for row in self._structure(chunks[0])) * records
        if size > _ROOM:
            raise NoClosedFormError(f"what its losses need of {records} records takes {size >> 20} MiB")
        columns = [torch.cat(rows) for rows in zip(*(self._rows(chunk) for chunk in chunks), strict=True)]
        self._name(feed.add(columns))
        return self

    def follow(self, sample: Blobs) -> ClosedForm:
        """Expect what the losses need in each batch, from `constants`; returns itself.

        Raises: NoClosedFormError where labels of later batches may be ignored, for the divisor then changes.
        """
        self.check_unseen_labels()
        self._name([f"constant {number}" for number in range(len(self._structure(sample)))])
        return self

    def check_unseen_labels(self) -> None:
        """Raise NoClosedFormError where a loss ignores a label, which batches that are not known yet may hold."""
        if any(getattr(loss, "ignore_label", None) is not None for group in self.losses for loss, *_ in group.members):
            raise NoClosedFormError("labels that are ignored change the divisor from batch to batch")

    def constants(self, blobs: Mapping[str, Tensor]) -> Blobs:
        """Return what the losses need of these records, in addition to the head's inputs.

        Raises: TrainingError for labels that are no classes.
        """
        try:
            rows = self._rows(blobs)
        except NoClosedFormError as error:
            raise TrainingError(str(error), hint="correct the labels or num_output") from error
        return dict(zip((key for keys in self._keys for key in keys), rows, strict=True))

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
        self.leave_gradients(blobs)

    def leave_gradients(self, blobs: Blobs) -> None:
        """`gradients` for those who are in torch's inference mode."""
        values = {value: blobs[key] for value, key in self.taken}
        for layer in self.layers:
            layer.forward(values)
        slopes: Values = {}
        for group, gradient, keys in zip(self.losses, self._gradients, self._keys, strict=True):
            slope = gradient(values[group.scores], [blobs[key] for key in keys])
            _add(slopes, group.scores, slope)
        for layer in reversed(self.layers):
            layer.backward(values, slopes)

    def _structure(self, sample: Mapping[str, Tensor]) -> list[Tensor]:
        """Settle which terms there are, and return their rows for these records."""
        terms = [group.terms(sample, self._batch) for group in self.losses]
        self._gradients = [ScoreGradient(item, group.factor) for item, group in zip(terms, self.losses, strict=True)]
        return [row for item in terms for row in item.rows()]

    def _rows(self, blobs: Mapping[str, Tensor]) -> list[Tensor]:
        return [row for group in self.losses for row in group.terms(blobs, self._batch).rows()]

    def _name(self, keys: Sequence[str]) -> None:
        at = iter(keys)
        self._keys = [[next(at) for _ in range(gradient.count)] for gradient in self._gradients]
        self.needs = list(dict.fromkeys([key for _, key in self.taken] + [key for keys in self._keys for key in keys]))


class Layer:
    """One layer between what learns and the scores: its values forward, its slopes and gradients backward."""

    def __init__(self, net: Net, call: Call, learning: frozenset[str], batch: int) -> None:
        self.call, self.module = call, net.get_submodule(call.path)
        self.wanted = [value in learning for value in call.bottoms]
        kind = type(self.module)
        if kind not in _KINDS or call.blocked or len(call.tops) != 1:
            raise NoClosedFormError(f"layer '{call.name}' ({call.type}) is not one of {', '.join(NAMES)}")
        if isinstance(self.module, Concat) and self.module.axis != 1 and self.module.axis != -1:
            raise NoClosedFormError(f"layer '{call.name}' joins along axis {self.module.axis}")
        self.weight = self.bias = None
        if isinstance(self.module, InnerProduct):
            self._check(self.module)
            self.weight, self.bias = self.module.weight, self.module.bias  # nn.Module looks them up slowly
        self._forward, self._backward = _KINDS[kind]
        self._share = 1 / batch
        self.ones: Tensor | None = None

    def _check(self, module: InnerProduct) -> None:
        if module.axis != 1 or module.transpose:
            raise NoClosedFormError(f"layer '{self.call.name}' is transposed or works on another axis")
        if any(param is not None and not param.requires_grad for param in (module.weight, module.bias)):
            raise NoClosedFormError(f"only a part of layer '{self.call.name}' learns")

    def forward(self, values: Values) -> None:
        """Compute the top."""
        values[self.call.tops[0]] = self.value([values[value] for value in self.call.bottoms])

    def value(self, bottoms: Sequence[Tensor]) -> Tensor:
        """Return the top for these bottoms; all but InnerProduct work on the last axis of any shape."""
        if self.weight is not None:
            x = bottoms[0]
            return functional.linear(x if x.dim() == 2 else x.flatten(1), self.weight, self.bias)
        return self._forward(self.module, bottoms)

    def slopes(self, slope: Tensor, bottoms: Sequence[Tensor], top: Tensor) -> Sequence[Tensor | None]:
        """Return each bottom's slope; an InnerProduct leaves its parameters' gradients as well."""
        return self._backward(self, slope, bottoms, top)

    def backward(self, values: Values, slopes: Values) -> None:
        """Leave the parameters' gradients, and add to the slopes of those bottoms that something learns below."""
        top = self.call.tops[0]
        slope = slopes.pop(top)
        bottoms = [values[value] for value in self.call.bottoms]
        found = self.slopes(slope, bottoms, values[top])
        for value, wanted, part in zip(self.call.bottoms, self.wanted, found, strict=True):
            if wanted and part is not None:
                _add(slopes, value, part)

    def dense_backward(self, slope: Tensor, bottoms: Sequence[Tensor], top: Tensor) -> Sequence[Tensor | None]:
        """Return the bottom's slope; slopes are N times the gradient, so parameters get a share of 1 / N."""
        x = bottoms[0]
        assert self.weight is not None, "of an InnerProduct"
        x = x if x.dim() == 2 else x.flatten(1)
        turned = slope.t()
        weight = _gradient_of(self.weight)
        torch.addmm(weight, turned, x, beta=0, alpha=self._share, out=weight)
        if self.bias is not None:
            bias = _gradient_of(self.bias)
            if self.ones is None or len(self.ones) != len(slope):
                self.ones = slope.new_full((len(slope),), self._share)
            torch.mv(turned, self.ones, out=bias)
        if not self.wanted[0]:
            return (None,)
        return (torch.mm(slope, self.weight).view(bottoms[0].shape),)


def _gradient_of(param: nn.Parameter) -> Tensor:
    if param.grad is None:
        with torch.inference_mode(False):
            param.grad = torch.zeros_like(param)
    return param.grad


def _add(slopes: Values, value: str, slope: Tensor) -> None:
    slopes[value] = slopes[value] + slope if value in slopes else slope


def _relu_back(layer: Layer, slope: Tensor, bottoms: Sequence[Tensor], top: Tensor) -> Sequence[Tensor]:
    return (torch.ops.aten.threshold_backward(slope, top, 0),)


def _split(layer: Layer, slope: Tensor, bottoms: Sequence[Tensor], top: Tensor) -> Sequence[Tensor]:
    return torch.split(slope, [bottom.shape[-1] for bottom in bottoms], -1)


def _scaled(layer: Layer, slope: Tensor, bottoms: Sequence[Tensor], top: Tensor) -> Sequence[Tensor]:
    assert isinstance(layer.module, Sum)
    return [slope if factor == 1 else slope * factor for factor in layer.module.coeff]


Forward = Callable[[nn.Module, Sequence[Tensor]], Tensor]
Backward = Callable[[Layer, Tensor, Sequence[Tensor], Tensor], Sequence[Tensor | None]]
_KINDS: Mapping[type[nn.Module], tuple[Forward, Backward]] = {
    InnerProduct: (lambda module, bottoms: module(*bottoms), Layer.dense_backward),  # `value` is quicker
    nn.ReLU: (lambda module, bottoms: torch.relu(bottoms[0]), _relu_back),
    Concat: (lambda module, bottoms: torch.cat(list(bottoms), -1), _split),
    Sum: (lambda module, bottoms: module(*bottoms), _scaled),
}
NAMES = ("InnerProduct", "ReLU", "Concat", "Eltwise SUM")


def _learning(net: Net) -> frozenset[str]:
    """Return the values that depend on a parameter that learns."""
    learning: set[str] = set()
    for call in net.plan.calls:
        module = net.get_submodule(call.path)
        if learning.intersection(call.bottoms) or any(param.requires_grad for param in module.parameters()):
            learning.update(call.tops)
    return frozenset(learning)


def _between(net: Net, learning: frozenset[str]) -> list[Call]:
    """Return the calls that the losses' scores are computed by and that learn or lie above what learns, in order."""
    weighted = {value for value, weight in net.plan.loss_weights if weight}
    needed = {value for call in net.plan.calls if weighted.intersection(call.tops) for value in call.bottoms}
    found = []
    for call in reversed(net.plan.calls):
        if weighted.isdisjoint(call.tops) and needed.intersection(call.tops):
            found.append(call)
            needed.update(call.bottoms)
    return [call for call in reversed(found) if learning.intersection(call.tops)]


def _groups(
    net: Net, learning: frozenset[str], made: Mapping[str, Sequence[int]], inputs: Mapping[str, str]
) -> list[Losses]:
    """Return the losses by the scores that they read and by what they are multiplied by."""
    weights = dict(net.plan.loss_weights)
    groups: dict[tuple[str, int], list[tuple[nn.Module, float, tuple[str, ...]]]] = {}
    factors: dict[int, Tensor | None] = {}
    for call in net.plan.calls:
        weight = sum(weights.get(top, 0.0) for top in call.tops)
        if not weight or not learning.intersection(call.bottoms):
            continue
        scores, *others = call.bottoms
        if learning.intersection(others) or scores not in made or not inputs.keys() >= set(others):
            raise NoClosedFormError(
                f"layer '{call.name}' ({call.type}) compares more with its scores than a record holds"
            )
        if len(made[scores]) != _ROWS:
            raise NoClosedFormError(f"layer '{call.name}' reads scores of {len(made[scores])} axes")
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
        raise NoClosedFormError("no loss reads what learns")
    return [
        Losses(scores, made[scores][1], tuple(members), factors[factor]) for (scores, factor), members in groups.items()
    ]


def _check_params(net: Net, layers: Sequence[Layer], foreign: set[str]) -> None:
    """Raise NoClosedFormError where parameters are shared, learn elsewhere than in the layers, or read other values."""
    modules = [layer.module for layer in layers]
    known = [id(param) for module in modules for param in module.parameters()]
    others = {param for param in net.parameters() if param.requires_grad and id(param) not in known}
    strange = foreign - {layer.call.tops[0] for layer in layers}
    if len(set(known)) < len(known):
        raise NoClosedFormError("layers share their weights")
    if others or strange:
        raise NoClosedFormError("layers without a closed form lie between what learns")
