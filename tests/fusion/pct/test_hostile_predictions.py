"""Damaged and hostile files of predictions: our error with the place, and no memory for what is not there."""

from __future__ import annotations

import io
import zipfile
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from fusion import pct
from fusion.errors import ReportError

RIGHT = {
    "keys": np.array(["a", "b"]),
    "labels": np.array([0, 1]),
    "logits": np.eye(2, dtype=np.float32),
    "classes": np.array([0, 1]),
}


def entry(values: np.ndarray, shape: str | None = None) -> bytes:
    """An npy file, with another shape in its header where one is given."""
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=True)
    data = buffer.getvalue()
    if shape is None:
        return data
    text = f"{{'descr': '{values.dtype.str}', 'fortran_order': False, 'shape': {shape}, }}"
    return data[:10] + text.ljust(117).encode() + b"\n" + data[128:]


def archive(path: Path, compression: int = zipfile.ZIP_STORED, **entries: bytes) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, values in RIGHT.items():
            file.writestr(f"{name}.npy", entries.get(name, entry(values)))
    return path


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ("(2, 1099511627776)", r"logits.npy of shape \[2, 1099511627776\] needs 8796093022208 bytes and has 16"),
        ("(2, 1)", r"needs 8 bytes and has 16"),  # NumPy would take the first half and pass over the rest
        ("(" * 300, "not a readable"),
        ("(-2, -2)", "not a readable|needs"),
        ("(2, 99999999999999999999999999)", "needs"),
    ],
)
def test_a_header_that_lies(tmp_path: Path, shape: str, message: str) -> None:
    path = archive(tmp_path / "lie.npz", logits=entry(RIGHT["logits"], shape))
    with pytest.raises(ReportError, match=rf"lie\.npz: .*({message})"):
        pct.Predictions.load(path)


def test_the_honest_archive_is_read_in_any_version(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, RIGHT["logits"], version=(2, 0))
    read = pct.Predictions.load(archive(tmp_path / "p.npz", zipfile.ZIP_DEFLATED, logits=buffer.getvalue()))
    assert read.right.tolist() == [True, True]


def test_a_bomb_is_not_expanded(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file,
        file.open("logits.npy", "w") as member,
    ):
        header = {"descr": "<f4", "fortran_order": False, "shape": (1 << 16, 1 << 11)}
        np.lib.format.write_array_header_1_0(member, header)
        for _ in range(1 << 9):
            member.write(bytes(1 << 20))
    assert path.stat().st_size < 1 << 22
    with pytest.raises(ReportError, match=r"bomb\.npz: .*would expand to 5368"):
        pct.Predictions.load(path)


def test_a_damaged_stream(tmp_path: Path) -> None:
    path = archive(tmp_path / "p.npz", zipfile.ZIP_DEFLATED, logits=entry(np.zeros((2, 2), np.float32)))
    data = bytearray(path.read_bytes())
    start = data.index(b"logits.npy") + 10
    data[start : start + 8] = b"\xff" * 8
    path.write_bytes(data)
    with pytest.raises(ReportError, match=r"p\.npz: not a readable predictions file"):
        pct.Predictions.load(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("key,label,logit:0\na,0,1\nb,99999999999999999999999,1\n", "the label of sample 2 is '9999"),
        ("key,label,logit:0\na,9223372036854775808,1\n", "the label of sample 1"),
        ("key,label,logit:0\na,1.5,1\n", "the label of sample 1 is '1.5'"),
        (f"key,label,logit:{'9' * 30}\na,1,1\n", "a column's class is '9999"),
        (f"key,label,logit:0\n{'a' * 200_000},0,1\n", "not a readable table: field larger"),
    ],
)
def test_tables(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(ReportError, match=rf"t\.csv: .*{message}"):
        pct.Predictions.load(path)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("labels", np.array([0.0, 0.5]), r"labels: 0\.5 is not a class number"),
        ("labels", np.array([0.0, np.nan]), "labels: nan"),
        ("labels", np.array([0, 2**63], np.uint64), "labels: 9223372036854775808"),
        ("labels", np.array([0.0, 1e30]), r"labels: 1e\+30"),
        ("classes", np.array([0.0, 1.25]), r"classes: 1\.25"),
    ],
)
def test_class_numbers_are_not_rounded(tmp_path: Path, name: str, values: np.ndarray, message: str) -> None:
    path = archive(tmp_path / "p.npz", **{name: entry(values)})
    with pytest.raises(ReportError, match=rf"p\.npz: {message}"):
        pct.Predictions.load(path)


def test_whole_numbers_of_any_type_are_class_numbers() -> None:
    net = pct.Predictions(["a", "b"], np.array([0.0, -1.0]), np.eye(2), np.array([0, 7], np.uint64))
    assert (net.labels.tolist(), net.classes.tolist()) == ([0, -1], [0, 7])


def test_complex_logits_are_not_halved(tmp_path: Path) -> None:
    path = archive(tmp_path / "p.npz", logits=entry(np.ones((2, 2), np.complex64)))
    with pytest.raises(ReportError, match=r"p\.npz: logits are complex64"):
        pct.Predictions.load(path)


def test_meta_nested_without_end(tmp_path: Path) -> None:
    path = tmp_path / "deep.csv"
    path.write_text("# caffe-fusion predictions " + "[" * 100_000 + "\nkey,label,logit:0\na,0,1\n")
    with pytest.raises(ReportError, match=r"deep\.csv: the array 'meta' is not a JSON object"):
        pct.Predictions.load(path)


@pytest.mark.parametrize("meta", ['{"x": NaN}', '{"x": [Infinity]}', r'{"name": "a\ud800"}', "[1]", "{"])
def test_meta_that_no_report_could_hold(tmp_path: Path, meta: str) -> None:
    path = tmp_path / "m.csv"
    path.write_text(f"# caffe-fusion predictions {meta}\nkey,label,logit:0\na,0,1\n")
    with pytest.raises(ReportError, match=r"m\.csv: the array 'meta' is not a JSON object"):
        pct.Predictions.load(path)


def test_keys_are_text(tmp_path: Path) -> None:
    path = archive(tmp_path / "k.npz", keys=entry(np.array(["a", "b\ud800"])))
    with pytest.raises(ReportError, match=r"k\.npz: the key or variant .* is not valid text"):
        pct.Predictions.load(path)
    beyond = np.array([97, 0x110000], np.uint32).view("<U1")
    with pytest.raises(ReportError, match=r"k\.npz: "):
        pct.Predictions.load(archive(path, keys=entry(beyond)))
    byte = tmp_path / "byte.csv"  # a file name on a disk that is no UTF-8
    byte.write_bytes(b"key,label,logit:0\na\xff.png,0,1\n")
    assert pct.Predictions.load(byte).keys.tolist() == ["a\udcff.png"]


def test_parquet_tables(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "t.parquet"
    good = {"key": ["a", "b"], "label": [0, 1], "logit:0": [1.0, 0.0], "logit:1": [0.0, 1.0]}
    cases = {
        "the column 'key' has rows without a value": {"key": ["a", None]},
        "labels: nan is not a class number": {"label": [0, None]},
        "labels: 9223372036854775808 is no": {"label": pyarrow.array([0, 2**63], pyarrow.uint64())},
        "labels: 1.5 is not a class number": {
            "label": pyarrow.array([Decimal(0), Decimal("1.5")], pyarrow.decimal128(3, 1))
        },
        "arrays of the wrong kind": {"label": ["0", "x"]},
        "NaN or infinite logits": {"logit:0": [None, 1.0]},
    }
    for message, wrong in cases.items():
        parquet.write_table(pyarrow.table({**good, **wrong}), path)
        with pytest.raises(ReportError, match=rf"t\.parquet: .*{message}"):
            pct.Predictions.load(path)
    parquet.write_table(pyarrow.table(good), path)
    assert pct.Predictions.load(path).right.tolist() == [True, True]


def test_a_bomb_of_samples(tmp_path: Path) -> None:
    count = (1 << 20) + 1
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<U1", "fortran_order": False, "shape": (count,)})
    path = archive(tmp_path / "p.npz", zipfile.ZIP_DEFLATED, keys=header.getvalue() + bytes(4 * count))
    assert path.stat().st_size < 10_000
    with pytest.raises(ReportError, match=rf"p\.npz: .*{count} samples in \d+ bytes"):
        pct.Predictions.load(path)


def test_empty_files_say_so(tmp_path: Path) -> None:
    (tmp_path / "p.npz").touch()
    with pytest.raises(ReportError, match=r"p\.npz: the file is empty"):
        pct.Predictions.load(tmp_path / "p.npz")


def test_a_bomb_of_parquet(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    count = (1 << 20) + 1
    keys = pyarrow.DictionaryArray.from_arrays(pyarrow.array(np.zeros(count, np.int32)), ["a"])
    zeros = pyarrow.array(np.zeros(count, np.float32))
    parquet.write_table(pyarrow.table({"key": keys, "label": zeros, "logit:0": zeros}), tmp_path / "p.parquet")
    with pytest.raises(ReportError, match=rf"p\.parquet: {count} samples in \d+ bytes"):
        pct.Predictions.load(tmp_path / "p.parquet")
