"""fusion: all commands as one, `fusion train` for fusion-train; only the chosen command is imported."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from .command_parser import CommandParser

# by step of the work: command, its module, its purpose
COMMANDS = {
    "all in one": {"run": ("run", "fuse, train, measure and export nets by one file")},
    "fuse nets": {
        "rename": ("rename", "prefix the names of a net's layers and blobs, and freeze it"),
        "compose": ("compose", "join trained nets into one, with the files to train and to deploy it"),
        "merge": ("merge", "build the fused net's first weights from those of its sources"),
        "verify": ("verify", "compare the fused net with its sources, blob by blob"),
    },
    "train and judge": {
        "train": ("train", "train a net from its solver file, also towards reference nets"),
        "test": ("evaluate", "measure a trained net on data, and write its predictions"),
        "report": ("report", "show negative flips and other figures, as text, JSON and a page, and a gate for CI"),
    },
    "use the result": {
        "predict": ("predict", "classify images, also on a local web page"),
        "export": ("export", "write a trained net as an ONNX model"),
        "surgery": ("surgery", "fold, re-head, reshape, strip and average trained nets"),
    },
    "Caffe's Python": {"pycaffe": ("pycaffe", "run a script that was written for Caffe's Python module")},
    "files": {
        "show": ("show", "show a net, solver, weights or mean image, and draw a net's graph"),
        "convert": ("convert", "convert Caffe files to other forms, and make databases and mean images"),
    },
    "learn": {"tutorial": ("mnist_odd_even.tutorial", "fuse two LeNets on the included MNIST, command by command")},
    "shell": {"completion": ("completion", "print the script that completes commands and options in a shell")},
}
MODULES = {name: module for step in COMMANDS.values() for name, (module, _) in step.items()}
_END = "%(prog)s COMMAND --help describes a command; fusion-COMMAND is the same program."


def parser(prog: str = "fusion") -> CommandParser:
    """Build the command line without those of the commands."""
    lines = ["commands:"]
    for step, commands in COMMANDS.items():
        lines += ["", f"  {step}", *(f"    {name:<11} {purpose}" for name, (_, purpose) in commands.items())]
    return CommandParser(
        prog,
        usage="%(prog)s COMMAND ...",
        description="Fuse several trained Caffe or ONNX nets into one, train it, measure it and export it.",
        epilog="\n".join([*lines, "", _END]),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the chosen command; return its exit code, and 2 without a command or for an unknown one."""
    words = sys.argv[1:] if argv is None else argv
    usage = parser()
    if not words:
        usage.print_help(sys.stderr)
        return 2
    if words[0] not in MODULES:
        if words[0].startswith("-"):
            usage.parse_args(words[:1])
        usage.refuse(f"there is no command '{words[0]}'", words[0], MODULES)
    command: Callable[..., int] = import_module(f".{MODULES[words[0]]}", __package__).main
    return command(words[1:], f"{usage.prog} {words[0]}")


if __name__ == "__main__":
    raise SystemExit(main())
