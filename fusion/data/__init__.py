"""Data layers as sources: records by number, in Caffe's order, with Caffe's pixels.

source = open_source(layer, "TRAIN", seed=5)
for blobs in batches(source, workers=2):       # {"data": float32 [N, C, H, W], "label": float32 [N]}
    ...
for indices in source.order():                 # or record by record
    blobs = source.batch(indices)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prototxt.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from fusion.data.layer_sources import open_layers as open_layers, open_source as open_source
    from fusion.data.read_batches import bad_records as bad_records, batches as batches
    from fusion.data.source import DataSource as DataSource, check_label_range as check_label_range
    from fusion.data.source_config import ReadOptions as ReadOptions
else:
    __getattr__, __dir__ = lazy_exports(__name__)
