"""One source that stands for several: a pattern or a folder of nets, or of weights for one net, as folds are.

    fold=net.prototxt with weights 'folds/*.caffemodel'      one description, as many branches as weights
    fold='folds/*/train_val.prototxt'                        a description each
    fold=folds                                               a folder of either

They get the prefixes fold1, fold2, ... in the order of their names, in which numbers count as numbers.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from glob import glob, has_magic
from pathlib import Path

from fusion.composition.sources import Source
from fusion.errors import ComposeError
from prototxt.tree import Document

_WEIGHTS = (".caffemodel", ".h5", ".safetensors")
_NETS = (".prototxt", ".pbtxt", ".onnx")
_PREFERRED = ("train_val", "train_test", "train", "deploy")


def expand(source: Source) -> list[Source]:
    """The sources that it stands for: itself, or one per fold.

    Raises: ComposeError when a pattern matches nothing, a folder holds no net, or nets and weights do not pair.
    """
    if isinstance(source.prototxt, Document):
        return [source]
    nets, found = _nets(source, os.fspath(source.prototxt))
    weights = _weights(source) if source.weights is not None else found
    many = is_many(source.prototxt) or (source.weights is not None and is_many(source.weights))
    if not many:
        return [source]
    pairs = _paired(source, nets, weights)
    return [
        replace(source, prefix=f"{source.prefix}{number}", prototxt=net, weights=trained)
        for number, (net, trained) in enumerate(pairs, 1)
    ]


def is_many(path: object) -> bool:
    """Whether a path is a pattern or a folder, which may stand for several files."""
    text = os.fspath(path) if isinstance(path, (str, os.PathLike)) else ""
    return os.path.isdir(text) or (has_magic(text) and not os.path.exists(text))


def in_order(paths: Sequence[str]) -> list[str]:
    """By name, with numbers as numbers: fold2 before fold10."""
    return sorted(paths, key=lambda path: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", path)])


def _nets(source: Source, path: str) -> tuple[list[str], list[str]]:
    """The descriptions, and the weights that lie beside them in a folder."""
    if os.path.isdir(path):
        return _in_folder(source, path)
    if not os.path.exists(path) and has_magic(path):
        return _matching(source, path), []
    return [path], []


def _weights(source: Source) -> list[str]:
    path = os.fspath(source.weights or "")
    if os.path.isdir(path):
        found = _files(Path(path), _WEIGHTS)
        if not found:
            what = f"source '{source.prefix}': there are no weights in {path}"
            raise ComposeError(what, hint=f"they end with {', '.join(_WEIGHTS)}")
        return found
    return _matching(source, path) if not os.path.exists(path) and has_magic(path) else [path]


def _matching(source: Source, pattern: str) -> list[str]:
    found = in_order(glob(pattern))
    if not found:
        what = f"source '{source.prefix}': no file matches {pattern}"
        raise ComposeError(what, hint="quote the pattern, and give it relative to the working directory")
    return found


def _in_folder(source: Source, path: str) -> tuple[list[str], list[str]]:
    """A net of the folder with all weights in it, or else a net of each folder in it with the weights there."""
    folder = Path(path)
    inner = in_order([str(path) for path in folder.iterdir() if path.is_dir()])
    homes = [folder] if _files(folder, _NETS) else [Path(path) for path in inner if _files(Path(path), _NETS)]
    if not homes:
        hint = f"it, or each folder in it, holds a net ({' or '.join(_NETS)}) and its weights"
        raise ComposeError(f"source '{source.prefix}': there is no net in the folder {path}", hint=hint)
    nets, weights = [], []
    for home in homes:
        nets.append(_chosen(source, home))
        weights += _files(home, _WEIGHTS)
    return nets, weights


def _chosen(source: Source, home: Path) -> str:
    """The one description in a folder, by name where there are several."""
    found = [name for name in _files(home, _NETS) if "solver" not in Path(name).name]
    for word in _PREFERRED:
        named = [name for name in found if word in Path(name).name]
        if len(named) == 1:
            return named[0]
    if len(found) != 1:
        names = ", ".join(Path(name).name for name in found) or "only solvers"
        what = f"source '{source.prefix}': which net of {home} is meant is not clear: {names}"
        raise ComposeError(what, hint=f"name it by a pattern: '{source.prefix}={home}/*/train_val.prototxt'")
    return found[0]


def _files(folder: Path, endings: Sequence[str]) -> list[str]:
    return in_order([str(path) for path in folder.iterdir() if path.is_file() and path.name.endswith(tuple(endings))])


def _paired(source: Source, nets: Sequence[str], weights: Sequence[str]) -> list[tuple[str, str | None]]:
    if not weights:
        return [(net, None) for net in nets]
    if len(nets) == 1:
        return [(nets[0], trained) for trained in weights]
    if len(nets) != len(weights):
        what = f"source '{source.prefix}': {len(nets)} nets and {len(weights)} files of weights do not pair"
        raise ComposeError(what, hint="give one net for all weights, or as many nets as weights, in one order")
    return list(zip(nets, weights, strict=True))
