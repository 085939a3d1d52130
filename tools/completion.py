"""fusion completion: the script with which a shell completes the commands, options and files of fusion."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import import_module
from typing import cast

from .cli import run_command
from .command_parser import CommandParser

_EPILOG = """The script is static: a completion starts no Python. To load it in each new shell:
  bash: %(prog)s bash > ~/.local/share/bash-completion/completions/fusion
  zsh:  %(prog)s zsh > ~/.zfunc/_fusion        (a folder of fpath, before compinit)
"""


def parser(prog: str = "fusion completion") -> CommandParser:
    """Build the command line."""
    result = CommandParser(prog, description="Print the script that completes fusion's options.", epilog=_EPILOG)
    result.add_argument("shell", choices=("bash", "zsh", "tcsh"), help="the shell to write it for")
    return result


def main(argv: Sequence[str] | None = None, prog: str = "fusion completion") -> int:
    """Print the script; return 0, or 1 without shtab, 2 for bad usage."""
    shell = parser(prog).parse_args(argv).shell
    return run_command(lambda: print(completion_script(shell), end=""))


def completion_script(shell: str) -> str:
    """Return the script for a shell. Raises: FusionError without shtab."""
    try:
        import shtab
    except ImportError as error:
        from fusion.errors import FusionError

        raise FusionError("completion needs shtab", hint="pip install 'caffe-fusion[completion]'") from error
    from .commands import COMMANDS, parser as all_commands

    whole = all_commands()
    commands = whole.add_subparsers(prog=whole.prog, parser_class=cast("type[CommandParser]", _build))
    for step in COMMANDS.values():
        for name, (module, purpose) in step.items():
            _complete_files(commands.add_parser(name, help=purpose, module=module))
    script: str = shtab.complete(whole, shell)
    return script


def _build(prog: str, module: str, **_: object) -> CommandParser:
    built: CommandParser = import_module(f".{module}", __package__).parser(prog)
    return built


def _complete_files(parser: argparse.ArgumentParser) -> None:
    """Let every argument without choices complete to files, as most are."""
    import shtab

    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for choice in action.choices.values():
                _complete_files(choice)
        elif action.nargs != 0 and action.choices is None:
            action.complete = shtab.FILE  # type: ignore[attr-defined]  # the attribute by which shtab asks
