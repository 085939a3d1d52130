"""Several trained nets under one name, such as cross-validation folds: a pattern or folder of nets or weights.

    fold=net.prototxt with weights 'folds/*.caffemodel'      one description, as many branches as weights
    fold='folds/*/train_val.prototxt'                        a description each
    fold='folds/*.onnx'                                      an ONNX file each, which is both
    fold=folds                                               a folder of any of these

They get the prefixes fold1, fold2, ... in natural order of their names: w2 comes before w10.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from glob import glob, has_magic
from pathlib import Path

from fusion.composition.source import Source
from fusion.conversion.net_names import is_onnx_path
from fusion.errors import ComposeError, raise_all
from prototxt.text.tree import Document

_WEIGHTS = (".caffemodel", ".h5", ".safetensors")
_NETS = (".prototxt", ".pbtxt", ".onnx")
_PREFERRED = ("train_val", "train_test", "train", "deploy")


@dataclass(frozen=True)
class Fold:
    """One net of several: its prefix, its prototxt or ONNX file, and its weights, as far as they are given."""

    prefix: str
    net: str | None
    weights: str | None


def folds(prefix: str, net: str | None, weights: str | None) -> list[Fold]:
    """Return the nets that two paths stand for: one under the prefix itself, or those in the patterns and folders.

    Raises: ComposeError if a pattern matches nothing, a folder holds no net, or nets and weights do not pair.
    """
    if not has_many_files(net) and not has_many_files(weights):
        return [Fold(prefix, net, weights)]
    if net is None and weights is not None and os.path.isdir(weights) and not _files(Path(weights), _WEIGHTS):
        net, weights = weights, None
    nets, beside = _nets(prefix, net)
    pairs = _pair(prefix, nets, _weights(prefix, weights) if weights is not None else beside)
    return [Fold(f"{prefix}{number}", *pair) for number, pair in enumerate(pairs, 1)]


def expand_patterns(sources: Sequence[Source]) -> list[Source]:
    """Replace patterns and folders by the nets in them. Raises: ComposeError with all that match nothing."""
    expanded: list[Source] = []
    errors: list[ComposeError] = []
    for source in sources:
        if isinstance(source.prototxt, Document):
            expanded.append(source)
            continue
        weights = os.fspath(source.weights) if source.weights is not None else None
        try:
            found = folds(source.prefix, os.fspath(source.prototxt), weights)
        except ComposeError as error:
            errors.append(error)
        else:
            expanded += [replace(source, prefix=o.prefix, prototxt=o.net or "", weights=o.weights) for o in found]
    raise_all(errors)
    return expanded


def has_many_files(path: str | None) -> bool:
    """Return whether a path is a pattern or a folder, which may stand for several files."""
    return path is not None and (os.path.isdir(path) or (has_magic(path) and not os.path.exists(path)))


def _natural_order(paths: Sequence[str]) -> list[str]:
    """Sort by name, with numbers as numbers: fold2 before fold10."""
    return sorted(paths, key=lambda path: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path)])


def _nets(prefix: str, path: str | None) -> tuple[list[str | None], list[str]]:
    """Return the nets, and the weights in the same folder."""
    if path is None or not has_many_files(path):
        return [path], []
    return _in_folder(prefix, Path(path)) if os.path.isdir(path) else ([*_matching(prefix, path)], [])


def _weights(prefix: str, path: str) -> list[str]:
    if not has_many_files(path):
        return [path]
    if not os.path.isdir(path):
        return _matching(prefix, path)
    found = _files(Path(path), _WEIGHTS)
    if not found:
        message = f"source '{prefix}': there are no weights in {path}"
        raise ComposeError(message, hint=f"they end with {', '.join(_WEIGHTS)}")
    return found


def _matching(prefix: str, pattern: str) -> list[str]:
    found = _natural_order(glob(pattern))
    if not found:
        message = f"source '{prefix}': no file matches {pattern}"
        raise ComposeError(message, hint="quote the pattern, and give it relative to the working directory")
    return found


def _in_folder(prefix: str, folder: Path) -> tuple[list[str | None], list[str]]:
    """Return a net of the folder and all weights in it, or all its ONNX files, or else the same of each subfolder."""
    inner = _natural_order([str(path) for path in folder.iterdir() if path.is_dir()])
    homes = [folder] if _files(folder, _NETS) else [Path(path) for path in inner if _files(Path(path), _NETS)]
    if not homes:
        hint = f"it, or each folder in it, holds a net ({', '.join(_NETS)}) and its weights"
        raise ComposeError(f"source '{prefix}': there is no net in the folder {folder}", hint=hint)
    found = [net for home in homes for net in _nets_in(prefix, home)]
    only_onnx = all(is_onnx_path(net) for net in found)  # weights beside such nets are not theirs
    return [*found], [] if only_onnx else [weights for home in homes for weights in _files(home, _WEIGHTS)]


def _nets_in(prefix: str, home: Path) -> list[str]:
    """Return the net of a folder; ONNX files hold their weights, so each of them is a net of its own."""
    onnx = _files(home, (".onnx",))
    return onnx if onnx == _files(home, _NETS) else [_only_prototxt(prefix, home)]


def _only_prototxt(prefix: str, home: Path) -> str:
    """Return the prototxt in a folder, by name where there are several."""
    found = [name for name in _files(home, _NETS) if "solver" not in Path(name).name]
    for word in _PREFERRED:
        matches = [name for name in found if word in Path(name).name]
        if len(matches) == 1:
            return matches[0]
    if len(found) != 1:
        names = ", ".join(Path(name).name for name in found) or "only solvers"
        message = f"source '{prefix}': {home} has several nets: {names}"
        raise ComposeError(message, hint=f"name it by a pattern: '{prefix}={home}/*/train_val.prototxt'")
    return found[0]


def _files(folder: Path, endings: Sequence[str]) -> list[str]:
    """Return the files with these endings, without the `.onnx.safetensors` beside a caffemodel, which belong to it."""
    found = [path for path in folder.iterdir() if path.is_file() and path.name.endswith(tuple(endings))]
    return _natural_order([str(path) for path in found if not path.name.endswith(".onnx.safetensors")])


def _pair(prefix: str, nets: Sequence[str | None], weights: Sequence[str]) -> list[tuple[str | None, str | None]]:
    if not weights:
        return [(net, None) for net in nets]
    if len(nets) == 1:
        return [(nets[0], trained) for trained in weights]  # one net trained several times
    if len(nets) != len(weights):
        message = f"source '{prefix}': {len(nets)} nets and {len(weights)} files of weights do not pair"
        raise ComposeError(message, hint="give one net for all weights, or as many nets as weights, in one order")
    return list(zip(nets, weights, strict=True))
