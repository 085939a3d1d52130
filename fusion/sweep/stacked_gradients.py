"""Gradients of H heads of one structure in closed form: one matrix product for all of them where they read one input.

Values that depend on a head's parameters are float [N, H, F]; those that all heads share are [N, F].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from fusion.layers.dense import InnerProduct
from fusion.layers.score_gradients import ScoreGradient, reference_gradient, reference_rows, references_of
from fusion.nets.graph import Net
from fusion.pct.losses import naive
from fusion.references import LossWarmup
from fusion.solver.batches import Blobs
from fusion.solver.step.closed_form import ClosedForm, Layer, Losses

Stack = Mapping[str, Tensor]


class StackedGradients:
    """The gradients of H heads.

    net     one head, with the task's losses and those towards references
    sample  a batch of its inputs
    pct     names of the layers of losses towards references -> their paths
    hyper   numbers per head, float [H]: "weight" of these losses, and options of their functions
    shares  factors of the task's losses and of those towards references
    Raises: NoClosedFormError with the layer that autograd must differentiate.
    """

    def __init__(
        self, net: Net, sample: Blobs, pct: Mapping[str, str], hyper: Stack, shares: tuple[float, float]
    ) -> None:
        self._form = ClosedForm(net, sample)
        self._batch = len(next(iter(sample.values())))
        self._pct = frozenset(id(_inner(net.get_submodule(path))) for path in pct.values())
        self._numbers = {key: values[:, None] for key, values in hyper.items()}
        self._shares = shares
        self._form.check_unseen_labels()
        self._of_pct(sample)  # a loss without a closed form is found here

    def __call__(self, params: Stack, blobs: Blobs) -> dict[str, Tensor]:
        """Return the mean gradient over the batch for each parameter, float [H, ...] by name."""
        values = {value: blobs[key] for value, key in self._form.taken}
        for layer in self._form.layers:
            values[layer.call.tops[0]] = _forward(layer, params, [values[value] for value in layer.call.bottoms])
        slopes: dict[str, Tensor] = {}
        for group in self._form.losses:
            z = values[group.scores]
            slope = self._shares[0] * self._of_task(group, z, blobs) + self._shares[1] * self._towards(group, z, blobs)
            slope = slope if group.factor is None else slope * group.factor
            slopes[group.scores] = slopes[group.scores] + slope if group.scores in slopes else slope
        gradients: dict[str, Tensor] = {}
        for layer in reversed(self._form.layers):
            self._backward(layer, params, values, slopes, gradients)
        return gradients

    def _of_task(self, group: Losses, z: Tensor, blobs: Blobs) -> Tensor:
        members = tuple(member for member in group.members if id(member[0]) not in self._pct)
        terms = Losses(group.scores, group.classes, members, None).terms(blobs, self._batch)
        return ScoreGradient(terms)(z, [row[:, None] for row in terms.rows()])

    def _towards(self, group: Losses, z: Tensor, blobs: Blobs) -> Tensor:
        """Return the slopes of the losses towards references, each head by its own numbers."""
        total = torch.zeros_like(z)
        hyper = {key: values for key, values in self._numbers.items() if key != "weight"}
        for loss, weight, keys in group.members:
            if id(loss) not in self._pct:
                continue
            others = [blobs[key] for key in keys]
            for share, old in references_of(loss, others):
                function = loss.loss
                columns, rows = reference_rows(function, weight * share, group.classes, old, others[-1])
                own = {} if function.func is naive else hyper  # type: ignore[union-attr]
                total += reference_gradient(
                    z, *[row[:, None] for row in rows], loss=function, columns=columns, hyper=own
                )  # fmt: skip
        return total * self._numbers["weight"]

    def _of_pct(self, sample: Blobs) -> None:
        for group in self._form.losses:
            for loss, _, keys in group.members:
                if id(loss) in self._pct:
                    references_of(loss, [sample[key] for key in keys])
            group.terms(sample, self._batch)

    def _backward(
        self, layer: Layer, params: Stack, values: Stack, slopes: dict[str, Tensor], gradients: dict[str, Tensor]
    ) -> None:
        slope, bottoms = slopes.pop(layer.call.tops[0]), [values[value] for value in layer.call.bottoms]
        if isinstance(layer.module, InnerProduct):
            found = [self._dense_backward(layer, params, slope, bottoms[0], gradients)]
        else:
            found = list(layer.slopes(slope, bottoms, values[layer.call.tops[0]]))
        for value, wanted, part in zip(layer.call.bottoms, layer.wanted, found, strict=True):
            if wanted and part is not None:
                slopes[value] = slopes[value] + part if value in slopes else part

    def _dense_backward(
        self, layer: Layer, params: Stack, slope: Tensor, x: Tensor, gradients: dict[str, Tensor]
    ) -> Tensor | None:
        weight, path = params[f"{layer.call.path}.weight"], layer.call.path
        shared, count = not layer.wanted[0], len(slope)
        if shared:
            flat = x.flatten(1)
            gradients[f"{path}.weight"] = (slope.reshape(count, -1).t() @ flat).view(weight.shape) / count
        else:
            gradients[f"{path}.weight"] = torch.bmm(slope.permute(1, 2, 0), x.transpose(0, 1)) / count
        if f"{path}.bias" in params:
            gradients[f"{path}.bias"] = slope.sum(0) / count
        return None if shared else torch.bmm(slope.transpose(0, 1), weight).transpose(0, 1)


def _forward(layer: Layer, params: Stack, bottoms: Sequence[Tensor]) -> Tensor:
    """Return the top, float [N, H, F]."""
    if not isinstance(layer.module, InnerProduct):
        heads = max(x.shape[1] for x in bottoms if x.dim() == 3)
        return layer.value([x if x.dim() == 3 else x[:, None].expand(-1, heads, -1) for x in bottoms])
    weight, bias = params[f"{layer.call.path}.weight"], params.get(f"{layer.call.path}.bias")
    x = bottoms[0]
    if layer.wanted[0]:
        made = torch.bmm(x.transpose(0, 1), weight.transpose(1, 2)).transpose(0, 1)
    else:
        made = (x.flatten(1) @ weight.flatten(0, 1).t()).view(len(x), *weight.shape[:2])
    return made if bias is None else made + bias


def _inner(module: nn.Module) -> nn.Module:
    return module.loss if isinstance(module, LossWarmup) else module
