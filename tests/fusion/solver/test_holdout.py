"""Records kept back: which they are, in which order the others come, and how a test net reads them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray

from fusion.data import DataSource, open_source
from fusion.errors import TrainingError
from fusion.solver.holdout import SourceSubset, validation_records, with_list, with_training_data
from prototxt import load_net
from prototxt.schema.filter import filter_net
from prototxt.schema.messages import NetParameter

Make = Callable[..., Path]


def source_of(project: Make, **settings: object) -> tuple[NetParameter, NetParameter]:
    project(**settings)
    train, test = (filter_net(load_net("net.prototxt"), phase) for phase in ("TRAIN", "TEST"))
    return train, test


def test_the_others_come_in_the_order_of_the_whole(project: Make) -> None:
    train, _ = source_of(project, shuffle=True)
    whole = open_source(train.layer[0], "TRAIN", seed=3)
    held = validation_records(whole, 0.25, seed=3)
    rest = SourceSubset(whole, np.setdiff1d(np.arange(len(whole)), held))
    visited = [index for batch in islice(whole.order(), 11) for index in batch.tolist() if index not in held]
    found = [rest.records[index] for batch in islice(rest.order(), 8) for index in batch.tolist()]
    assert found == visited[: len(found)]
    later = [batch.tolist() for batch in islice(rest.order(5), 3)]
    assert later == [batch.tolist() for batch in islice(rest.order(), 5, 8)]
    assert [rest.keys[index] for index in range(3)] == [whole.keys[record] for record in rest.records[:3]]
    assert rest.labels is not None
    blobs = rest.batch(np.array([0, 5]))
    assert blobs["label"].tolist() == rest.labels[[0, 5]].tolist()
    assert rest.fingerprint() != whole.fingerprint()
    assert rest.place(0) == whole.place(int(rest.records[0]))


class Records(list[None]):
    """As many records as it is long, of these classes."""

    def __init__(self, count: int, labels: NDArray[np.int64] | None = None) -> None:
        super().__init__([None] * count)
        self.labels = labels


def kept_back(records: Records, share: float | str, seed: int) -> NDArray[np.int64]:
    return validation_records(cast("DataSource", records), share, seed)


def test_shares_are_drawn_by_seed() -> None:
    every = Records(100)
    assert np.array_equal(kept_back(every, 0.1, 7), kept_back(every, 0.1, 7))
    assert not np.array_equal(kept_back(every, 0.1, 7), kept_back(every, 0.1, 8))
    assert len(kept_back(every, "list.txt", 7)) == 0
    for share in (0.0, 1.0, 0.001):
        with pytest.raises(TrainingError, match="training records for validation"):
            kept_back(every, share, 7)


def test_each_class_gives_its_share() -> None:
    labels = np.random.default_rng(1).permutation(np.repeat([0, 1, 2], [57, 29, 5]))
    found = [kept_back(Records(91, labels), 0.2, seed) for seed in range(200)]
    counts = np.array([np.bincount(labels[records], minlength=3) for records in found])
    assert all(len(set(records.tolist())) == 18 for records in found)
    assert (np.abs(counts - 18 / 91 * np.array([57, 29, 5])) < 1).all()
    drawn = np.bincount(np.concatenate(found), minlength=91)
    assert drawn.min() > 15  # of 200; expected 40: no record is left out for good
    assert drawn.max() < 70


def test_a_test_net_reads_training_records_in_its_own_way(project: Make) -> None:
    train, test = source_of(project, shuffle=True)
    (data, *_) = with_training_data(test, train).layer
    param = data.image_data_param
    assert (param.source, param.batch_size, param.shuffle) == ("train.txt", 3, False)
    assert list(data.top) == ["data", "label"]
    assert data.transform_param.scale == pytest.approx(0.01)
    (data, *_) = with_list(test, "choose.txt").layer
    assert data.image_data_param.source == "choose.txt"
    assert test.layer[0].image_data_param.source == "test.txt"


def test_nets_that_cannot_do_so(project: Make) -> None:
    train, test = source_of(project)
    test.layer[0].type = "MemoryData"
    test.layer[0].ClearField("image_data_param")
    with pytest.raises(TrainingError, match="reads no list"):
        with_list(test, "choose.txt")
    train.layer.add().CopyFrom(train.layer[0])
    with pytest.raises(TrainingError, match="give data, data in training and data in the test"):
        with_training_data(test, train)
