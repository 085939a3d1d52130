"""The class of each record for a net's scores; an error where its blobs are not class scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from fusion.data.in_step_sources import single_source
from fusion.errors import DataError
from fusion.nets.build import restrict_to_blobs
from fusion.references.class_scores import check_class_scores
from prototxt.shapes.loss_kinds import class_label

if TYPE_CHECKING:
    from fusion.data import DataSource
    from fusion.solver.net_with_data import NetWithData

_CHUNK = 500


def source_with_labels(
    job: NetWithData, blobs: Sequence[str], place: str | None = None
) -> tuple[DataSource, NDArray[np.int64]]:
    """Return the net's only source and the class of each record: the label that judges the blobs, else the data's own.

    Raises: FusionError for blobs that are not class scores, or that several labels judge; DataError for data
    without labels, and for data layers that are not in step.
    """
    for blob in blobs:
        check_class_scores(job.message, blob, place)
    known = {label for blob in blobs if (label := class_label(job.message, blob)) is not None}
    if len(known) > 1:
        message = f"the blobs {', '.join(blobs)} are judged by several labels: {', '.join(sorted(known))}"
        raise DataError(message, place=place, hint="request one of them at a time")
    label = known.pop() if known else None
    source = single_source(job.sources, "predictions need")
    if label in (None, *source.label_tops[:1]):
        if source.labels is None:
            raise DataError("predictions need a data layer with labels", place=place, hint="is --phase right?")
        return source, source.labels
    return source, _read(job, source, str(label))


def _read(job: NetWithData, source: DataSource, label: str) -> NDArray[np.int64]:
    """Return the values of a blob with labels that is not the data layer's second. Raises: DataError for fractions."""
    # a label that layers compute, such as a slice of several
    net = None if label in source.tops else restrict_to_blobs(job.net, [label])
    device = next((parameter.device for parameter in job.net.parameters()), torch.device("cpu"))
    found = []
    for start in range(0, len(source), _CHUNK):
        blobs = source.batch(np.arange(start, min(start + _CHUNK, len(source))), draw=start)
        with torch.no_grad():
            values = blobs[label] if net is None else net({top: blob.to(device) for top, blob in blobs.items()})[label]
        found.append(values.cpu().numpy().reshape(len(values), -1))
    every = np.concatenate(found)
    whole = every.astype(np.int64)
    if every.shape[1] != 1 or (whole != every).any():
        raise DataError(f"blob '{label}' does not hold one class number per record")
    return whole[:, 0]
