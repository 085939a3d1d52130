"""Data layers as sources: records by number, in Caffe's order, with Caffe's pixels.

source = open_source(layer, "TRAIN", seed=5)
for blobs in batches(source, workers=2):       # {"data": float32 [N, C, H, W], "label": float32 [N]}
    ...
for indices in source.order():                 # or record by record
    blobs = source.batch(indices)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fusion.data.layer_sources import open_layers, open_source
    from fusion.data.read_batches import bad_records, batches
    from fusion.data.source import Source, check_label_range
    from fusion.data.source_config import ReadOptions

_HOMES = {
    "ReadOptions": "source_config",
    "Source": "source",
    "bad_records": "read_batches",
    "batches": "read_batches",
    "check_label_range": "source",
    "open_layers": "layer_sources",
    "open_source": "layer_sources",
}

__all__ = ["ReadOptions", "Source", "bad_records", "batches", "check_label_range", "open_layers", "open_source"]


def __getattr__(name: str) -> Any:
    """Loaded on first use, so that a reading process does not import what it does not need."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
