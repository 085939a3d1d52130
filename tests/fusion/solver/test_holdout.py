"""Records kept back: which they are, in which order the others come, and how a test net reads them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fusion.data import DataSource, open_source
from fusion.data.convert_imageset import write_images
from fusion.data.image_options import ImageOptions
from fusion.data.replaced_list import with_list
from fusion.errors import TrainingError
from fusion.solver.holdout import SourceSubset, filter_batches, validation_records, with_training_data
from prototxt import load_net, parse
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
    for share in (0.0, 1.0, 0.001, float("inf"), float("nan")):
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


def test_selected_records_are_batched_anew() -> None:
    selected = np.array([True, False, True, True, False, True])
    batches = [np.array(each) for each in ([0, 1, 2], [3, 4, 5], [5, 3, 2], [1, 4], [0])]
    found = [batch.tolist() for batch in filter_batches(batches, selected, 2)]
    assert found == [[0, 2], [3, 5], [5, 3], [2, 0]]
    assert [batch.tolist() for batch in filter_batches(batches[:1], selected, 3)] == []


def test_a_part_of_the_records_has_its_own_numbers(project: Make) -> None:
    train, _ = source_of(project)
    Path("train4.png").write_bytes(b"no picture")
    whole = open_source(train.layer[0], "TRAIN", seed=3)
    part = SourceSubset(whole, np.array([2, 4, 7]))
    assert (len(part), part.keys) == (3, ["train2.png", "train4.png", "train7.png"])
    assert part.labels is not None
    assert part.labels.tolist() == [2, 1, 1]
    assert part._number.tolist()[:9] == [-1, -1, 0, -1, 1, -1, -1, 2, -1]
    assert part.place(2) == whole.place(7)
    assert part.batch(np.array([2, 0]))["label"].tolist() == [1, 2]
    assert part.fingerprint() != SourceSubset(whole, np.array([2, 4, 8])).fingerprint()


@pytest.mark.parametrize(
    ("labels", "share", "expected"), [(None, 0.1, 1), (None, 0.9, 9), (None, 0.04, None), (None, 0.96, None)]
)
def test_at_least_one_record_is_on_each_side(labels: None, share: float, expected: int | None) -> None:
    if expected is None:
        with pytest.raises(TrainingError, match="of 10 training records for validation"):
            kept_back(Records(10, labels), share, 1)
        return
    found = kept_back(Records(10, labels), share, 1)
    assert len(found) == expected
    assert found.tolist() == sorted(set(found.tolist()))


TWO = """layer { name: "a" type: "ImageData" top: "x" image_data_param { source: "x.txt" batch_size: 2 } }
layer { name: "b" type: "ImageData" top: "y" image_data_param { source: "y.txt" batch_size: 2 } }
"""


def test_each_of_several_lists_is_replaced_by_its_own() -> None:
    def lists(text: str, given: str) -> list[str]:
        return [layer.image_data_param.source for layer in with_list(load_net(parse(text)), given).layer]

    assert lists(TWO, "y=B.txt,x=A.txt") == ["A.txt", "B.txt"]
    assert lists(TWO.replace("y.txt", "x.txt"), "A.txt") == ["A.txt", "A.txt"]
    for given in ("A.txt", "x=A.txt", "x=A.txt,z=B.txt", "x=A.txt,y="):
        with pytest.raises(TrainingError, match=r"reads 'x' from x\.txt, 'y' from y\.txt, and .* cannot replace all"):
            lists(TWO, given)


def test_what_a_test_net_keeps_of_its_own(project: Make) -> None:
    train, test = source_of(project, shuffle=True)
    theirs, own = train.layer[0], test.layer[0]
    theirs.image_data_param.rand_skip = 5
    theirs.image_data_param.root_folder = "r/"
    theirs.transform_param.mirror = True
    own.include.add(phase=1)
    own.top[0] = "picture"
    (data, *_) = with_training_data(test, train).layer
    assert (data.image_data_param.rand_skip, data.image_data_param.root_folder) == (0, "r/")
    assert (data.transform_param.mirror, data.name, list(data.top)) == (False, "data", ["picture", "label"])
    assert len(data.include) == len(own.include)
    own.ClearField("transform_param")
    assert not with_training_data(test, train).layer[0].HasField("transform_param")
    theirs.type = "Data"
    theirs.ClearField("image_data_param")
    theirs.data_param.source, theirs.data_param.batch_size, theirs.data_param.rand_skip = "db", 4, 3
    found = with_training_data(test, train).layer[0]
    assert (found.type, found.data_param.source, found.data_param.batch_size) == ("Data", "db", 4)
    assert (found.data_param.rand_skip, found.HasField("image_data_param")) == (0, False)


def test_a_net_on_a_database_reads_images_and_the_reverse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("cat", "dog"):
        Path("photos", name).mkdir(parents=True)
        Image.fromarray(np.full((5, 6), 9, np.uint8)).save(f"photos/{name}/1.png")
    write_images("photos", "", "db", ImageOptions(size=(4, 3), gray=True))
    text = 'layer { name: "d" type: "Data" top: "data" top: "label" transform_param { scale: 0.5 }'
    text += ' data_param { source: "db" backend: LMDB batch_size: 2 } }'
    net = load_net(parse(text))
    images = with_list(net, "photos")
    (data,) = images.layer
    param = data.image_data_param
    assert (data.type, param.source, param.new_height, param.new_width) == ("ImageData", "photos", 4, 3)
    assert (data.transform_param.scale, data.HasField("data_param"), net.layer[0].type) == (0.5, False, "Data")
    assert with_list(images, "db") == net
    param.root_folder = "elsewhere/"
    assert not with_list(images, "photos").layer[0].image_data_param.HasField("root_folder")
    assert with_list(images, "list.txt").layer[0].image_data_param.root_folder == "elsewhere/"
