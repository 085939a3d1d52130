"""Provenance of predictions: hashes that distinguish fresh files from stale ones."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from fusion.errors import ReportError
from fusion.pct.predictions import Predictions


def file_hash(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file in hexadecimal; stored in `meta`, it shows changes of a net or its weights."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def check_fresh(predictions: Predictions, **hashes: str) -> None:
    """Check `hashes` (net, weights, preprocessing) against `meta`. Raises: ReportError naming each that differs."""
    stale = [name for name, value in hashes.items() if predictions.meta.get(name) != value]
    if stale:
        raise ReportError(
            f"the predictions of {predictions.name} were made with another {' and '.join(stale)}",
            hint="make them again with fusion-test",
        )
