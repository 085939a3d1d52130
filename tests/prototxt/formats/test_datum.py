"""Mean images and database records, against what Caffe's own tools wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from prototxt.errors import WeightsError
from prototxt.formats.datum import Datum, read_datum, read_mean, write_datum, write_mean


def test_the_mean_of_compute_image_mean_round_trips_to_the_byte(golden: Path, tmp_path: Path) -> None:
    folder = golden / "formats" / "data"
    mean = read_mean(folder / "mean.binaryproto")
    np.testing.assert_array_equal(mean, np.load(folder / "mean.npz")["mean"])
    write_mean(tmp_path / "mean.binaryproto", mean)
    assert (tmp_path / "mean.binaryproto").read_bytes() == (folder / "mean.binaryproto").read_bytes()


def test_a_caffemodel_is_no_mean(golden: Path) -> None:
    with pytest.raises(WeightsError):
        read_mean(golden / "formats" / "small" / "net.caffemodel")


def test_database_records(golden: Path) -> None:
    lmdb = pytest.importorskip("lmdb")
    folder = golden / "formats" / "data"
    with lmdb.open(str(folder / "rgb_lmdb"), readonly=True, lock=False) as env, env.begin() as transaction:
        records = [(read_datum(value), value) for _, value in transaction.cursor()]
    assert records
    for datum, value in records:
        assert write_datum(datum) == bytes(value)
        assert datum.array().shape == (datum.channels, datum.height, datum.width)


def test_float_records() -> None:
    datum = Datum(1, 1, 3, label=-2, float_data=np.array([0.5, -1, 2], np.float32))
    back = read_datum(write_datum(datum))
    assert back.label == -2
    np.testing.assert_array_equal(back.array(), [[[0.5, -1, 2]]])


def test_a_broken_record_names_the_byte() -> None:
    with pytest.raises(WeightsError, match=r"00000001_a\.png: byte 2: field 4 claims 100 bytes, but .* only 1 left"):
        read_datum(b"\x08\x01\x22\x64x", "00000001_a.png")
    with pytest.raises(WeightsError, match=r"the record's size is \(3, 2, 2\), but it holds 4 values"):
        read_datum(b"\x08\x03\x10\x02\x18\x02\x22\x04abcd").array()


def test_fields_that_are_not_given_are_zero() -> None:
    empty = read_datum(b"")
    assert empty == Datum()
    assert (empty.channels, empty.height, empty.width, empty.label, empty.encoded) == (0, 0, 0, 0, False)
