"""Mixup (Zhang et al. 2018): each batch is mixed with itself in another order, and the loss reads both labels.

Caffe's SoftmaxWithLoss takes class numbers, so labels are not mixed but losses: with x = share * x1 + (1 - share) * x2
the loss is share * loss(x, y1) + (1 - share) * loss(x, y2), which is the same for a softmax loss.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from fusion.data.in_step_sources import single_source
from fusion.errors import TrainingError, raise_all
from prototxt.text.source_places import place_of

if TYPE_CHECKING:
    from fusion.solver.batches import Batches, Blobs
    from fusion.solver.net_with_data import NetWithData

_MIXABLE = ("SoftmaxWithLoss",)
_BLIND = ("Accuracy", "Silence")  # read the label as it is, and nothing learns from them


class Mix:
    """The mixture of the present batch: one draw per batch, from the seed and the batch's number alone."""

    def __init__(self, alpha: float, seed: int) -> None:
        self.alpha, self.seed = alpha, seed
        self.share = torch.ones(())
        self.order = torch.arange(0)

    def draw(self, number: int, size: int, device: torch.device) -> None:
        """Draw the share, from Beta(alpha, alpha), and the order of the partners."""
        # a stream of its own: a resumed run draws the same for this batch
        rng = np.random.default_rng((self.seed, 0x313C, number))
        self.share = torch.tensor(rng.beta(self.alpha, self.alpha), dtype=torch.float32).to(device)
        self.order = torch.from_numpy(rng.permutation(size)).to(device)

    def apply(self, values: Tensor) -> Tensor:
        """Mix float values [N, ...]."""
        return torch.lerp(values.index_select(0, self.order), values, self.share)


class MixedBatches:
    """Batches whose inputs, but not their labels, are mixed."""

    def __init__(self, batches: Batches, mix: Mix, labels: Collection[str]) -> None:
        self._batches, self._mix, self._labels = batches, mix, labels

    @property
    def position(self) -> int:
        """The number of batches returned so far."""
        return self._batches.position

    @position.setter
    def position(self, value: int) -> None:
        self._batches.position = value

    def __iter__(self) -> MixedBatches:
        return self

    def __next__(self) -> Blobs:
        number = self._batches.position
        blobs = next(self._batches)
        first = next(iter(blobs.values()))
        self._mix.draw(number, len(first), first.device)
        return {top: blob if top in self._labels else self._mix.apply(blob) for top, blob in blobs.items()}

    def close(self) -> None:
        """Stop reading ahead."""
        self._batches.close()


class MixedLoss(nn.Module):
    """A loss layer towards the labels of both partners."""

    def __init__(self, loss: nn.Module, mix: Mix) -> None:
        super().__init__()
        self.loss, self._mix = loss, mix

    def forward(self, x: Tensor, label: Tensor, *rest: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the mixed loss of both labels; a second top is that for the first label."""
        one = self.loss(x, label, *rest)
        other = self.loss(x, label.index_select(0, self._mix.order), *rest)
        if isinstance(one, Tensor):
            return torch.lerp(other, one, self._mix.share)
        return (torch.lerp(other[0], one[0], self._mix.share), *one[1:])


def check_mixup(job: NetWithData, alpha: float) -> set[str]:
    """Check that the net's batches can be mixed; returns the blobs of labels, which are not mixed.

    Raises: TrainingError where labels are not class numbers for softmax losses; DataError for data layers that are not
    in step, whose batches cannot be mixed alike.
    """
    if alpha <= 0:
        raise TrainingError(f"mixup's alpha must be positive, not {alpha:g}", hint="0.2 is usual")
    source = single_source(job.sources, "mixup needs")
    labels = {layer.bottom[1] for layer in job.message.layer if layer.type in _MIXABLE and len(layer.bottom) > 1}
    labels &= set(source.tops)
    errors = [
        TrainingError(
            f"mixup cannot mix for layer '{layer.name}' ({layer.type}), which takes the label '{bottom}'",
            place=place_of(layer),
            hint="its labels must be class numbers for SoftmaxWithLoss layers",
        )
        for layer in job.message.layer
        for bottom in layer.bottom
        if bottom in source.label_tops and layer.type not in (*_MIXABLE, *_BLIND)
    ]
    if not labels:
        errors.append(TrainingError("mixup needs a SoftmaxWithLoss layer that takes a label of the data layer"))
    raise_all(errors)
    return labels


def mix_up(job: NetWithData, alpha: float, seed: int) -> NetWithData:
    """Return the net with mixed batches, and with losses towards both labels. Raises: as `check_mixup`."""
    mix = Mix(alpha, seed)
    labels = check_mixup(job, alpha)
    for call in job.net.plan.calls:
        if call.type in _MIXABLE:
            # outside the graph, whose code finds the layer under this name
            job.net.set_submodule(call.path, MixedLoss(job.net.get_submodule(call.path), mix))
    return replace(job, batches=MixedBatches(job.batches, mix, labels))
