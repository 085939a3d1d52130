"""The records that heads are evaluated on, and the references' answers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fusion.data import DataSource
from fusion.errors import TrainingError
from fusion.nets.build import restrict_to_blobs
from fusion.pct.predictions import Predictions
from fusion.references import (
    Model,
    ReferencedSource,
    References,
    attach_logits,
    number_duplicates,
    open_models,
    to_predictions,
)
from fusion.references.models import class_scores_blob
from fusion.solver.labels import source_with_labels
from fusion.solver.net_with_data import NetWithData

_CHUNK = 500


@dataclass(frozen=True, eq=False)
class EvalSet:
    """Records of a net's data: their numbers, int64 [N]."""

    job: NetWithData
    rows: NDArray[np.int64]


def records_of(panel: EvalSet) -> Predictions:
    """Keys and labels of the records, with empty logits. Raises: DataError for data without labels."""
    source, labels = source_with_labels(panel.job, [class_scores_blob(panel.job.message)])
    empty = np.zeros((len(source), 1 + int(labels.max())), np.float32)
    keys = np.array(source.keys, np.str_)
    return Predictions(keys, labels, empty, variants=number_duplicates(source.keys)).take(panel.rows)


def known_answers(panel: EvalSet, held: References | None, device: torch.device) -> list[Predictions]:
    """Return each reference's answers; a file that does not know the records is left out."""
    if held is None:
        return []
    source = panel.job.sources[0]
    if isinstance(source, ReferencedSource):
        models = [*panel.job.models]
    else:
        models = open_models(held.references, source, device, panel.job.message)
    found = []
    for model in models:
        try:
            logits = _logits(panel.job, source, model, device)
        except TrainingError:
            if not any(member.file for member in model.members):
                raise
            continue
        found.append(to_predictions(logits, model, source, {}).take(panel.rows))
    return found


def _logits(job: NetWithData, source: DataSource, model: Model, device: torch.device) -> Tensor:
    if not model.members[0].in_graph:
        answered = source if isinstance(source, ReferencedSource) else attach_logits(source, [model])
        answered.load()
        assert isinstance(answered, ReferencedSource)
        return answered.tables[model.blob].float()
    return blob_values(job, model.blob, device)


@torch.no_grad()
def blob_values(job: NetWithData, blob: str, device: torch.device) -> Tensor:
    """Return a blob of the whole net for all records, float [N, C], on the CPU."""
    source, net = job.sources[0], restrict_to_blobs(job.net, [blob])
    parts = []
    for start in range(0, len(source), _CHUNK):
        blobs = source.batch(np.arange(start, min(start + _CHUNK, len(source))))
        (out,) = net({top: tensor.to(device) for top, tensor in blobs.items()}).values()
        parts.append(out.flatten(1).cpu())
    return torch.cat(parts)
