"""Any number of reading processes gives the same batches; bad records are errors or are skipped and counted."""

from __future__ import annotations

import os
import signal
import subprocess
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusion.data import DataSource, bad_records, batches, open_source
from fusion.data.convert_imageset import write_images
from fusion.data.image_options import ImageOptions
from fusion.data.lmdb_leveldb import Database, open_database, write_database
from fusion.data.read_batches import skipped_lines
from fusion.errors import DataError
from prototxt.schema.messages import LayerParameter

COUNT = 11


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for index in range(COUNT):
        Image.fromarray(rng.integers(0, 255, (12, 10, 3)).astype(np.uint8)).save(f"p{index}.png")
    Path("list.txt").write_text("".join(f"p{index}.png {index}\n" for index in range(COUNT)))
    lines = [f"# {i}\np{i}.png\n3\n12\n10\n2\n{i + 1} 0.9 1 2 8 9\n0 0.1 0 0 3 4\n" for i in range(COUNT)]
    Path("windows.txt").write_text("".join(lines))
    return tmp_path


def layer_of(kind: str) -> LayerParameter:
    layer = LayerParameter(name="data", type=kind, top=["data", "label"])
    layer.transform_param.crop_size = 7
    layer.transform_param.mirror = True
    if kind == "ImageData":
        layer.image_data_param.source, layer.image_data_param.batch_size = "list.txt", 4
        layer.image_data_param.shuffle, layer.image_data_param.rand_skip = True, 5
    elif kind == "WindowData":
        layer.window_data_param.source, layer.window_data_param.batch_size = "windows.txt", 4
    else:
        layer.data_param.source, layer.data_param.batch_size = "db", 4
    return layer


def make_database(*, lmdb: bool) -> LayerParameter:
    pytest.importorskip("lmdb" if lmdb else "plyvel")
    write_images("list.txt", "", "db", ImageOptions(), lmdb=lmdb)
    layer = layer_of("Data")
    layer.data_param.backend = layer.data_param.LMDB if lmdb else layer.data_param.LEVELDB
    return layer


def take(source: DataSource, count: int, workers: int, start: int = 0) -> list[dict[str, np.ndarray]]:
    found = batches(source, start, workers=workers)
    try:
        return [{top: tensor.numpy() for top, tensor in blobs.items()} for blobs in islice(found, count)]
    finally:
        found.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "kind", ["ImageData", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("LMDB", "LevelDB", "WindowData"))]
)
def test_any_number_of_workers(kind: str, pictures: Path) -> None:
    layer = make_database(lmdb=kind == "LMDB") if "DB" in kind else layer_of(kind)
    kept = take(open_source(layer, "TRAIN", seed=5), 9, 0)
    assert len({blobs["data"].tobytes() for blobs in kept}) == 9, "windows and flips are drawn"
    for workers in (0, 1, 2, 4) if kind == "ImageData" else (0, 3):
        found = take(open_source(layer, "TRAIN", seed=5, budget=0), 9, workers)
        for one, other in zip(found, kept, strict=True):
            np.testing.assert_array_equal(one["data"], other["data"])
            np.testing.assert_array_equal(one["label"], other["label"])
    late = take(open_source(layer, "TRAIN", seed=5, budget=0), 3, 2, start=6)
    np.testing.assert_array_equal(late[2]["data"], kept[8]["data"])


def test_a_worker_that_dies_is_an_error(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    original = subprocess.Popen

    def remember(*arguments: object, **options: object) -> subprocess.Popen[bytes]:
        started.append(original(*arguments, **options))  # type: ignore[call-overload]
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", remember)
    found = batches(open_source(layer_of("ImageData"), "TRAIN", budget=0), workers=2)
    next(found)
    os.kill(started[1].pid, signal.SIGKILL)
    with pytest.raises(DataError, match=r"a reading process was killed by signal 9(.|\n)*fewer workers"):
        list(islice(found, 100_000))
    assert all(worker.poll() is not None for worker in started), "nobody is left behind"


def test_a_silent_worker_is_given_up(pictures: Path) -> None:
    found = batches(open_source(layer_of("ImageData"), "TRAIN", budget=0), workers=1, patience=0.001)
    with pytest.raises(DataError, match="has sent nothing"):
        next(found)


def spoil(*, database: bool) -> LayerParameter:
    """Records 2, 3 and 9 are bad: cut off, no picture at all, and of another size."""
    Image.effect_noise((64, 64), 50).convert("RGB").save("whole.jpg")
    Path("p2.png").write_bytes(Path("whole.jpg").read_bytes()[:900])
    Path("p3.png").write_bytes(b"nothing")
    Image.new("RGB", (4, 5)).save("p9.png")
    if not database:
        return layer_of("ImageData")
    source = open_database("db", lmdb=True)
    records = {key: source.get(index) for index, key in enumerate(source.keys)}
    from prototxt.formats.datum import Datum, write_datum

    records[source.keys[2]] = write_datum(Datum(label=2, encoded=True, data=Path("p2.png").read_bytes()))
    records[source.keys[3]] = b"\x22\xff\xff"
    records[source.keys[9]] = write_datum(Datum(3, 5, 4, 9, data=bytes(60)))
    write_database("spoilt", records.items(), lmdb=True)
    layer = layer_of("Data")
    layer.data_param.source, layer.data_param.backend = "spoilt", layer.data_param.LMDB
    return layer


@pytest.mark.parametrize("database", [False, True], ids=["list", "database"])
@pytest.mark.parametrize("workers", [None, 0, 2])
def test_bad_records(database: bool, workers: int | None, pictures: Path) -> None:
    if database:
        make_database(lmdb=True)
    layer = spoil(database=database)
    layer.image_data_param.shuffle, layer.image_data_param.rand_skip = False, 0
    layer.transform_param.mirror = False
    budget = 0 if workers is not None else 1 << 20
    strict = open_source(layer, "TEST", budget=budget)
    with pytest.raises(DataError, match=r"cannot decode the image"):
        take(strict, 3, workers or 0)
    source = open_source(layer, "TEST", budget=budget, on_bad_record="skip")
    found = take(source, 3, workers or 0)
    labels = np.concatenate([blobs["label"] for blobs in found]).tolist()
    assert labels == [0, 1, 4, 4, 4, 5, 6, 7, 8, 10, 10, 0], "the next good record stands in for a bad one"
    np.testing.assert_array_equal(found[0]["data"][2], found[1]["data"][0])
    assert len(bad_records([source])) == 3
    assert skipped_lines([source])[0].startswith("warning: 3 bad records were skipped")
    assert len(skipped_lines([source])) == 4
    assert skipped_lines([strict]) == []


def test_a_record_of_another_size_fails_by_default(pictures: Path) -> None:
    layer = layer_of("ImageData")
    layer.transform_param.ClearField("crop_size")
    layer.image_data_param.ClearField("shuffle")
    Image.new("RGB", (10, 13)).save("p9.png")
    for workers in (0, 2):
        with pytest.raises(DataError, match=r"list\.txt:10: this image is 3x13x10"):
            take(open_source(layer, "TEST", budget=0), 4, workers)


@pytest.mark.parametrize("part", [0.9, 0.3, 0.01])
def test_an_lmdb_cut_off_is_an_error_and_no_crash(part: float, pictures: Path) -> None:
    layer = make_database(lmdb=True)
    os.truncate("db/data.mdb", int(part * os.path.getsize("db/data.mdb")))
    with pytest.raises(DataError, match=r"db: (.* cut off: it has \d+ of \d+ bytes|cannot open)"):
        open_source(layer, "TRAIN")


class Damaged:
    """A database whose keys say more than it holds."""

    def get(self, key: bytes, *, verify_checksums: bool) -> bytes | None:
        assert verify_checksums
        if key == b"worse":
            raise RuntimeError("checksum mismatch")
        return None


@pytest.mark.parametrize(
    ("index", "says"),
    [
        (0, r"is in the list of keys(.|\n)*skip bad records"),
        (1, r"cannot be read: checksum mismatch\n  hint: the database is damaged"),
    ],
)
def test_a_damaged_record_is_named(index: int, says: str) -> None:
    database = Database("db", [b"gone", b"worse"], Damaged(), lmdb=False)
    with pytest.raises(DataError, match=rf"db:(gone|worse): the record {says}"):
        database.get(index)


def test_two_sources_of_one_database(pictures: Path) -> None:
    layer = make_database(lmdb=True)
    one, other = (open_source(layer, phase, seed=1) for phase in ("TRAIN", "TEST"))
    assert list(one.keys) == list(other.keys)


def test_nothing_but_bad_records(pictures: Path) -> None:
    Path("list.txt").write_text("a.png 0\nb.png 1\n")
    with pytest.raises(DataError, match=r"none of 2 records can be read: cannot read the image 'a\.png'"):
        open_source(layer_of("ImageData"), "TEST", on_bad_record="skip")
