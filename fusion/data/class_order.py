"""A check for records sorted by class, on which training fails: batches then hold fewer classes than shuffled ones."""

from __future__ import annotations

from itertools import islice

import numpy as np

from fusion.data.source import DataSource

_FEWEST = 16  # records in a window, where batches are smaller
_MOST = 1000  # batches that are examined


def sorted_classes_warning(source: DataSource) -> str | None:
    """Return a warning if training visits the records in long runs of one class; else None."""
    labels, size = source.labels, source.batch_size
    window = size * -(-_FEWEST // size)
    if labels is None or len(labels) < 2 * window:
        return None
    count = min(len(labels) // window * (window // size), _MOST)
    visited = labels[np.concatenate(list(islice(source.order(), count)))]
    # Windows that are split at the end of the epoch would mix two of them.
    whole = visited[: len(visited) // window * window].reshape(-1, window)
    found = float(np.mean([len(np.unique(row)) for row in whole]))
    shares = np.unique(labels, return_counts=True)[1] / len(labels)
    expected = float((1 - (1 - shares) ** window).sum())  # classes in a window of independent draws
    if expected < 1.5 or found - 1 >= (expected - 1) / 2:
        return None
    return (
        f"warning: the training records come in runs of one class: {window} in a row hold {found:.1f} of "
        f"{len(shares)} classes, and {expected:.1f} if they were shuffled, so that the net forgets one class while it "
        "learns the next; set shuffle: true in image_data_param or hdf5_data_param (a database is shuffled when it is "
        "written: fusion-convert images --shuffle)"
    )
