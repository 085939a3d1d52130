"""The sources of a fused net on a command line: by prefix, by patterns and folders, or all that a fusion file names."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .arguments import source_argument

if TYPE_CHECKING:
    from fusion.merge.sources import SourceLike

Named = tuple[str, "str | tuple[str, str]"]


def source_or_recipe(text: str) -> Named:
    """A source, or the file that fusion-compose was given, under no prefix."""
    return ("", text) if text.endswith(".toml") and "=" not in text else source_argument(text)


def check_apart(options: argparse.ArgumentParser, sources: Sequence[Named]) -> None:
    """Bad usage when a prefix is given twice."""
    prefixes = [prefix for prefix, source in sources if not _is_recipe(prefix, source)]
    if twice := sorted({prefix for prefix in prefixes if prefixes.count(prefix) > 1}):
        options.error(f"prefix given twice: {', '.join(twice)}")


def named_sources(given: Sequence[Named]) -> list[Named]:
    """All sources, with fusion files, patterns and folders taken apart.

    Raises: MergeError for a source without weights; ComposeError, as `fusion.composition.folds.folds`; OSError.
    """
    from fusion.errors import MergeError
    from fusion.merge.sources import expand_folds

    found: dict[str, str | tuple[str, str]] = {}
    for prefix, source in given:
        if not _is_recipe(prefix, source):
            found[prefix] = source
            continue
        from fusion.composition import read_config

        for one in read_config(str(source)).sources:
            net = str(one.prototxt)
            if one.weights is None and not (os.path.isdir(net) or net.lower().endswith(".onnx")):
                hint = f'add weights = "..." to it, or give {one.prefix}=WEIGHTS here'
                raise MergeError(f"source '{one.prefix}' has no weights", place=str(source), hint=hint)
            found[one.prefix] = net if one.weights is None else (net, str(one.weights))
    return [(prefix, _paths(source)) for prefix, source in expand_folds(found).items()]


def check_not_a_source(output: str, sources: Sequence[str], *, force: bool) -> None:
    """Raises: WeightsError when a command would write over weights that it reads, unless that was asked for."""
    from prototxt.errors import WeightsError

    for source in sources:
        if not force and os.path.exists(output) and os.path.exists(source) and os.path.samefile(output, source):
            hint = "name another output, or give --force to replace them"
            raise WeightsError("this would write over weights that are read here", place=output, hint=hint)


def _is_recipe(prefix: str, source: str | tuple[str, str]) -> bool:
    return not prefix and str(source).endswith(".toml")


def _paths(source: SourceLike) -> str | tuple[str, str]:
    return (str(source[0]), str(source[1])) if isinstance(source, tuple) else str(source)
