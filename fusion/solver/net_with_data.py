"""A net of a solver with its data: opened, built, and checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from numpy.typing import ArrayLike

from fusion.data import DataSource, ReadOptions
from fusion.layers.python import check_data_layers
from fusion.layers.registry import Phase
from fusion.nets.build import build
from fusion.nets.graph import Net
from fusion.nets.weights import Weights, load_weights
from fusion.references import LossWarmup, Model, warmup_layers
from fusion.solver.batches import Batches, Blobs, LiveBatches, check_classes, open_sources, shapes_of
from fusion.solver.mixed_precision import Precision
from prototxt.shapes import infer

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from fusion.references import References
    from prototxt.schema.messages import NetParameter


class LayerByLayer(Protocol):
    """A net that runs its layers one at a time, on blobs that a script sees, instead of its program."""

    def __call__(self, blobs: Blobs) -> Blobs:
        """Return the outputs of a forward pass."""

    def step(self, blobs: Blobs) -> tuple[Blobs, Tensor]:
        """Return the outputs and the loss; the gradients are added to those of the parameters."""


@dataclass(frozen=True, eq=False)
class NetWithData:
    """A net and its data. It is never changed: each step of the preparation returns another one.

    message          the filtered description
    net              the whole net
    active_net       the net that an iteration runs: the whole net, or the head above a cached trunk
    batches          the inputs of `active_net`
    warmups          the losses whose weight grows
    models           the references whose predictions the net learns from
    losses           the layer names of each loss towards them
    no_cache_reason  why the whole net must run in each iteration; "" where its frozen trunk may be computed once
    precision        of its forward passes
    frozen_engine    that has computed its trunk's Onnx layers once; "" without such layers
    by_layer         runs instead of `active_net`
    """

    message: NetParameter
    net: Net
    sources: Sequence[DataSource]
    active_net: Net
    batches: Batches
    warmups: Sequence[LossWarmup] = ()
    models: Sequence[Model] = ()
    losses: tuple[tuple[str, ...], ...] = ()
    no_cache_reason: str = ""
    precision: Precision = field(default_factory=Precision)
    frozen_engine: str = ""
    by_layer: LayerByLayer | None = None


def open_net_with_data(
    message: NetParameter,
    phase: Phase,
    *,
    seed: int,
    device: torch.device,
    arrays: Mapping[str, ArrayLike] | None = None,
    references: References | None = None,
    reading: ReadOptions | None = None,
    select: Callable[[Sequence[DataSource]], Sequence[DataSource]] | None = None,
) -> NetWithData:
    """Open the data, build the net on the device, and check that the labels are classes of it.

    references  the references that the net learns from, and their losses
    reading     how data is read
    select      replaces sources by a part of their records

    Raises: DataError, BuildError; prototxt's ShapeError.
    """
    check_data_layers(message)
    reading = reading or ReadOptions()
    sources: Sequence[DataSource] = open_sources(message, phase, seed=seed, arrays=arrays, reading=reading)
    if select is not None:
        sources = select(sources)
    models: Sequence[Model] = ()
    losses: tuple[tuple[str, ...], ...] = ()
    schedules: Mapping[str, tuple[int, int]] = {}
    reference_weights: Weights = {}
    if references is not None:
        message, sources, models, schedules, losses, reference_weights = references.to_net(message, sources, device)
    shapes = shapes_of(sources)
    net = build(message, phase, shapes=shapes, seed=seed)
    if reference_weights:  # classifiers of references lie in the same net
        load_weights(net, reference_weights)
    check_classes(message, sources, infer(message, inputs=shapes).blobs)
    warmups = warmup_layers(net, schedules)
    net.to(device)
    batches = LiveBatches(sources, device, workers=reading.processes)
    return NetWithData(message, net, sources, net, batches, warmups, models, losses)
