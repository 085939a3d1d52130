"""The parser of every command: its version, hints for misspelt options, and one layout of help texts."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any, NoReturn

from prototxt.errors import closest


class CommandParser(argparse.ArgumentParser):
    """Parses a command line; options are not abbreviated, since a new option would change the meaning of a script."""

    def __init__(self, prog: str | None = None, **settings: Any) -> None:
        super().__init__(prog, formatter_class=_Formatter, allow_abbrev=False, **settings)
        self.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")

    def error(self, message: str) -> NoReturn:
        """Exit with a usage error; for unknown arguments with a hint, here also for those of a sub-command."""
        words = message.removeprefix("unrecognized arguments: ")
        if words != message:
            self.refuse(message, words.split()[0], _option_names(self))
        super().error(message)

    def refuse(self, message: str, word: str, known: Iterable[str]) -> NoReturn:
        """Exit with a usage error about `word`, with the most similar of the known words as a hint."""
        similar = closest(word.partition("=")[0], known)
        super().error(f"{message}; did you mean {similar!r}?" if similar else message)


def _option_names(parser: argparse.ArgumentParser) -> set[str]:
    """Return the options of a parser and of its sub-commands."""
    found = set(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found.update(*map(_option_names, action.choices.values()))
    return found


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Wraps descriptions, but not lists and examples, which have several lines; says which options may be repeated."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return f"{action.help}; repeatable" if isinstance(action, argparse._AppendAction) else action.help

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return super()._fill_text(text if "\n" in text else "\n".join(self._split_lines(text, width)), width, indent)


class _Version(argparse.Action):
    """Prints the version, which is looked up only then."""

    def __call__(self, *args: Any) -> None:
        from fusion.version import __version__

        print(f"caffe-fusion {__version__}")
        raise SystemExit(0)
