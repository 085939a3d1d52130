"""One net of a solver with its data: built, checked, and told what runs in each iteration."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from numpy.typing import ArrayLike

from fusion.data import ReadOptions, Source
from fusion.data.in_step import single_source
from fusion.data.sharding import ShardSpec, shard
from fusion.layers.python import check_data_layers
from fusion.layers.registry import Phase
from fusion.nets.build import build
from fusion.nets.graph import Net
from fusion.nets.weights import Weights, load_weights
from fusion.references import LossWarmup, Model, warmup_layers
from fusion.solver.batches import Batches, LiveBatches, check_classes, open_sources, shapes_of
from fusion.solver.mixed_precision import Precision
from prototxt.shapes import infer

if TYPE_CHECKING:
    from fusion.distributed.process_group import ProcessGroup
    from fusion.references import References
    from prototxt.schema.messages import NetParameter


@dataclass(eq=False)
class NetWithData:
    """A net and its data.

    message  the filtered description
    net      the whole net
    ramps    losses whose weight grows
    models   the references that the net is held to
    losses   the names of the layers of each loss towards them
    live     why the whole net must run in each iteration; "" where its frozen trunk may be computed once
    runs     what an iteration runs: the whole net, or the head behind a cached trunk
    feed     what `runs` takes
    precision  what its forward passes reckon in
    """

    message: NetParameter
    net: Net
    sources: Sequence[Source]
    runs: Net
    feed: Batches
    ramps: Sequence[LossWarmup] = ()
    models: Sequence[Model] = ()
    losses: tuple[tuple[str, ...], ...] = ()
    live: str = ""
    precision: Precision = field(default_factory=Precision)


def open_net_with_data(
    message: NetParameter,
    phase: Phase,
    *,
    seed: int,
    device: torch.device,
    arrays: Mapping[str, ArrayLike] | None = None,
    held: References | None = None,
    reading: ReadOptions | None = None,
    narrow: Callable[[Source], Source] | None = None,
    part: ShardSpec | None = None,
) -> NetWithData:
    """Open the data, build the net on the device, and check that labels are classes of it.

    held     what references the net is held to, and how
    reading  how data is read
    narrow   makes a source one of some of its records
    part     of the batches, where several processes share them

    Raises: DataError, BuildError; prototxt's ShapeError.
    """
    check_data_layers(message)
    reading = reading or ReadOptions()
    sources: Sequence[Source] = open_sources(message, phase, seed=seed, arrays=arrays, reading=reading)
    if narrow is not None:
        sources = [narrow(single_source(sources, "keeping back a share of the training records needs"))]
    if part is not None:
        sources = [shard(source, part) for source in sources]
    models: Sequence[Model] = ()
    losses: tuple[tuple[str, ...], ...] = ()
    schedules: Mapping[str, tuple[int, int]] = {}
    lent: Weights = {}
    if held is not None:
        message, sources, models, schedules, losses, lent = held.to_net(message, sources, device)
    shapes = shapes_of(sources)
    net = build(message, phase, shapes=shapes, seed=seed)
    if lent:
        load_weights(net, lent)
    check_classes(message, sources, infer(message, inputs=shapes).blobs)
    ramps = warmup_layers(net, schedules)
    net.to(device)
    return NetWithData(
        message, net, sources, net, LiveBatches(sources, device, workers=reading.processes), ramps, models, losses
    )


def choose_device(name: str) -> torch.device:
    """The device that a name means; "auto" takes a GPU where there is one.

    Raises: TrainingError for a device that is not there.
    """
    from fusion.errors import TrainingError

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise TrainingError(f"unknown device '{name}'", hint="give auto, cpu, cuda or cuda:1") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise TrainingError("this machine or this torch build has no CUDA device", hint="use --device cpu")
    return device


def place(device: torch.device, world: ProcessGroup | None) -> torch.device:
    """The device of this process: on a machine with GPUs each has its own."""
    if world is None or device.type != "cuda":
        return device
    return torch.device("cuda", world.local_rank)
