"""Predictions on disk: npz that no pickle can hide in, CSV and Parquet for everything else. Arrays in, arrays out."""

from __future__ import annotations

import csv
import io
import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion.errors import ReportError
from fusion.pct import parquet_files
from prototxt.files import atomic_write

Arrays = Mapping[str, npt.NDArray[Any]]
REQUIRED = ("keys", "labels", "logits", "classes")
OPTIONAL = ("variants", "features", "meta")
COMMENT = "# caffe-fusion predictions "
EARLIEST = (1980, 1, 1, 0, 0, 0)


def read(path: str | os.PathLike[str]) -> dict[str, npt.NDArray[Any]]:
    """The named arrays of a predictions file; a zip archive is read as npz, Parquet as such, anything else as CSV.

    Raises: ReportError naming the file when it is neither, or when an array is absent or holds objects; OSError.
    """
    with Path(path).open("rb") as file:
        start = file.read(4)
    if start == parquet_files.MAGIC:
        return _read_parquet(path)
    return _read_npz(path) if start == b"PK\x03\x04" else _read_csv(path)


def write(path: str | os.PathLike[str], arrays: Arrays) -> None:
    """Write the form that the name's ending says: .csv, .parquet, and npz for all others; at once or not at all.

    Raises: ReportError for Parquet without pyarrow.
    """
    forms = {".csv": write_csv, ".parquet": parquet_files.write_parquet}
    forms.get(Path(path).suffix.lower(), write_npz)(path, arrays)


def write_npz(path: str | os.PathLike[str], arrays: Arrays) -> None:
    """Write the arrays at once or not at all; the same arrays give the same bytes (no times in the archive)."""
    with atomic_write(path) as file, zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy", EARLIEST)
            entry.compress_type = zipfile.ZIP_DEFLATED if array.dtype.kind == "U" else zipfile.ZIP_STORED
            with archive.open(entry, "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array, order="C"), allow_pickle=False)


def write_csv(path: str | os.PathLike[str], arrays: Arrays) -> None:
    """Write one row per sample: key, variant (if any), label, then `logit:CLASS` columns; features are left out."""
    with atomic_write(path) as file:
        for line in _csv_lines(arrays):
            file.write(line.encode("utf-8", "surrogateescape"))


def _csv_lines(arrays: Arrays) -> Iterator[str]:
    variants = arrays.get("variants")
    logits = arrays["logits"].astype(np.float32)
    row = io.StringIO()
    writer = csv.writer(row, lineterminator="\r\n")  # RFC 4180; with "\n" alone a key that holds "\r" would go unquoted
    yield COMMENT + str(arrays["meta"]) + "\n"
    head = ["key", *(["variant"] if variants is not None else []), "label"]
    writer.writerow([*head, *(f"logit:{c}" for c in arrays["classes"].tolist())])
    for i, key in enumerate(arrays["keys"].tolist()):
        about = [key, *([str(variants[i])] if variants is not None else []), int(arrays["labels"][i])]
        writer.writerow([*about, *(str(x) for x in logits[i])])
        yield row.getvalue()
        row.seek(0)
        row.truncate()
    yield row.getvalue()


def _read_npz(path: str | os.PathLike[str]) -> dict[str, npt.NDArray[Any]]:
    try:
        with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as archive:
            found = {name: archive[name] for name in (*REQUIRED, *OPTIONAL) if name in archive.files}
    except (ValueError, zipfile.BadZipFile, EOFError) as error:
        raise ReportError(
            f"not a readable predictions file ({error})",
            place=str(path),
            hint="write it again, with fusion-test or Predictions.save",
        ) from None
    missing = [name for name in REQUIRED if name not in found]
    if missing:
        raise ReportError(
            f"no array {', '.join(map(repr, missing))} in this archive",
            place=str(path),
            hint="a predictions file holds keys, labels, logits and classes; fusion-test writes them",
        )
    return found


def _read_csv(path: str | os.PathLike[str]) -> dict[str, npt.NDArray[Any]]:
    text = Path(path).read_bytes().decode("utf-8-sig", "surrogateescape")
    meta = "{}"
    if text.startswith(COMMENT):
        line, _, text = text.partition("\n")
        meta = line[len(COMMENT) :].strip()
    rows = csv.reader(io.StringIO(text, newline=""))
    head = [name.strip() for name in next(rows, [])]
    classes = _classes(head, path)
    body = [row for row in rows if row]
    for number, row in enumerate(body, start=1):
        if len(row) != len(head):
            raise ReportError(f"sample {number} has {len(row)} columns, the header has {len(head)}", place=str(path))
    try:
        labels = np.array([row[head.index("label")] for row in body], dtype=np.int64)
        logits = np.array([[row[i] for i in classes] for row in body], dtype=np.float32).reshape(-1, len(classes))
    except ValueError as error:
        raise ReportError(f"a number was expected: {error}", place=str(path)) from None
    arrays = {
        "keys": np.array([row[head.index("key")] for row in body], dtype=np.str_),
        "labels": labels,
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
    kept = all(column.dtype == np.float16 for column in logits)
    try:
        arrays = {
            "keys": columns["key"].astype(np.str_),
            "labels": columns["label"].astype(np.int64),
            "logits": np.stack(logits, axis=1).astype(np.float16 if kept else np.float32),
            "classes": np.array(list(classes.values()), dtype=np.int64),
            "meta": np.array(meta),
        }
        features = [columns[name] for name in head if name.startswith("feature:")]
        if features:
            arrays["features"] = np.stack(features, axis=1)
    except (ValueError, TypeError) as error:
        raise ReportError(f"a number was expected: {error}", place=str(path)) from None
    if "variant" in columns:
        arrays["variants"] = columns["variant"].astype(np.str_)
    return arrays


def _classes(head: list[str], path: str | os.PathLike[str]) -> dict[int, int]:
    """Column -> class id, of the columns called `logit:3`, `logit_3` or plainly `3`."""
    classes = {}
    for column, name in enumerate(head):
        number = name.removeprefix("logit").lstrip(":_ ")
        if number.isdecimal():
            classes[column] = int(number)
    if "key" not in head or "label" not in head or not classes:
        raise ReportError(
            "this is neither an npz archive nor a CSV or Parquet table of predictions",
            place=str(path),
            hint="a table needs the columns key, label and logit:0, logit:1, ...",
        )
    return classes


def parse_meta(array: npt.NDArray[Any] | None, path: str | os.PathLike[str]) -> dict[str, Any]:
    """The JSON object kept in the file's `meta` array.

    Raises: ReportError when it is not a JSON object.
    """
    if array is None:
        return {}
    try:
        meta = json.loads(str(array))
    except ValueError:
        meta = None
    if not isinstance(meta, dict):
        raise ReportError("the array 'meta' is no JSON object", place=str(path))
    return meta
