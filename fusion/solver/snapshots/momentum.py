"""A solver's history between its flat tensors and Caffe's order: one blob per parameter, one round per moment."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fusion.errors import TrainingError
from fusion.solver.optimizers import CaffeOptimizer
from fusion.solver.step.flat_params import FlatParams

Flat = dict[nn.Parameter, Tensor]


def histories(arena: FlatParams, optimizer: CaffeOptimizer) -> list[NDArray[np.float32]]:
    """The history as Caffe writes it: float32 arrays in the shapes of the blobs, zeros where none is kept."""
    return [
        arena.view(moment, index).detach().cpu().numpy()
        for moment in _moments(arena, optimizer)
        for index in range(len(arena.blobs))
    ]


def restore_histories(
    arena: FlatParams, optimizer: CaffeOptimizer, arrays: Sequence[NDArray[np.float32]], place: str
) -> None:
    """Take over a history.

    Raises: TrainingError when it has another number of blobs or other sizes, so is another net's or rule's.
    """
    moments = _moments(arena, optimizer)
    blobs = len(arena.blobs)
    rule = type(optimizer).__name__
    if len(arrays) != len(moments) * blobs:
        raise TrainingError(
            f"the state holds {len(arrays)} history blobs, {rule} on this net has {len(moments) * blobs}",
            place=place,
            hint="the state was written for another net or solver type",
        )
    for number, array in enumerate(arrays):
        blob = arena.blobs[number % blobs]
        if array.size != blob.tensor.numel():
            raise TrainingError(
                f"history blob {number} has {array.size} values, layer '{blob.layer}' needs {blob.tensor.numel()}",
                place=place,
                hint="the state was written for another net",
            )
    for number, array in enumerate(arrays):
        if arena.homes[number % blobs] is not None:
            target = arena.view(moments[number // blobs], number % blobs)
            target.copy_(torch.tensor(np.asarray(array, np.float32).reshape(target.shape)))


def _moments(arena: FlatParams, optimizer: CaffeOptimizer) -> list[Flat]:
    kept = {flat: optimizer.history(flat) for flat in arena.updated}
    return [{flat: tensors[moment] for flat, tensors in kept.items()} for moment in range(optimizer.histories)]
