"""The list of what a weights file of any format holds; needs no NumPy, so that a listing costs milliseconds."""

from __future__ import annotations

import os

from prototxt.formats import caffemodel
from prototxt.formats.index import Scan
from prototxt.sniff.weights_format import detect_format


def scan_weights(path: str | os.PathLike[str]) -> Scan:
    """List the layers and blobs of a weights file of any format, told by its content.

    Raises: WeightsError when the file is damaged or something else, with what to do.
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
    """How many blobs each layer that a weights file names has, 0 too: Caffe lists layers without blobs as well.

    Raises: WeightsError as `scan_weights`.
    """
    counts: dict[str, int] = {}
    for entry in scan_weights(path).entries:
        counts[entry.name] = max(len(entry.blobs), counts.get(entry.name, 0))
    return counts
