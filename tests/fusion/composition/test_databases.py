"""Sources on databases: which labels are compared, when, and what is offered beside lists."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import prototxt
from fusion import ComposeError, DataError
from fusion.composition import Source, compose
from fusion.composition.list_checks import RecordedLabels, recorded_labels
from fusion.composition.net_text import read_net
from fusion.data.lmdb_leveldb import write_database
from fusion.solver.batches import open_sources
from prototxt.schema.messages import Datum

Make = Callable[..., Path]


def write_lmdb(path: Path, labels: Sequence[int]) -> None:
    records = [Datum(channels=1, height=4, width=4, data=bytes(16), label=label) for label in labels]
    pairs = [(f"{number:08d}".encode(), record.SerializeToString()) for number, record in enumerate(records)]
    write_database(path, pairs, lmdb=True)


def database(make: Make, name: str) -> Path:
    path = make(name, list=name)
    text = path.read_text().replace("ImageData", "Data").replace("image_data_param {", "data_param { backend: LMDB")
    path.write_text(re.sub(r"\.txt|(is_color|new_height|new_width|shuffle): \w+", "", text))
    return path


def test_labels_of_databases_are_compared(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for phase in ("train", "val"):
        for name, labels in (("one", (0, 1, 2)), ("two", (0, 1, 2)), ("odd", (0, 2, 1)), ("short", (0, 1))):
            write_lmdb(tmp_path / f"{phase}_{name}", labels)
    paths = {name: database(make, name) for name in ("one", "two", "odd", "short")}
    composed = compose([Source(name, paths[name]) for name in ("one", "two")], num_output=3)
    assert sum("their labels are the same" in note for note in composed.notes) == 2
    assert "in_step_with" not in str(composed.train_val)
    for name, reason in (
        ("odd", "record 2 has the label 1 in train_one and 2"),
        ("short", "has 3 records and train_s"),
    ):
        with pytest.raises(ComposeError, match=reason):
            compose([Source("one", paths["one"]), Source(name, paths[name])], num_output=3)
        named = Source(name, paths[name], train_list=f"train_{name}", val_list=f"val_{name}")
        with pytest.raises(ComposeError, match=f"not in step in phase TRAIN: .*{reason}"):
            compose([Source("one", paths["one"]), named], num_output=3)


def test_labels_that_are_not_here_are_compared_when_they_are_read(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    one = Source("one", database(make, "one"))
    two = Source("two", database(make, "two"), train_list="train_two", val_list="val_two")
    composed = compose([one, two], num_output=3)
    assert any("which compares their labels when they are read" in note for note in composed.notes)
    net = prototxt.filter_net(prototxt.load_net(composed.train_val), phase="TEST")
    write_lmdb(tmp_path / "val_one", (0, 1, 2))
    write_lmdb(tmp_path / "val_two", (0, 2, 1))
    with pytest.raises(DataError, match="its labels differ in 2 of 3 records"):
        open_sources(net, "TEST", seed=1)


def test_sources_of_other_kinds_are_offered_what_serves_both(make: Make) -> None:
    with pytest.raises(ComposeError) as caught:
        compose([Source("one", database(make, "one")), Source("two", make("two", list="two"))], num_output=3)
    assert "--train-list two=train_two.txt" in str(caught.value)
    assert "one list" not in str(caught.value)
    assert "--data-from" not in str(caught.value)


@pytest.mark.parametrize(
    ("backend", "lmdb"), [("backend: LMDB", True), ("backend: 1", True), ("backend: LEVELDB", False), ("", False)]
)
def test_labels_are_read_by_the_layers_backend(tmp_path: Path, backend: str, lmdb: bool) -> None:
    pytest.importorskip("lmdb" if lmdb else "plyvel")
    records = [(b"%d" % number, Datum(label=number + 4).SerializeToString()) for number in range(3)]
    write_database(tmp_path / "db", records, lmdb=lmdb)
    text = f'layer {{ name: "d" type: "Data" top: "d" data_param {{ source: "x" {backend} }} }}'
    (layer,) = read_net(prototxt.parse(text)).layers
    source: Any = SimpleNamespace()
    assert recorded_labels(source, layer, str(tmp_path / "db")) == RecordedLabels(("4", "5", "6"), 3)
    assert recorded_labels(source, layer, None) is None
    assert recorded_labels(source, layer, str(tmp_path / "none")) is None
