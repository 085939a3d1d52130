"""The references and losses of a training run, and their application to a net and its data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch

from fusion.data import DataSource
from fusion.data.in_step_sources import single_source
from fusion.references.add_losses import add_losses, find_task, models_with_logits
from fusion.references.logit_cache import attach_logits
from fusion.references.models import Model, open_models
from fusion.references.parse import Objective, Reference, parse_pct, parse_reference
from prototxt.shapes import infer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from prototxt.schema.messages import NetParameter


class NetWithReferences(NamedTuple):
    """A net with losses towards references, its data with their logits, and the weights of layers from old nets."""

    net: NetParameter
    sources: list[DataSource]
    models: list[Model]
    schedules: Mapping[str, tuple[int, int]]
    layers: tuple[tuple[str, ...], ...]
    weights: Mapping[str, list[NDArray[np.float32]]]


@dataclass(frozen=True, eq=False)
class References:
    """The references of a net in training.

    references  one or more
    objectives  the losses; without any the references only add their logits to the data, for a sweep
    kd_alpha    None: task + weight * loss; a: (1 - a) * task + a * weight * loss
    """

    references: tuple[Reference, ...]
    objectives: tuple[Objective, ...] = ()
    kd_alpha: float | None = None

    def to_net(self, net: NetParameter, sources: Sequence[DataSource], device: torch.device) -> NetWithReferences:
        """Add the losses to the net and the logits to its data. Raises: TrainingError, DataError, file errors."""
        source = single_source(sources, "references need")
        models = open_models(self.references, source, device, net)
        with_logits = attach_logits(source, models_with_logits(models, self.objectives))
        shapes = infer(net, inputs=source.shapes).blobs
        result = add_losses(net, find_task(net, shapes), models, self.objectives, self.kd_alpha, shapes)
        return NetWithReferences(result.net, [with_logits], models, result.schedules, result.layers, result.weights)


def parse_references(
    references: Sequence[Reference | str], pct: Sequence[Objective | str], kd_alpha: float | None = None
) -> References | None:
    """Parse references and losses, given as objects or in command-line syntax. Raises: TrainingError."""
    if not references and not pct:
        return None
    return References(
        tuple(parse_reference(item) if isinstance(item, str) else item for item in references),
        tuple(parse_pct(item) if isinstance(item, str) else item for item in pct),
        kd_alpha,
    )
