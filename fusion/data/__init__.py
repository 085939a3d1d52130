"""Data layers as sources: records by number, in Caffe's order, with Caffe's pixels.

source = open_source(layer, "TRAIN", seed=5)
for indices in source.order():
    blobs = source.batch(indices)          # {"data": float32 [N, C, H, W], "label": float32 [N]}
"""

from __future__ import annotations

from fusion.data.opening import open_source
from fusion.data.source import Source, check_labels

__all__ = ["Source", "check_labels", "open_source"]
