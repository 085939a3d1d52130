"""List the content of a binary file: layers and blobs of weights, a solver state's history, or a mean image."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from prototxt.conversion.file_content import BLOB, NUMPY, STATE, Content
from prototxt.errors import WeightsError
from prototxt.formats.index import LayerEntry, Scan, shape_fits

if TYPE_CHECKING:
    from prototxt.summary.net_summary import LayerRow
    from prototxt.summary.statistics import Statistics


@dataclass(frozen=True, slots=True)
class BlobSummary:
    """One blob: its layer and index there, and the statistics of its values if requested."""

    layer: str
    type: str
    index: int
    shape: tuple[int, ...]
    dtype: str
    statistics: Statistics | None = None

    @property
    def count(self) -> int:
        """Return the number of values."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Inventory:
    """The blobs of a file in order, and other facts as pairs of a name and a value.

    layers  the number of its layers, with and without blobs
    """

    path: str
    kind: str
    facts: tuple[tuple[str, str | int], ...]
    layers: int
    blobs: tuple[BlobSummary, ...]


def take_inventory(path: str | os.PathLike[str], content: Content, *, statistics: bool = False) -> Inventory:
    """List the content of a binary file. Values are read only for statistics, in pieces.

    Raises: WeightsError if the file is damaged or something else.
    """
    if content.kind == STATE:
        return _state(path, statistics)
    if content.kind == BLOB:
        return _mean(path, content)
    from prototxt.formats.scan import scan_weights

    scan = scan_weights(path)
    blobs = [blob for entry in scan.entries for blob in _blobs(scan, entry, statistics)]
    facts = (("net", scan.name),) if scan.name else ()
    return Inventory(scan.path, f"weights ({scan.format})", facts, len(scan.entries), tuple(blobs))


def _blobs(scan: Scan, entry: LayerEntry, statistics: bool) -> list[BlobSummary]:
    if statistics:
        from prototxt.summary.statistics import blob_statistics
    return [
        BlobSummary(
            entry.name,
            entry.type,
            index,
            tuple(span.shape),
            span.dtype,
            blob_statistics(scan, span) if statistics else None,
        )
        for index, span in enumerate(entry.blobs)
    ]


def _state(path: str | os.PathLike[str], statistics: bool) -> Inventory:
    from prototxt.formats.solverstate import read_solverstate
    from prototxt.summary.statistics import array_statistics

    state = read_solverstate(path)
    blobs = [
        BlobSummary("history", "", index, values.shape, "<f4", array_statistics(values) if statistics else None)
        for index, values in enumerate(state.history)
    ]
    facts = (("iteration", state.iter), ("weights", state.learned_net), ("step", state.current_step))
    return Inventory(os.fspath(path), "solver state", facts, 0, tuple(blobs))


def _mean(path: str | os.PathLike[str], content: Content) -> Inventory:
    """List a mean image with the statistics of each channel, whose means serve as `mean_value`."""
    import numpy as np

    from prototxt.formats.datum import read_mean
    from prototxt.formats.numpy_files import read_npy
    from prototxt.summary.statistics import array_statistics

    place = os.fspath(path)
    if content.form == NUMPY:
        try:
            values = read_npy(place)
        except ValueError as error:
            raise WeightsError(f"NumPy cannot read the array: {error}", place=place, hint="save it again") from None
        mean = values.reshape(values.shape[-3:]) if values.ndim > 3 else values
    else:
        mean = read_mean(path)
    channels = mean if mean.ndim == 3 else mean[None]
    blobs = [
        BlobSummary("channel", "", index, tuple(channel.shape), mean.dtype.str, array_statistics(np.asarray(channel)))
        for index, channel in enumerate(channels)
    ]
    shape = "x".join(map(str, mean.shape))
    return Inventory(place, "mean image", (("shape", shape),), 0, tuple(blobs))


def weight_mismatches(inventory: Inventory, rows: Sequence[LayerRow]) -> list[str]:
    """Return the mismatches between the weights and the net of these layers, one sentence each."""
    from prototxt.shapes import UNKNOWN

    by_layer: dict[str, list[BlobSummary]] = {}
    for blob in inventory.blobs:
        by_layer.setdefault(blob.layer, []).append(blob)
    found = []
    for row in rows:
        have = by_layer.get(row.name, [])
        if row.params and not have:
            found.append(f"layer {row.name!r} has no weights in the file")
        elif have and row.params and len(have) != len(row.params):
            found.append(f"layer {row.name!r} has {len(row.params)} blobs, its weights {len(have)}")
        else:
            found += [
                f"blob {blob.index} of layer {row.name!r} is {dims_text(shape)}, its weights {dims_text(blob.shape)}"
                for blob, shape in zip(have, row.params, strict=False)
                if shape is not UNKNOWN and not shape_fits(blob.shape, shape)
            ]
    names = {row.name for row in rows}
    return found + [f"weights of {name!r} belong to no layer" for name in by_layer if name not in names]


def dims_text(shape: Sequence[int | None]) -> str:
    """Format a shape as 64x3x?, that of a single number as scalar."""
    return "x".join("?" if size is None else str(size) for size in shape) or "scalar"


def inventory_json(inventory: Inventory) -> dict[str, object]:
    """Return the inventory as JSON data; all numbers are finite, as statistics are of finite values."""
    return {
        "kind": inventory.kind,
        **dict(inventory.facts),
        "layers": inventory.layers,
        "values": sum(blob.count for blob in inventory.blobs),
        "blobs": [
            {
                "layer": blob.layer,
                "type": blob.type or None,
                "index": blob.index,
                "shape": list(blob.shape),
                "dtype": blob.dtype,
                "statistics": asdict(blob.statistics) if blob.statistics else None,
            }
            for blob in inventory.blobs
        ],
    }
