"""The sources of data layers by layer type."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from numpy.typing import ArrayLike

from fusion.data.data_layer import open_data
from fusion.data.decoded_cache import BUDGET, Stores
from fusion.data.dummy_data import open_dummy_data
from fusion.data.hdf5_data import open_hdf5_data
from fusion.data.image_data import open_image_data
from fusion.data.in_step_sources import as_follower, combine_in_step, join_followers, layer_seed, leader_of
from fusion.data.memory_data import open_memory_data
from fusion.data.source import DataSource
from fusion.data.source_config import OnBadRecord, SourceConfig
from fusion.data.window_data import open_window_data
from fusion.errors import DataError

if TYPE_CHECKING:
    from prototxt.schema.messages import LayerParameter

_OPENERS: dict[str, Callable[..., DataSource]] = {
    "Data": open_data,
    "DummyData": open_dummy_data,
    "HDF5Data": open_hdf5_data,
    "ImageData": open_image_data,
    "WindowData": open_window_data,
}
_SHARING = ("Data", "ImageData")  # layers of one list that decode alike share the decoded records
_FROM_ARRAYS = ("MemoryData", "Input")


def open_source(
    layer: LayerParameter,
    phase: str,
    *,
    root: str | None = None,
    seed: int = 0,
    budget: int = BUDGET,
    arrays: Mapping[str, ArrayLike] | None = None,
    on_bad_record: OnBadRecord = "fail",
    stores: Stores | None = None,
) -> DataSource:
    """Open the source of a data layer.

    phase          "TRAIN" or "TEST": crops are random in TRAIN
    root           replaces the root_folder of an ImageData or WindowData layer
    seed           of everything random: shuffling, crops, flips, fillers
    budget         bytes of decoded records to keep in memory
    arrays         the rows of a MemoryData or Input layer, float32 [N, ...] for each top
    on_bad_record  "fail": an image or Datum that cannot be read, or has another size, is an error;
                   "skip": the next good record stands in for it, see `bad_records`
    stores         of the layers opened before, whose decoded records are shared
    Raises         DataError
    """
    if layer.type in _FROM_ARRAYS:
        return open_memory_data(layer, arrays)
    return open_config(SourceConfig(layer, phase, root, seed, on_bad_record), budget=budget, stores=stores)


def open_config(config: SourceConfig, *, budget: int = BUDGET, stores: Stores | None = None) -> DataSource:
    """Open the source that a config describes. Raises: DataError."""
    layer = config.layer
    try:
        opener = _OPENERS[layer.type]
    except KeyError:
        text = f"layers of type '{layer.type}' cannot be read as a data source"
        hint = f"known are {', '.join(sorted([*_OPENERS, *_FROM_ARRAYS]))}"
        raise DataError(text, place=f"layer '{layer.name}'", hint=hint) from None
    shared = {"stores": stores} if layer.type in _SHARING else {}
    return opener(config, budget=budget, **shared)


def open_layers(
    layers: Sequence[LayerParameter],
    phase: str,
    *,
    seed: int = 0,
    budget: int = BUDGET,
    arrays: Mapping[str, ArrayLike] | None = None,
    on_bad_record: OnBadRecord = "fail",
) -> list[DataSource]:
    """Open the sources of a net's data layers: one for those in step, by `in_step_with` or because nothing is random.

    The options are those of `open_source`. Layers that are not in step draw independently, as in Caffe.

    Raises: DataError. Warns: UnpairedData.
    """
    leaders = {id(layer): leader_of(layer, layers) for layer in layers}
    stores: Stores = {}
    found: list[tuple[LayerParameter, DataSource]] = []
    for number, layer in enumerate(one for one in layers if leaders[id(one)] is None):
        # The default argument binds this leader's seed; its followers share it, so that they draw the same numbers.
        def open_one(one: LayerParameter, own: int = layer_seed(seed, number)) -> DataSource:
            return open_source(
                one, phase, seed=own, budget=budget, arrays=arrays, on_bad_record=on_bad_record, stores=stores
            )

        lead = open_one(layer)
        followers = [one for one in layers if leaders[id(one)] is layer]
        found.append((layer, join_followers(lead, [(one, open_one(as_follower(one, layer))) for one in followers])))
    return combine_in_step(found)
