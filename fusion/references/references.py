"""References and losses as they are asked for, brought to a net and its data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch

from fusion.data import Source
from fusion.data.in_step import single_source
from fusion.references.add_losses import add_losses, asked, find_task
from fusion.references.logit_cache import hold
from fusion.references.models import Model, open_models
from fusion.references.parse import Objective, Reference, parse_pct, parse_reference
from prototxt.shapes import infer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from prototxt.schema.messages import NetParameter


class NetWithReferences(NamedTuple):
    """A net with losses towards references, its data with what they say, and the weights of layers that are theirs."""

    net: NetParameter
    sources: list[Source]
    models: list[Model]
    schedules: Mapping[str, tuple[int, int]]
    layers: tuple[tuple[str, ...], ...]
    weights: Mapping[str, list[NDArray[np.float32]]]


@dataclass(frozen=True, eq=False)
class References:
    """What a net is held to.

    references  several at once
    objectives  the losses; without one the references are only asked, as a sweep wants it
    kd_alpha    None: task + weight * loss; a: (1 - a) * task + a * weight * loss
    """

    references: tuple[Reference, ...]
    objectives: tuple[Objective, ...] = ()
    kd_alpha: float | None = None

    def to_net(self, net: NetParameter, sources: Sequence[Source], device: torch.device) -> NetWithReferences:
        """Bring the references to the net and its data. Raises: TrainingError, DataError, and the files' own errors."""
        source = single_source(sources, "references need")
        models = open_models(self.references, source, device, net)
        held = hold(source, asked(models, self.objectives))
        shapes = infer(net, inputs=source.shapes).blobs
        attached = add_losses(net, find_task(net, shapes), models, self.objectives, self.kd_alpha, shapes)
        return NetWithReferences(attached.net, [held], models, attached.schedules, attached.layers, attached.weights)


def ask(
    references: Sequence[Reference | str], pct: Sequence[Objective | str], kd_alpha: float | None = None
) -> References | None:
    """References and losses, given as such or as on a command line. Raises: TrainingError."""
    if not references and not pct:
        return None
    return References(
        tuple(parse_reference(item) if isinstance(item, str) else item for item in references),
        tuple(parse_pct(item) if isinstance(item, str) else item for item in pct),
        kd_alpha,
    )
