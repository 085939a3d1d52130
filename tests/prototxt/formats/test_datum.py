"""Mean images and database records, against what Caffe's own tools wrote."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from prototxt.errors import WeightsError
from prototxt.formats.blob_proto import MAX_RUNS
from prototxt.formats.datum import Datum, read_datum, read_mean, write_datum, write_mean
from prototxt.sniff.protobuf_wire import FIXED32, VARINT, encode_varint, field_key, length_field


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


def blob(*dims: int, values: int) -> bytes:
    """Return a blob with the old dims, or with a shape where there are not four or five of them."""
    number = 6 if len(dims) == 5 else 5
    if len(dims) in (4, 5):
        head = b"".join(field_key(index, VARINT) + encode_varint(dim) for index, dim in enumerate(dims, 1))
    else:
        head = length_field(7, length_field(1, b"".join(map(encode_varint, dims))))
    return head + length_field(number, np.arange(values, dtype="<f4").tobytes())


@pytest.mark.parametrize(
    ("dims", "shape"),
    [((1, 3, 2, 4), (3, 2, 4)), ((3, 2, 4), (3, 2, 4)), ((1, 3, 5, 2, 4), (3, 5, 2, 4)), ((1, 1, 1, 2), (1, 1, 2))],
)
def test_a_mean_is_one_image_without_its_number(tmp_path: Path, dims: tuple[int, ...], shape: tuple[int, ...]) -> None:
    count = int(np.prod(dims))
    (tmp_path / "m").write_bytes(blob(*dims, values=count))
    np.testing.assert_array_equal(read_mean(tmp_path / "m"), np.arange(count).reshape(shape))


@pytest.mark.parametrize("dims", [(2, 3, 2, 4), (2, 3, 5, 2, 4), (3, 2), (24,), (1, 3, 0, 4), (0, 3, 2, 4)])
def test_other_blobs_are_no_mean(tmp_path: Path, dims: tuple[int, ...]) -> None:
    (tmp_path / "m").write_bytes(blob(*dims, values=int(np.prod(dims))))
    with pytest.raises(WeightsError, match=f"a blob of shape {re.escape(str(dims))} is not a mean image"):
        read_mean(tmp_path / "m")


@pytest.mark.parametrize("shape", [(3, 2), (1, 3, 2, 4)])
def test_only_three_axes_are_written_as_a_mean(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(WeightsError, match=f"a mean image has three axes, not {len(shape)}"):
        write_mean(tmp_path / "m", np.zeros(shape))
    assert not list(tmp_path.iterdir())


def test_every_field_of_a_record_survives() -> None:
    picture = Datum(3, 20, 10, label=2**31 - 1, encoded=True, data=b"\x89PNG")
    assert read_datum(write_datum(picture)) == picture
    assert read_datum(write_datum(Datum(1, 2, 1, -1, data=b"ab"))).array().tolist() == [[[97], [98]]]
    with pytest.raises(WeightsError, match="an encoded picture: decode its bytes"):
        picture.array()


def test_the_size_of_an_encoded_picture_is_left_out_only_where_unknown() -> None:
    assert write_datum(Datum(label=3, encoded=True, data=b"x")) == b"\x22\x01x\x28\x03\x38\x01"
    assert write_datum(Datum(1, label=3, encoded=True, data=b"x")) == b"\x08\x01\x22\x01x\x28\x03\x38\x01"
    assert write_datum(Datum(label=3)) == b"\x08\x00\x10\x00\x18\x00\x22\x00\x28\x03\x38\x00"


def test_bytes_take_precedence_over_floats() -> None:
    size = b"\x08\x01\x10\x01\x18\x02"
    floats = length_field(6, np.array([0.5, 2], "<f4").tobytes())
    assert read_datum(size + floats).array().tolist() == [[[0.5, 2]]]
    assert read_datum(size + floats + length_field(4, b"ab")).array().tolist() == [[[97, 98]]]


def test_floats_come_packed_or_one_by_one_or_in_pieces() -> None:
    one, two = np.array([0.5], "<f4").tobytes(), np.array([2, -3], "<f4").tobytes()
    pieces = length_field(6, one + two) + (field_key(6, FIXED32) + one) * 3 + length_field(6, two)
    datum = read_datum(b"\x08\x01\x10\x01\x18\x08" + pieces)
    assert datum.array().tolist() == [[[0.5, 2, -3, 0.5, 0.5, 0.5, 2, -3]]]
    assert read_datum(length_field(6, one) * MAX_RUNS).float_data.shape == (MAX_RUNS,)  # type: ignore[union-attr]
    with pytest.raises(WeightsError, match="r: byte 60002: the values come in more than 10000 pieces"):
        read_datum(length_field(6, one) * (MAX_RUNS + 1), "r")
    with pytest.raises(WeightsError, match="r: byte 2: 5 bytes are no whole number of floats"):
        read_datum(length_field(6, one + b"\0"), "r")


def test_negative_sizes_are_no_sizes() -> None:
    datum = Datum(-1, -2, 1, data=b"ab")
    with pytest.raises(WeightsError, match=r"the record's size is \(-1, -2, 1\), but it holds 2 values"):
        read_datum(write_datum(datum)).array()
