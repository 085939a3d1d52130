"""Sources give the very blobs that Caffe's data layers gave."""

from __future__ import annotations

import json
import shutil
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from fusion.data import open_source
from fusion.data.source import DataSource
from prototxt import load_net
from prototxt.schema.messages import LayerParameter

FOLDER = Path(__file__).parents[2] / "golden" / "formats" / "data"
CASES = sorted(path.stem.removeprefix("case_") for path in FOLDER.glob("case_*.prototxt"))
PHASES = json.loads((FOLDER / "transform_cases.json").read_text())


def layer_of(path: Path) -> LayerParameter:
    return load_net(path).layer[0]


def batches(source: DataSource, count: int) -> list[dict[str, np.ndarray]]:
    return [
        {top: tensor.numpy() for top, tensor in source.batch(indices).items()}
        for indices in islice(source.order(), count)
    ]


@pytest.mark.parametrize("case", CASES)
def test_pictures(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FOLDER)
    source = open_source(layer_of(FOLDER / f"case_{case}.prototxt"), PHASES[case]["phase"])
    expected = np.load(FOLDER / f"case_{case}.npz")
    assert source.deterministic
    for number, blobs in enumerate(batches(source, PHASES[case]["batches"])):
        for top in source.tops:
            np.testing.assert_array_equal(blobs[top], expected[f"{top}{number}"])


@pytest.mark.parametrize("name", ["rgb", "gray"])
def test_leveldb(name: str, tmp_path: Path) -> None:
    pytest.importorskip("plyvel")
    shutil.copytree(FOLDER / f"{name}_leveldb", tmp_path / "db")
    case = "data_plain" if name == "rgb" else "data_gray"
    layer = layer_of(FOLDER / f"case_{case}.prototxt")
    layer.data_param.source = str(tmp_path / "db")
    layer.data_param.backend = layer.data_param.LEVELDB
    (blobs,) = batches(open_source(layer, "TEST"), 1)
    expected = np.load(FOLDER / f"case_{case}.npz")
    np.testing.assert_array_equal(blobs["data"], expected["data0"])
    np.testing.assert_array_equal(blobs["label"], expected["label0"])


def test_hdf5_runs_across_files(golden: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = golden / "misc" / "hdf5data"
    monkeypatch.chdir(folder)
    source = open_source(layer_of(folder / "net.prototxt"), "TRAIN")
    expected = np.load("io.npz")
    for number, blobs in enumerate(batches(source, 7)):
        for top in source.tops:
            np.testing.assert_array_equal(blobs[top], expected[f"b{number}:{top}"])


@pytest.mark.parametrize("case", ["consts", "legacy", "no_filler", "one_filler", "one_shape_two_tops"])
def test_dummy_data(case: str, golden: Path) -> None:
    folder = golden / "misc" / "dummydata"
    source = open_source(layer_of(folder / f"{case}.prototxt"), "TRAIN")
    expected = np.load(folder / f"{case}.npz")
    (blobs,) = batches(source, 1)
    assert set(blobs) == set(expected.files)
    for top in expected.files:
        np.testing.assert_array_equal(blobs[top], expected[top])


def test_memory_data(golden: Path) -> None:
    folder = golden / "misc" / "memorydata"
    expected = np.load(folder / "io.npz")
    source = open_source(
        layer_of(folder / "net.prototxt"), "TEST", arrays={"data": expected["x"], "label": expected["l"]}
    )
    for number, blobs in enumerate(batches(source, 3)):
        np.testing.assert_array_equal(blobs["data"] * 2, expected[f"b{number}:y"])
        np.testing.assert_array_equal(blobs["label"], expected[f"b{number}:label"])
