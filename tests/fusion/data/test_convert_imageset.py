"""Databases and means are written byte for byte as Caffe's own tools wrote them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fusion.data.convert_imageset import write_images, write_mean_image
from fusion.data.decode_image import decode_image
from fusion.data.encode_image import encode_image
from fusion.data.image_options import ImageOptions
from fusion.data.lmdb_leveldb import open_database, write_database
from fusion.errors import DataError
from prototxt.formats.datum import Datum, read_datum, read_mean, write_datum

FOLDER = Path(__file__).parents[2] / "golden" / "formats" / "data"
CASES = {
    "rgb": ("list.txt", ImageOptions()),
    "gray": ("list.txt", ImageOptions(gray=True)),
    "resized": ("list6.txt", ImageOptions(size=(8, 8), check_size=True)),
    "encoded": ("list.txt", ImageOptions(encoded=True, encode_type="png")),
}


@pytest.mark.parametrize("lmdb", [True, False], ids=["lmdb", "leveldb"])
@pytest.mark.parametrize("case", CASES)
def test_databases(case: str, lmdb: bool, tmp_path: Path) -> None:
    pytest.importorskip("lmdb" if lmdb else "plyvel")
    listed, images = CASES[case]
    written = write_images(FOLDER / listed, f"{FOLDER}/img/", tmp_path / "db", images, lmdb=lmdb)
    ours = open_database(str(tmp_path / "db"), lmdb=lmdb)
    theirs = open_database(str(FOLDER / f"{case}_lmdb"), lmdb=True)
    assert written.records == len(theirs.keys)
    assert [key.decode() for key in ours.keys] == json.loads((FOLDER / f"{case}_keys.json").read_text())
    assert ours.keys == theirs.keys
    assert [bytes(value) for value in ours.values()] == [bytes(value) for value in theirs.values()]
    datums = np.load(FOLDER / f"{case}_datums.npz")
    for index in range(len(ours.keys)):
        assert read_datum(ours.get(index)).data == datums[f"bytes{index}"].tobytes()


@pytest.mark.parametrize("case", ["rgb", "gray"])
def test_leveldb_of_caffe_holds_the_same(case: str, tmp_path: Path) -> None:
    pytest.importorskip("plyvel")
    before = sorted(path.name for path in (FOLDER / f"{case}_leveldb").iterdir())
    theirs = open_database(str(FOLDER / f"{case}_leveldb"), lmdb=False)
    write_images(FOLDER / "list.txt", f"{FOLDER}/img/", tmp_path / "db", CASES[case][1], lmdb=False)
    ours = open_database(str(tmp_path / "db"), lmdb=False)
    assert ours.keys == theirs.keys
    assert list(ours.values()) == list(theirs.values())
    assert sorted(path.name for path in (FOLDER / f"{case}_leveldb").iterdir()) == before, "reading changes nothing"


@pytest.mark.parametrize(
    ("source", "mean"),
    [("rgb_lmdb", "mean"), ("gray_lmdb", "mean_gray"), ("rgb_leveldb", "mean_leveldb"), ("list.txt", "mean")],
)
def test_means(source: str, mean: str, tmp_path: Path) -> None:
    pytest.importorskip("plyvel" if source.endswith("leveldb") else "lmdb")
    written = write_mean_image(FOLDER / source, tmp_path / "mean.binaryproto", root=f"{FOLDER}/img/")
    assert written.records == 5
    assert (tmp_path / "mean.binaryproto").read_bytes() == (FOLDER / f"{mean}.binaryproto").read_bytes()


def test_shuffled_by_seed(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_images(FOLDER / "list.txt", f"{FOLDER}/img/", tmp_path / name, ImageOptions(shuffle=seed))
    one, same, other = (open_database(str(tmp_path / name), lmdb=True).keys for name in "abc")
    assert one == same != other
    assert sorted(key[9:] for key in one) == sorted(key[9:] for key in other)


def test_bad_pictures(tmp_path: Path) -> None:
    names = ("good.png", "cut.jpg", "absent.png", "other.png")
    for index, size in ((0, 8), (3, 9)):
        Image.new("RGB", (size, 8), (index, 2, 3)).save(tmp_path / names[index])
    Image.effect_noise((64, 64), 50).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:500])
    (tmp_path / "list.txt").write_text("".join(f"{name} {i}\n" for i, name in enumerate(names)))
    arguments = (tmp_path / "list.txt", f"{tmp_path}/", tmp_path / "db", ImageOptions(check_size=True))
    with pytest.raises(DataError) as error:
        write_images(*arguments)
    assert [part.place.rpartition("/")[2] for part in error.value.errors] == ["list.txt:2", "list.txt:3", "list.txt:4"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "cut.jpg",
        "good.png",
        "list.txt",
        "other.png",
        "whole.jpg",
    ]
    written = write_images(*arguments, on_bad_record="skip")
    assert (written.records, len(written.skipped)) == (1, 3)
    assert open_database(str(tmp_path / "db"), lmdb=True).keys == [b"00000000_good.png"]
    with pytest.raises(DataError, match="exists already"):
        write_images(*arguments)
    with pytest.raises(DataError, match="the first one 3x8x8"):
        write_mean_image(tmp_path / "list.txt", tmp_path / "m", root=f"{tmp_path}/")


def test_progress_is_told_after_each_thousand(tmp_path: Path) -> None:
    datum = write_datum(Datum(1, 1, 1, data=b"\x07"))
    write_database(tmp_path / "db", ((b"%08d" % number, datum) for number in range(2001)), lmdb=True)
    told: list[tuple[int, int]] = []
    write_mean_image(tmp_path / "db", tmp_path / "mean", progress=lambda *counts: told.append(counts))
    assert told == [(1000, 2001), (2000, 2001)]
    Image.new("L", (1, 1)).save(tmp_path / "a.png")
    (tmp_path / "list.txt").write_text("a.png 0\n" * 1001)
    told.clear()
    images = ImageOptions(gray=True)
    write_images(tmp_path / "list.txt", f"{tmp_path}/", tmp_path / "new", images, progress=lambda *n: told.append(n))
    assert told == [(1000, 1001)]


@pytest.mark.parametrize(
    ("options", "stored"),
    [
        ({}, True),
        ({"encode_type": "JPEG"}, True),
        ({"encode_type": "png"}, False),
        ({"gray": True}, False),
        ({"size": (4, 4)}, False),
    ],
)
def test_files_that_need_not_change_are_stored_as_they_are(
    tmp_path: Path, options: dict[str, Any], stored: bool
) -> None:
    Image.effect_noise((8, 8), 50).convert("RGB").save(tmp_path / "a.jpg")
    (tmp_path / "list.txt").write_text("a.jpg 3\n")
    write_images(tmp_path / "list.txt", f"{tmp_path}/", tmp_path / "db", ImageOptions(encoded=True, **options))
    datum = read_datum(open_database(str(tmp_path / "db"), lmdb=True).get(0))
    assert (datum.data == (tmp_path / "a.jpg").read_bytes()) is stored
    assert datum.encoded
    assert datum.label == 3


def test_a_growing_lmdb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fusion.data.lmdb_leveldb._FIRST_SIZE", 1 << 20)
    assert write_database(tmp_path / "db", ((b"%08d" % i, bytes(5000)) for i in range(2500)), lmdb=True) == 2500
    assert len(open_database(str(tmp_path / "db"), lmdb=True).keys) == 2500


@pytest.mark.usefixtures("full_disk")
@pytest.mark.parametrize("lmdb", [True, False])
def test_a_full_disk(tmp_path: Path, lmdb: bool) -> None:
    pytest.importorskip("lmdb" if lmdb else "plyvel")
    records = ((b"%08d" % i, np.random.default_rng(i).bytes(1000)) for i in range(2000))
    with pytest.raises(DataError, match=r"db: cannot write the database: (.|\n)*the first \d+ records take \d\.\d MB"):
        write_database(tmp_path / "db", records, lmdb=lmdb)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 9), (70, 80), (300, 200)])
@pytest.mark.parametrize("channels", [1, 3])
def test_png_as_opencv(height: int, width: int, channels: int) -> None:
    cv2 = pytest.importorskip("cv2")
    rng = np.random.default_rng(height)
    rough = rng.integers(0, 255, (channels, -(-height // 5), -(-width // 5)))
    pixels = np.repeat(np.repeat(rough, 5, 1), 5, 2)[:, :height, :width].astype(np.uint8)
    pixels += rng.integers(0, 3, pixels.shape).astype(np.uint8)
    data = encode_image(pixels, "png")
    np.testing.assert_array_equal(decode_image(data, color=channels == 3), pixels)
    np.testing.assert_array_equal(
        cv2.imdecode(np.frombuffer(data, np.uint8), -1).reshape(height, width, -1), pixels.transpose(1, 2, 0)
    )


def picture_list(folder: Path, count: int, bad: set[int]) -> Path:
    for index in range(count):
        Image.new("L", (2, 2), index).save(folder / f"{index}.png")
        if index in bad:
            (folder / f"{index}.png").write_bytes(b"none")
    (folder / "list.txt").write_text("".join(f"{index}.png {index}\n" for index in range(count)))
    return folder / "list.txt"


def test_records_after_bad_ones(tmp_path: Path) -> None:
    images, root = ImageOptions(gray=True), f"{tmp_path}/"
    listed = picture_list(tmp_path, 2, {0})
    assert write_images(listed, root, tmp_path / "db", images, on_bad_record="skip").records == 1
    assert open_database(str(tmp_path / "db"), lmdb=True).keys == [b"00000001_1.png"]
    listed = picture_list(tmp_path, 21, set(range(21)))
    for on_bad_record, message in (("skip", "no image of the list can be read"), ("fail", "cannot decode")):
        with pytest.raises(DataError, match=message):
            write_images(listed, root, tmp_path / "none", images, on_bad_record=on_bad_record)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no record can be read"):
        write_mean_image(listed, tmp_path / "m", root=root, on_bad_record="skip")
    listed = picture_list(tmp_path, 40, set(range(40)))
    with pytest.raises(DataError) as error:
        write_images(listed, root, tmp_path / "none", images)
    assert len(error.value.errors) == 21
    written = write_mean_image(
        picture_list(tmp_path, 40, set(range(30))), tmp_path / "m", root=root, on_bad_record="skip"
    )
    assert (written.records, len(written.skipped)) == (10, 30)


def test_the_mean_of_floats_and_of_encoded_records(tmp_path: Path) -> None:
    floats = [Datum(1, 1, 2, float_data=np.array(values, np.float32)) for values in ([0.5, 2], [1, 4])]
    encoded = [Datum(encoded=True, data=encode_image(np.full((1, 1, 2), v, np.uint8), "png")) for v in (3, 4)]
    for name, datums, mean in (("f", floats, [0.75, 3]), ("e", encoded, [3.5, 3.5])):
        write_database(tmp_path / name, [(b"%d" % i, write_datum(one)) for i, one in enumerate(datums)], lmdb=True)
        write_mean_image(tmp_path / name, tmp_path / "mean")
        assert read_mean(tmp_path / "mean").ravel().tolist() == mean


@pytest.mark.parametrize(("length", "fits"), [(511, True), (512, False)])
def test_keys_of_an_lmdb_have_511_bytes(tmp_path: Path, length: int, fits: bool) -> None:
    if fits:
        assert write_database(tmp_path / "db", [(b"k" * length, b"v")], lmdb=True) == 1
        assert [path.name for path in (tmp_path / "db").iterdir()] == ["data.mdb"]
        assert (tmp_path / "db").stat().st_mode & 0o777 == 0o777 & ~umask()
    else:
        with pytest.raises(DataError, match="the key is 512 bytes long"):
            write_database(tmp_path / "db", [(b"k" * length, b"v")], lmdb=True)


def umask() -> int:
    found = os.umask(0)
    os.umask(found)
    return found


def test_what_is_no_database_is_told_with_the_remedy(tmp_path: Path) -> None:
    pytest.importorskip("plyvel")
    write_database(tmp_path / "db", [(b"k", b"v")], lmdb=True)
    write_database(tmp_path / "empty", [], lmdb=True)
    (tmp_path / "folder").mkdir()
    for name, lmdb, message in (
        ("db", False, "this is an LMDB: is backend: LMDB set"),
        ("absent", False, "cannot open the database(.|\n)*source is a folder"),
        ("absent", True, "cannot open the database(.|\n)*source is a folder"),
        ("folder", False, "is the database of the kind"),
        ("empty", True, "the database is empty"),
    ):
        with pytest.raises(DataError, match=message):
            open_database(str(tmp_path / name), lmdb=lmdb)


def test_the_hash_of_a_database_follows_its_files_and_the_settings(tmp_path: Path) -> None:
    write_database(tmp_path / "db", [(b"k", b"v" * 9000)], lmdb=True)
    database = open_database(str(tmp_path / "db"), lmdb=True)
    seen = [database.fingerprint(b"a"), database.fingerprint(b"b")]
    (tmp_path / "db" / "lock.mdb").write_bytes(b"")
    assert database.fingerprint(b"a") == seen[0]
    os.utime(tmp_path / "db" / "data.mdb", (5, 5))
    seen.append(database.fingerprint(b"a"))
    assert len(set(seen)) == 3
    os.truncate(tmp_path / "db" / "data.mdb", 4096)
    with pytest.raises(DataError, match=r"k: the database was cut off while it is read: from \d+ to 4096 bytes"):
        database.get(0)
