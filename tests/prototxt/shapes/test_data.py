"""Data layers: shapes from parameters, from the first record where there is one, and from the caller."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import prototxt
from prototxt.schema.messages import NetParameter
from prototxt.shapes import UNKNOWN, infer
from prototxt.shapes.sources import database_record

GOLDEN = Path(__file__).parents[2] / "golden"
RECORDED = sorted(path.stem for path in (GOLDEN / "formats" / "data").glob("case_*.prototxt"))


def net_of(text: str) -> NetParameter:
    return prototxt.load_net(prototxt.parse(text, name="net.prototxt"))


@pytest.mark.parametrize("case", RECORDED)
def test_first_records_give_the_shapes_that_caffe_made(
    case: str, golden: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = golden / "formats" / "data"
    monkeypatch.chdir(folder)
    recorded = np.load(folder / f"{case}.npz")
    blobs = infer(prototxt.load_net(folder / f"{case}.prototxt")).blobs
    assert blobs["data"] == recorded[next(name for name in recorded.files if "data" in name)].shape


@pytest.mark.parametrize("case", ["hdf5data", "windowdata", "memorydata"])
def test_misc_sources(case: str, golden: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = golden / "misc" / case
    monkeypatch.chdir(folder)
    blobs = infer(prototxt.load_net(folder / "net.prototxt")).blobs
    with np.load(folder / "io.npz") as recorded:
        arrays = {name.removeprefix("b0:"): recorded[name].shape for name in recorded.files}
    if case == "memorydata":
        # Caffe sets up [batch], and gives the label three more axes when it runs.
        assert arrays.pop("label")[1:] == (1, 1, 1)
    made = {name: shape for name, shape in arrays.items() if name in blobs}
    assert made
    assert {name: blobs[name] for name in made} == made


@pytest.mark.parametrize("case", ["consts", "legacy", "no_filler", "one_filler", "one_shape_two_tops"])
def test_dummy_data(case: str, golden: Path) -> None:
    folder = golden / "misc" / "dummydata"
    blobs = infer(prototxt.load_net(folder / f"{case}.prototxt")).blobs
    with np.load(folder / f"{case}.npz") as recorded:
        assert {name: blobs[name.rpartition(":")[2]] for name in recorded.files} == {
            name: recorded[name].shape for name in recorded.files
        }


def test_an_lmdb_is_opened_to_be_read_only(golden: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lmdb = pytest.importorskip("lmdb")
    opened: list[dict[str, object]] = []
    whole = lmdb.open
    monkeypatch.setattr(lmdb, "open", lambda path, **how: opened.append(how) or whole(path, **how))  # type: ignore[func-returns-value]
    assert database_record(str(golden / "formats" / "data" / "rgb_lmdb"), True, None)[0] == 3
    assert opened == [{"readonly": True, "lock": False, "subdir": True}]


@pytest.mark.parametrize("forced", [None, 1])
def test_records_that_are_not_there(tmp_path: Path, forced: int | None) -> None:
    assert database_record("", True, forced) == (forced, None, None)
    assert database_record(str(tmp_path / "none"), False, forced) == (forced, None, None)


def test_a_leveldb_is_read_without_being_written(golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("plyvel")
    source = next(path for path in (golden / "formats" / "data").iterdir() if path.name.endswith("_leveldb"))
    shutil.copytree(source, tmp_path / "db")
    before = {path.name: path.read_bytes() for path in (tmp_path / "db").iterdir()}
    monkeypatch.chdir(tmp_path)
    net = net_of('layer { name: "d" type: "Data" top: "data" data_param { source: "db" batch_size: 2 } }')
    shape = infer(net).blobs["data"]
    assert shape[0] == 2
    assert None not in shape
    assert {path.name: path.read_bytes() for path in (tmp_path / "db").iterdir()} == before


@pytest.mark.parametrize(
    ("layer", "shapes"),
    [
        ('type: "Data" data_param { source: "none" batch_size: 3 }', [(3, None, None, None), (3,)]),
        ('type: "Data" data_param { batch_size: 3 } transform_param { crop_size: 7 }', [(3, None, 7, 7), (3,)]),
        ('type: "Data" data_param { batch_size: 3 } transform_param { force_gray: true }', [(3, 1, None, None), (3,)]),
        ('type: "ImageData" image_data_param { source: "none" }', [(1, 3, None, None), (1,)]),
        ('type: "ImageData" image_data_param { is_color: false new_height: 4 new_width: 5 }', [(1, 1, 4, 5), (1,)]),
        ('type: "HDF5Data" hdf5_data_param { source: "none" batch_size: 3 }', [UNKNOWN, UNKNOWN]),
        ('type: "WindowData" window_data_param { batch_size: 2 crop_size: 9 }', [(2, None, 9, 9), (2,)]),
        ('type: "Input"', [UNKNOWN, UNKNOWN]),
        ('type: "Python"', [UNKNOWN, UNKNOWN]),
    ],
)
def test_absent_sources_leave_dimensions_unknown(
    layer: str, shapes: list[tuple[int | None, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    blobs = infer(net_of(f'layer {{ name: "d" top: "x" top: "y" {layer} }}')).blobs
    assert [blobs["x"], blobs["y"]] == shapes
    given = infer(net_of(f'layer {{ name: "d" top: "x" top: "y" {layer} }}'), {"x": (2, 3), "y": (2,)}).blobs
    assert given == {"x": (2, 3), "y": (2,)}


@pytest.mark.parametrize("content", ["", "missing.png 1\n", "broken.png 0\n"])
def test_broken_lists_leave_dimensions_unknown(content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    (tmp_path / "list.txt").write_text(content)
    net = net_of('layer { name: "d" type: "ImageData" top: "x" top: "y" image_data_param { source: "list.txt" } }')
    assert infer(net).blobs["x"] == (1, 3, None, None)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ('type: "Data" data_param { source: "x" }', "batch_size must be at least 1"),
        ('type: "ImageData" image_data_param { new_height: 4 }', "new_height and new_width must be given together"),
        ('type: "MemoryData" memory_data_param { batch_size: 1 }', "must all be at least 1"),
        ('type: "WindowData" window_data_param { batch_size: 1 }', "crop_size must be at least 1"),
        ('type: "HDF5Data" hdf5_data_param { batch_size: 1 } transform_param { scale: 2 }', "does not transform data"),
        ('type: "DummyData"', "num, channels, height and width must be given equally often"),
        ('type: "Input" input_param { shape { dim: -1 } }', "a dimension is negative"),
        (
            'type: "ImageData" image_data_param { new_height: 4 new_width: 4 } transform_param { crop_size: 5 }',
            "crop_size 5 is larger than the pictures (4x4)",
        ),
        (
            'type: "Data" data_param { batch_size: 1 } transform_param { force_color: true force_gray: true }',
            "force_color and force_gray exclude each other",
        ),
    ],
)
def test_refused_parameters(layer: str, message: str) -> None:
    with pytest.raises(prototxt.ShapeError, match=r"net\.prototxt:1:1: layer 'd'") as caught:
        infer(net_of(f'layer {{ name: "d" top: "x" top: "y" {layer} }}'))
    assert message in caught.value.message
