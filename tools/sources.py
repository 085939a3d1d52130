"""The sources of a fused net on a command line: by prefix, by pattern or folder, or all of a fusion file."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .arguments import source_argument

if TYPE_CHECKING:
    from fusion.merge.sources import SourceLike

SourceFiles = tuple[str, "str | tuple[str, str]"]


def source_or_recipe(text: str) -> SourceFiles:
    """Return prefix and files of a source; a fusion-compose file has the prefix ''."""
    return ("", text) if text.endswith(".toml") and "=" not in text else source_argument(text)


def check_apart(options: argparse.ArgumentParser, sources: Sequence[SourceFiles]) -> None:
    """Exit with a usage error if a prefix is given twice."""
    prefixes = [prefix for prefix, source in sources if not _is_recipe(prefix, source)]
    if twice := sorted({prefix for prefix in prefixes if prefixes.count(prefix) > 1}):
        options.error(f"prefix given twice: {', '.join(twice)}")


def named_sources(arguments: Sequence[SourceFiles], fused: str) -> list[SourceFiles]:
    """Return all sources, with fusion files, patterns and folders expanded.

    fused  the fused net, beside which composing wrote the sources that it converted
    Raises: MergeError for a source without weights; ComposeError, as `fusion.composition.folds.folds`; OSError.
    """
    from fusion.errors import MergeError
    from fusion.merge.sources import expand_merge_sources

    found: dict[str, str | tuple[str, str]] = {}
    for prefix, source in arguments:
        if not _is_recipe(prefix, source):
            found[prefix] = source
            continue
        from fusion.composition import read_config
        from fusion.conversion.net_names import is_onnx_path, is_torch_net

        for part in read_config(str(source)).sources:
            net = str(part.prototxt)
            if part.as_caffe or is_torch_net(net):
                found[part.prefix] = _converted(part.prefix, fused, as_caffe=part.as_caffe)
                continue
            if part.weights is None and not (os.path.isdir(net) or is_onnx_path(net)):
                hint = f'add weights = "..." to it, or give {part.prefix}=WEIGHTS here'
                raise MergeError(f"source '{part.prefix}' has no weights", place=str(source), hint=hint)
            found[part.prefix] = net if part.weights is None else (net, str(part.weights))
    return [(prefix, _paths(source)) for prefix, source in expand_merge_sources(found).items()]


def _converted(prefix: str, fused: str, *, as_caffe: bool) -> str | tuple[str, str]:
    beside = os.path.join(os.path.dirname(fused), prefix)
    return (f"{beside}.prototxt", f"{beside}.caffemodel") if as_caffe else f"{beside}.onnx"


def check_not_a_source(output: str, sources: Sequence[str], *, force: bool) -> None:
    """Check that a command does not overwrite weights that it reads. Raises: WeightsError, unless `force`."""
    from prototxt.errors import WeightsError

    for source in sources:
        if not force and os.path.exists(output) and os.path.exists(source) and os.path.samefile(output, source):
            hint = "name another output, or give --force to replace them"
            raise WeightsError("this would overwrite weights that are read here", place=output, hint=hint)


def _is_recipe(prefix: str, source: str | tuple[str, str]) -> bool:
    return not prefix and str(source).endswith(".toml")


def _paths(source: SourceLike) -> str | tuple[str, str]:
    return (str(source[0]), str(source[1])) if isinstance(source, tuple) else str(source)
