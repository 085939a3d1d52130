"""Predictions files: npz without pickles, CSV and Parquet. Arrays in, arrays out."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion.errors import ReportError, translate_errors
from fusion.pct import parquet_files
from fusion.pct.prediction_checks import check_sample_count
from prototxt.files import atomic_write
from prototxt.formats.numpy_files import read_npz

Arrays = Mapping[str, npt.NDArray[Any]]
REQUIRED = ("keys", "labels", "logits", "classes")
OPTIONAL = ("variants", "features", "meta")
COMMENT = "# caffe-fusion predictions "
EARLIEST = (1980, 1, 1, 0, 0, 0)


def read_arrays(path: str | os.PathLike[str]) -> dict[str, npt.NDArray[Any]]:
    """Read the arrays of a predictions file by content: zip archives as npz, Parquet, anything else as CSV.

    Raises: ReportError naming the file when it is none of these, or an array is missing or contains objects; OSError.
    """
    with Path(path).open("rb") as file:
        start = file.read(4)
    if not start:
        raise ReportError("the file is empty", place=str(path), hint="write it again, with fusion-test")
    if start == parquet_files.MAGIC:
        return _read_parquet(path)
    return _read_npz(path) if start == b"PK\x03\x04" else _read_csv(path)


def write_arrays(path: str | os.PathLike[str], arrays: Arrays) -> None:
    """Write the format of the suffix, .csv, .parquet, or npz for all others, atomically.

    Raises: ReportError for Parquet without pyarrow.
    """
    forms = {".csv": write_csv, ".parquet": parquet_files.write_parquet}
    forms.get(Path(path).suffix.lower(), write_npz)(path, arrays)


def write_npz(path: str | os.PathLike[str], arrays: Arrays) -> None:
    """Write the arrays atomically; the same arrays give the same bytes (no times in the archive)."""
    with atomic_write(path) as file, zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy", EARLIEST)
            entry.compress_type = zipfile.ZIP_DEFLATED if array.dtype.kind == "U" else zipfile.ZIP_STORED
            with archive.open(entry, "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array, order="C"), allow_pickle=False)


def write_csv(path: str | os.PathLike[str], arrays: Arrays) -> None:
    """Write one row per sample: key, variant (if any), label, then `logit:CLASS` columns; features are omitted."""
    with atomic_write(path) as file:
        for line in _csv_lines(arrays):
            file.write(line.encode("utf-8", "surrogateescape"))


def _csv_lines(arrays: Arrays) -> Iterator[str]:
    variants = arrays.get("variants")
    logits = arrays["logits"].astype(np.float32)
    row = io.StringIO()
    writer = csv.writer(
        row, lineterminator="\r\n"
    )  # RFC 4180; with "\n" alone a key that contains "\r" would not be quoted
    yield COMMENT + str(arrays["meta"]) + "\n"
    head = ["key", *(["variant"] if variants is not None else []), "label"]
    writer.writerow([*head, *(f"logit:{c}" for c in arrays["classes"].tolist())])
    for i, key in enumerate(arrays["keys"].tolist()):
        record = [key, *([str(variants[i])] if variants is not None else []), int(arrays["labels"][i])]
        writer.writerow([*record, *(str(x) for x in logits[i])])
        yield row.getvalue()
        row.seek(0)
        row.truncate()
    yield row.getvalue()


def _read_npz(path: str | os.PathLike[str]) -> dict[str, npt.NDArray[Any]]:
    hint = "write it again, with fusion-test or Predictions.save"
    with translate_errors(ReportError, "not a readable predictions file", str(path), hint):
        contents = read_npz(path, (*REQUIRED, *OPTIONAL).__contains__)
    if "keys" in contents:
        check_sample_count(contents["keys"].size, path)
    missing = [name for name in REQUIRED if name not in contents]
    if missing:
        raise ReportError(
            f"no array {', '.join(map(repr, missing))} in this archive",
            place=str(path),
            hint="a predictions file contains keys, labels, logits and classes; fusion-test writes them",
        )
    return contents


def _read_csv(path: str | os.PathLike[str]) -> dict[str, npt.NDArray[Any]]:
    text = Path(path).read_bytes().decode("utf-8-sig", "surrogateescape")
    meta = "{}"
    if text.startswith(COMMENT):
        line, _, text = text.partition("\n")
        meta = line[len(COMMENT) :].strip()
    with translate_errors(ReportError, "not a readable table", str(path)):
        rows = csv.reader(io.StringIO(text, newline=""))
        head = [name.strip() for name in next(rows, [])]
        body = [row for row in rows if row]
    classes = _classes(head, path)
    for number, row in enumerate(body, start=1):
        if len(row) != len(head):
            raise ReportError(f"sample {number} has {len(row)} columns, the header has {len(head)}", place=str(path))
    with translate_errors(ReportError, "a number was expected", str(path)):
        logits = np.array([[row[i] for i in classes] for row in body], dtype=np.float32).reshape(-1, len(classes))
    label = head.index("label")
    labels = [_label(row[label], number, path) for number, row in enumerate(body, start=1)]
    arrays = {
        "keys": np.array([row[head.index("key")] for row in body], dtype=np.str_),
        "labels": np.array(labels, dtype=np.int64),
        "logits": logits,
        "classes": np.array(list(classes.values()), dtype=np.int64),
        "meta": np.array(meta),
    }
    if "variant" in head:
        arrays["variants"] = np.array([row[head.index("variant")] for row in body], dtype=np.str_)
    return arrays


def _read_parquet(path: str | os.PathLike[str]) -> dict[str, npt.NDArray[Any]]:
    head, columns, meta = parquet_files.read_parquet(path)
    classes = _classes(head, path)
    logits = [columns[head[i]] for i in classes]
    half = all(column.dtype == np.float16 for column in logits)
    for name in ("key", "variant"):
        if name in columns and any(value is None for value in columns[name].tolist()):
            raise ReportError(f"the column '{name}' has rows without a value", place=str(path))
    with translate_errors(ReportError, "a number was expected", str(path)):
        arrays = {
            "keys": columns["key"].astype(np.str_),
            "labels": columns["label"],
            "logits": np.stack(logits, axis=1).astype(np.float16 if half else np.float32),
            "classes": np.array(list(classes.values()), dtype=np.int64),
            "meta": np.array(meta),
        }
        features = [columns[name] for name in head if name.startswith("feature:")]
        if features:
            arrays["features"] = np.stack(features, axis=1)
    if "variant" in columns:
        arrays["variants"] = columns["variant"].astype(np.str_)
    return arrays


def _classes(head: list[str], path: str | os.PathLike[str]) -> dict[int, int]:
    """Return column -> class id for the columns named `logit:3`, `logit_3` or `3`."""
    classes = {}
    for column, name in enumerate(head):
        number = name.removeprefix("logit").lstrip(":_ ")
        if number.isdecimal() and number.isascii():
            classes[column] = _label(number, None, path)
    if "key" not in head or "label" not in head or not classes:
        raise ReportError(
            "this is neither an npz archive nor a CSV or Parquet table of predictions",
            place=str(path),
            hint="a table needs the columns key, label and logit:0, logit:1, ...",
        )
    return classes


def _label(text: str, sample: int | None, path: str | os.PathLike[str]) -> int:
    """Parse a class number of at most 64 bits, of a sample or in a column's name."""
    if re.fullmatch(r"\s*[+-]?[0-9]{1,19}\s*", text) and abs(int(text)) < 1 << 63:
        return int(text)
    where = "a column's class" if sample is None else f"the label of sample {sample}"
    raise ReportError(f"a number was expected: {where} is {text!r:.60}, not an integer of 64 bits", place=str(path))


def parse_meta(array: npt.NDArray[Any] | None, path: str | os.PathLike[str]) -> dict[str, Any]:
    """Parse the JSON object in the file's `meta` array.

    Raises: ReportError when it is not a JSON object.
    """
    if array is None:
        return {}
    try:
        meta = json.loads(str(array))
        # Python accepts NaN and halves of surrogate pairs, which no report could be written with.
        json.dumps(meta, allow_nan=False, ensure_ascii=False).encode("utf-8", "surrogateescape")
    except (ValueError, RecursionError):
        meta = None
    if not isinstance(meta, dict):
        raise ReportError("the array 'meta' is not a JSON object", place=str(path))
    return meta
