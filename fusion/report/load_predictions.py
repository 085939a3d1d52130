"""Predictions as written on a command line: files with names, classes and weights, and ensembles of them."""

from __future__ import annotations

import os

from fusion.errors import ReportError
from fusion.pct import Predictions, ensemble, file_hash


def load_predictions(name: str) -> Predictions:
    """Read `FILE` or `NAME=FILE`, each with `@1,3,5` for its classes, or an ensemble of several with `+` between them.

    Raises: ReportError for a bad file, weight or list of classes; OSError.
    """
    label, equals, rest = name.partition("=")
    labelled = bool(equals) and not os.path.exists(name)
    files = rest if labelled else name
    # a file whose name contains '+' is no ensemble
    if "+" not in files or os.path.exists(files) or os.path.exists(files.rpartition("@")[0]):
        return _load_file(name)
    members = [_load_member(part) for part in files.split("+")]
    meta = {key: [str(member.meta[key]) for member in members] for key in ("file", "file_sha256")}
    predictions = ensemble(members)
    return predictions.named(label if labelled else predictions.name, **meta)


def _load_member(part: str) -> Predictions:
    """Read a file of an ensemble, with or without its weight (`0.9*FILE`)."""
    text, star, path = part.partition("*")
    if not star or os.path.exists(part):
        return _load_file(part)
    try:
        weight = float(text)
    except ValueError:
        raise ReportError(f"'{text}' is not an ensemble weight", hint="as in 0.9*new.npz+0.1*old.npz") from None
    return _load_file(path).weighted(weight)


def _load_file(name: str) -> Predictions:
    """Read a file's predictions; its path and hash become metadata."""
    label, path, classes = split_file_text(name)
    net = Predictions.load(path)
    if classes is not None:
        try:
            net = net.relabelled([int(c) for c in classes.split(",")])
        except ValueError:
            raise ReportError(
                f"'{classes}' is not a list of classes", place=path, hint="as in odd.npz@1,3,5,7,9"
            ) from None
    return net.named(label or net.name, file=path, file_sha256=file_hash(path))


def split_file_text(name: str) -> tuple[str | None, str, str | None]:
    """Return label, path and classes of `NAME=FILE@1,3,5`; if a file of the whole name exists, that is the path."""
    if os.path.exists(name):
        return None, name, None
    label, equals, rest = name.partition("=")
    path = rest if equals else name
    if os.path.exists(path):
        return (label if equals else None), path, None
    path, _, classes = path.rpartition("@")
    return (label if equals else None), path or rest or name, classes if path else None
