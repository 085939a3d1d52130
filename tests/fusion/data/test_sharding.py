"""Several processes' shares of one data layer: together they are the batches that one process reads."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusion.data import DataSource, batches, open_source
from fusion.data.sharding import ShardSpec, shard
from fusion.errors import DataError
from prototxt.schema.messages import LayerParameter

COUNT = 10


@pytest.fixture
def layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LayerParameter:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for index in range(COUNT):
        Image.fromarray(rng.integers(0, 255, (6, 6)).astype(np.uint8)).save(f"p{index}.png")
    Path("list.txt").write_text("".join(f"p{index}.png {index}\n" for index in range(COUNT)))
    layer = LayerParameter(name="data", type="ImageData", top=["data", "label"])
    layer.image_data_param.source, layer.image_data_param.batch_size = "list.txt", 4
    layer.image_data_param.shuffle, layer.image_data_param.is_color = True, False
    return layer


def labels(source: DataSource, count: int, start: int = 0, workers: int = 0) -> list[list[float]]:
    found = batches(source, start, workers=workers)
    taken = [blobs["label"].tolist() for blobs in islice(found, count)]
    found.close()  # type: ignore[attr-defined]
    return taken


@pytest.mark.parametrize("workers", [0, 2])
def test_pieces_of_every_batch(layer: LayerParameter, workers: int) -> None:
    source = open_source(layer, "TRAIN", seed=5, budget=0)
    whole = labels(source, 5, start=2)
    parts = [shard(source, ShardSpec(rank, 2)) for rank in range(2)]
    assert [part.batch_size for part in parts] == [2, 2]
    assert parts[0].shapes == {"data": (2, 1, 6, 6), "label": (2,)}
    found = [labels(part, 5, start=2, workers=workers) for part in parts]
    assert [one + other for one, other in zip(*found, strict=True)] == whole


def test_whole_batches_in_turn(layer: LayerParameter) -> None:
    source = open_source(layer, "TRAIN", seed=5, budget=0)
    whole = labels(source, 9, start=3)
    parts = [shard(source, ShardSpec(rank, 3, whole=True)) for rank in range(3)]
    found = [labels(part, 3, start=1) for part in parts]
    assert [batch for turn in zip(*found, strict=True) for batch in turn] == whole
    assert parts[2].batch_size == 4


def test_draws_differ(layer: LayerParameter) -> None:
    layer.transform_param.crop_size = 3
    source = open_source(layer, "TRAIN", seed=5)
    one, other = (shard(source, ShardSpec(rank, 2)).batch(np.arange(4), draw=7)["data"] for rank in range(2))
    assert not np.array_equal(one.numpy(), other.numpy())
    assert [ShardSpec(rank, 3).draw(5) for rank in range(3)] == [15, 16, 17]


def test_the_rest_is_the_sources(layer: LayerParameter) -> None:
    source = open_source(layer, "TRAIN", seed=5)
    part = shard(source, ShardSpec(1, 2))
    assert (len(part), part.keys, part.tops, part.place(3)) == (COUNT, source.keys, source.tops, source.place(3))
    assert (part.deterministic, part.in_memory) == (source.deterministic, source.in_memory)
    assert part.fingerprint() == source.fingerprint()


def test_what_cannot_be_divided(layer: LayerParameter) -> None:
    for size, processes, fitting in ((4, 3, 3), (8, 3, 9), (1, 4, 4)):
        layer.image_data_param.batch_size = size
        with pytest.raises(DataError, match=f"batches of {size} cannot be divided among {processes}") as error:
            shard(open_source(layer, "TRAIN"), ShardSpec(0, processes))
        assert f"set batch_size to {fitting}, or take --auto-scale" in str(error.value)
    dummy = LayerParameter(name="data", type="DummyData", top=["a", "b"])
    for size in (4, 2):
        dummy.dummy_data_param.shape.add().dim.extend([size, 3])
    with pytest.raises(DataError, match="no row for each record to divide"):
        shard(open_source(dummy, "TRAIN"), ShardSpec(0, 2))
