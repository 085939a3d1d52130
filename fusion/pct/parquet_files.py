"""Predictions as Parquet, for other programs: the columns of the CSV format, plus features and half precision.

Needs the extra `parquet` (pyarrow).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion.errors import ReportError
from fusion.pct.prediction_checks import check_sample_count
from prototxt.files import atomic_write

MAGIC = b"PAR1"
_META = b"caffe-fusion predictions"


def write_parquet(path: str | os.PathLike[str], arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write a row per sample: key, variant (if any), label, `logit:CLASS` columns, `feature:NUMBER` columns.

    Raises: ReportError without pyarrow.
    """
    pyarrow, parquet = _pyarrow(path)
    columns: dict[str, Any] = {"key": arrays["keys"].tolist()}
    if "variants" in arrays:
        columns["variant"] = arrays["variants"].tolist()
    columns["label"] = arrays["labels"]
    for name, numbers, values in (
        ("logit", arrays["classes"].tolist(), arrays["logits"]),
        ("feature", range(arrays["features"].shape[1] if "features" in arrays else 0), arrays.get("features")),
    ):
        for at, number in enumerate(numbers):
            columns[f"{name}:{number}"] = np.ascontiguousarray(values[:, at])  # type: ignore[index]
    table = pyarrow.table(columns).replace_schema_metadata({_META: str(arrays["meta"]).encode()})
    with atomic_write(path) as file:
        parquet.write_table(table, file)


def read_parquet(path: str | os.PathLike[str]) -> tuple[list[str], dict[str, npt.NDArray[Any]], str]:
    """Return the names of the columns in order, the columns, and the JSON text of `meta`.

    Raises: ReportError without pyarrow, or when the file is damaged.
    """
    pyarrow, parquet = _pyarrow(path)
    try:
        with open(path, "rb") as file:
            check_sample_count(parquet.read_metadata(file).num_rows, path)
            file.seek(0)
            table = parquet.read_table(file)
        columns = {name: table.column(name).to_numpy() for name in table.column_names}
    except (pyarrow.ArrowException, ValueError, OverflowError, MemoryError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ReportError(f"not a readable Parquet file ({error})", place=str(path)) from None
    meta = (table.schema.metadata or {}).get(_META, b"{}").decode("utf-8", "replace")
    return list(table.column_names), columns, meta


def _pyarrow(path: str | os.PathLike[str]) -> tuple[Any, Any]:
    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError:
        raise ReportError(
            "Parquet files need pyarrow, which is not installed",
            place=os.fspath(path),
            hint="pip install 'caffe-fusion[parquet]', or use npz or CSV",
        ) from None
