"""Several trained nets under one name: a pattern or a folder of nets, or of weights for one net, as folds are.

    fold=net.prototxt with weights 'folds/*.caffemodel'      one description, as many branches as weights
    fold='folds/*/train_val.prototxt'                        a description each
    fold='folds/*.onnx'                                      an ONNX file each, which is both
    fold=folds                                               a folder of any of these

They get the prefixes fold1, fold2, ... in the order of their names, in which numbers count as numbers.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path

from fusion.errors import ComposeError

_WEIGHTS = (".caffemodel", ".h5", ".safetensors")
_NETS = (".prototxt", ".pbtxt", ".onnx")
_PREFERRED = ("train_val", "train_test", "train", "deploy")


@dataclass(frozen=True)
class Fold:
    """One net of several: its prefix, its description and its weights, as far as they are given."""

    prefix: str
    net: str | None
    weights: str | None


def folds(prefix: str, net: str | None, weights: str | None) -> list[Fold]:
    """The nets that two paths stand for: one under the prefix itself, or as many as the patterns and folders hold.

    Raises: ComposeError when a pattern matches nothing, a folder holds no net, or nets and weights do not pair.
    """
    if not is_many(net) and not is_many(weights):
        return [Fold(prefix, net, weights)]
    if net is None and weights is not None and os.path.isdir(weights) and not _files(Path(weights), _WEIGHTS):
        net, weights = weights, None
    nets, beside = _nets(prefix, net)
    pairs = _paired(prefix, nets, _weights(prefix, weights) if weights is not None else beside)
    return [Fold(f"{prefix}{number}", *pair) for number, pair in enumerate(pairs, 1)]


def is_many(path: str | None) -> bool:
    """Whether a path is a pattern or a folder, which may stand for several files."""
    return path is not None and (os.path.isdir(path) or (has_magic(path) and not os.path.exists(path)))


def _in_order(paths: Sequence[str]) -> list[str]:
    """By name, with numbers as numbers: fold2 before fold10."""
    return sorted(paths, key=lambda path: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path)])


def _nets(prefix: str, path: str | None) -> tuple[list[str | None], list[str]]:
    """The descriptions, and the weights that lie beside them in a folder."""
    if path is None or not is_many(path):
        return [path], []
    return _in_folder(prefix, Path(path)) if os.path.isdir(path) else ([*_matching(prefix, path)], [])


def _weights(prefix: str, path: str) -> list[str]:
    if not is_many(path):
        return [path]
    if not os.path.isdir(path):
        return _matching(prefix, path)
    found = _files(Path(path), _WEIGHTS)
    if not found:
        message = f"source '{prefix}': there are no weights in {path}"
        raise ComposeError(message, hint=f"they end with {', '.join(_WEIGHTS)}")
    return found


def _matching(prefix: str, pattern: str) -> list[str]:
    found = _in_order(glob(pattern))
    if not found:
        message = f"source '{prefix}': no file matches {pattern}"
        raise ComposeError(message, hint="quote the pattern, and give it relative to the working directory")
    return found


def _in_folder(prefix: str, folder: Path) -> tuple[list[str | None], list[str]]:
    """A net of the folder with all weights in it, or all its ONNX files, or else the same of each folder in it."""
    inner = _in_order([str(path) for path in folder.iterdir() if path.is_dir()])
    homes = [folder] if _files(folder, _NETS) else [Path(path) for path in inner if _files(Path(path), _NETS)]
    if not homes:
        hint = f"it, or each folder in it, holds a net ({', '.join(_NETS)}) and its weights"
        raise ComposeError(f"source '{prefix}': there is no net in the folder {folder}", hint=hint)
    found = [net for home in homes for net in _described(prefix, home)]
    whole = all(net.endswith(".onnx") for net in found)  # what lies beside such nets is not theirs
    return [*found], [] if whole else [weights for home in homes for weights in _files(home, _WEIGHTS)]


def _described(prefix: str, home: Path) -> list[str]:
    """The net of a folder; ONNX files bring their weights along, so each of them is a net of its own."""
    whole = _files(home, (".onnx",))
    return whole if whole == _files(home, _NETS) else [_chosen(prefix, home)]


def _chosen(prefix: str, home: Path) -> str:
    """The one description in a folder, by name where there are several."""
    found = [name for name in _files(home, _NETS) if "solver" not in Path(name).name]
    for word in _PREFERRED:
        named = [name for name in found if word in Path(name).name]
        if len(named) == 1:
            return named[0]
    if len(found) != 1:
        names = ", ".join(Path(name).name for name in found) or "only solvers"
        message = f"source '{prefix}': which net of {home} is meant is not clear: {names}"
        raise ComposeError(message, hint=f"name it by a pattern: '{prefix}={home}/*/train_val.prototxt'")
    return found[0]


def _files(folder: Path, endings: Sequence[str]) -> list[str]:
    """The files with these endings, but for the ONNX weights beside a caffemodel, which belong to it."""
    found = [path for path in folder.iterdir() if path.is_file() and path.name.endswith(tuple(endings))]
    return _in_order([str(path) for path in found if not path.name.endswith(".onnx.safetensors")])


def _paired(prefix: str, nets: Sequence[str | None], weights: Sequence[str]) -> list[tuple[str | None, str | None]]:
    if not weights:
        return [(net, None) for net in nets]
    if len(nets) == 1:
        return [(nets[0], trained) for trained in weights]
    if len(nets) != len(weights):
        message = f"source '{prefix}': {len(nets)} nets and {len(weights)} files of weights do not pair"
        raise ComposeError(message, hint="give one net for all weights, or as many nets as weights, in one order")
    return list(zip(nets, weights, strict=True))
