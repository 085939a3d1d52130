"""Records kept back: which they are, in which order the others come, and how a test net reads them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from fusion.data import open_source
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
    held = validation_records(len(whole), 0.25, seed=3)
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


def test_shares_are_drawn_by_seed() -> None:
    assert np.array_equal(validation_records(100, 0.1, 7), validation_records(100, 0.1, 7))
    assert not np.array_equal(validation_records(100, 0.1, 7), validation_records(100, 0.1, 8))
    assert len(validation_records(100, "list.txt", 7)) == 0
    for share in (0.0, 1.0, 0.001):
        with pytest.raises(TrainingError, match="training records for validation"):
            validation_records(100, share, 7)


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
