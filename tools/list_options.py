"""The options --train-list and --val-list of fusion-compose: a list for all sources, for one, or for a data layer."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fusion.composition import Source

_OPTIONS = ("train_list", "val_list")


def apply_list_options(
    sources: Sequence[Source], arguments: argparse.Namespace
) -> tuple[tuple[Source, ...], dict[str, str | None]]:
    """Return the sources with their lists, and the lists for all sources.

    Raises: ComposeError for a list of an unknown source, and for two lists of one source or layer.
    """
    found = {source.prefix: source for source in sources}
    whole: dict[str, str | None] = dict.fromkeys(_OPTIONS)
    for option in _OPTIONS:
        by_prefix: dict[str, dict[str, str]] = {}
        for text in getattr(arguments, option):
            prefix, layer, path = _split(text, option, found)
            into = by_prefix.setdefault(prefix, {}) if prefix else {"": whole[option]} if whole[option] else {}
            if layer in into or (into and "" in (layer, *into)):
                _refuse(f"{_flag(option)} {text}: there is already a list: {next(iter(into.values()))}",
                        "give one for each, by the names of the data layers where there are several")  # fmt: skip
            if prefix:
                into[layer] = path
            else:
                whole[option] = path
        for prefix, source in found.items():
            given = by_prefix.get(prefix)
            if given is not None or whole[option]:  # a list for all overrides those that the file gives one source
                lists: dict[str, Any] = {option: given.get("", given) if given is not None else None}
                found[prefix] = replace(source, **lists)
    return tuple(found.values()) if len(found) == len(sources) else tuple(sources), whole


def _split(text: str, option: str, sources: dict[str, Source]) -> tuple[str, str, str]:
    """Return prefix, layer name and file; prefix and layer are empty where not given. Raises: ComposeError."""
    name, equals, path = text.partition("=")
    if not equals or os.path.exists(text):  # a path may contain '='
        return "", "", text
    owners = [prefix for prefix in sources if name == prefix or name.startswith(f"{prefix}/")]
    if not owners or not path:
        choices = ", ".join(f"{_flag(option)} {prefix}=FILE" for prefix in sources)
        _refuse(f"{_flag(option)} names no source: '{name}'", f"one of {choices}")
    prefix = max(owners, key=len)  # prefixes may contain '/': of 'a' and 'a/b' the longer one is meant
    return prefix, name[len(prefix) + 1 :], path


def _flag(option: str) -> str:
    return f"--{option.replace('_', '-')}"


def _refuse(message: str, hint: str) -> None:
    from fusion.errors import ComposeError

    raise ComposeError(message, hint=hint)
