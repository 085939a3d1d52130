"""Conversion of a solver's history between flat tensors and Caffe's order: one blob per parameter, moment by moment."""

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


def histories(flat_params: FlatParams, optimizer: CaffeOptimizer) -> list[NDArray[np.float32]]:
    """Return the history as Caffe writes it: float32 arrays in the shapes of the blobs, zeros where none is kept."""
    return [
        flat_params.view(moment, index).detach().cpu().numpy()
        for moment in _moments(flat_params, optimizer)
        for index in range(len(flat_params.blobs))
    ]


def restore_histories(
    flat_params: FlatParams, optimizer: CaffeOptimizer, arrays: Sequence[NDArray[np.float32]], place: str
) -> None:
    """Set a history.

    Raises: TrainingError when it has another number of blobs or other sizes: those of another net or rule.
    """
    moments = _moments(flat_params, optimizer)
    blobs = len(flat_params.blobs)
    rule = type(optimizer).__name__
    if len(arrays) != len(moments) * blobs:
        raise TrainingError(
            f"the state holds {len(arrays)} history blobs, {rule} on this net has {len(moments) * blobs}",
            place=place,
            hint="the state was written for another net or solver type",
        )
    for number, array in enumerate(arrays):
        blob = flat_params.blobs[number % blobs]
        if array.size != blob.tensor.numel():
            raise TrainingError(
                f"history blob {number} has {array.size} values, layer '{blob.layer}' needs {blob.tensor.numel()}",
                place=place,
                hint="the state was written for another net",
            )
    for number, array in enumerate(arrays):
        if flat_params.homes[number % blobs] is not None:
            target = flat_params.view(moments[number // blobs], number % blobs)
            target.copy_(torch.tensor(np.asarray(array, np.float32).reshape(target.shape)))


def _moments(flat_params: FlatParams, optimizer: CaffeOptimizer) -> list[Flat]:
    moments = {flat: optimizer.history(flat) for flat in flat_params.updated}
    return [{flat: tensors[moment] for flat, tensors in moments.items()} for moment in range(optimizer.histories)]
