"""References and losses as they are asked for, brought to a net and its data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch

from fusion.data import Source
from fusion.errors import TrainingError
from fusion.references.attaching import asked, attach, find_task
from fusion.references.models import Model, open_models
from fusion.references.specs import Objective, Reference, parse_pct, parse_reference
from fusion.references.tables import hold
from prototxt.shapes import infer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from prototxt.messages import LayerParameter, NetParameter


class Brought(NamedTuple):
    """A net with losses towards references, its data with what they say, and the weights of layers that are theirs."""

    net: NetParameter
    sources: list[Source]
    models: list[Model]
    schedules: Mapping[str, tuple[int, int]]
    layers: tuple[tuple[str, ...], ...]
    weights: Mapping[str, list[NDArray[np.float32]]]


@dataclass(frozen=True, eq=False)
class Held:
    """What a net is held to.

    references  several at once
    objectives  the losses; without one the references are only asked, as a sweep wants it
    kd_alpha    None: task + weight * loss; a: (1 - a) * task + a * weight * loss
    """

    references: tuple[Reference, ...]
    objectives: tuple[Objective, ...] = ()
    kd_alpha: float | None = None

    def to_net(self, net: NetParameter, sources: Sequence[Source], device: torch.device) -> Brought:
        """Bring the references to the net and its data. Raises: TrainingError, and the files' own errors."""
        source = _pictures(sources)
        models = open_models(self.references, dict(source.shapes), device, layer_of(net, source))
        held = hold(source, asked(models, self.objectives))
        inputs = {top: shape for one in sources for top, shape in one.shapes.items()}
        shapes = infer(net, inputs=inputs).blobs
        attached = attach(net, find_task(net, shapes), models, self.objectives, self.kd_alpha, shapes)
        brought = [held if one is source else one for one in sources]
        return Brought(attached.net, brought, models, attached.schedules, attached.layers, attached.weights)


def ask(
    references: Sequence[Reference | str], pct: Sequence[Objective | str], kd_alpha: float | None = None
) -> Held | None:
    """References and losses, given as such or as on a command line. Raises: TrainingError."""
    if not references and not pct:
        return None
    return Held(
        tuple(parse_reference(item) if isinstance(item, str) else item for item in references),
        tuple(parse_pct(item) if isinstance(item, str) else item for item in pct),
        kd_alpha,
    )


def layer_of(net: NetParameter, source: Source) -> LayerParameter | None:
    """The data layer that gives a source's pictures, its first top."""
    top = next(iter(source.shapes), None)
    return next((layer for layer in net.layer if top in layer.top and not layer.bottom), None)


def _pictures(sources: Sequence[Source]) -> Source:
    if len(sources) != 1:
        raise TrainingError(
            f"references need one data layer to read from; this net has {len(sources)}",
            hint="let one layer give the data and the labels",
        )
    return sources[0]
