"""Scan weights files of any format; needs no NumPy, so that a listing takes milliseconds."""

from __future__ import annotations

import os

from prototxt.formats import caffemodel
from prototxt.formats.index import Scan
from prototxt.sniff.weights_format import detect_format


def scan_weights(path: str | os.PathLike[str]) -> Scan:
    """List the layers and blobs of a weights file, whose format is detected from its content.

    Raises: WeightsError with a remedy if the file is damaged or something else.
    """
    kind = detect_format(path)
    if kind == "hdf5":
        from prototxt.formats import hdf5

        return hdf5.scan_hdf5(path)
    if kind == "safetensors":
        from prototxt.formats import safetensors

        return safetensors.scan_safetensors(path)
    return caffemodel.scan_caffemodel(path)


def blob_counts(path: str | os.PathLike[str]) -> dict[str, int]:
    """Return the number of blobs of each layer of a weights file; Caffe also stores layers without blobs.

    Raises: WeightsError as `scan_weights`.
    """
    counts: dict[str, int] = {}
    for entry in scan_weights(path).entries:
        counts[entry.name] = max(len(entry.blobs), counts.get(entry.name, 0))
    return counts
