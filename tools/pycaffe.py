"""fusion-pycaffe: a script that was written for Caffe's Python module, run here."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from types import CodeType

from .cli import run_command
from .command_parser import CommandParser

_EPILOG = """examples:
  %(prog)s classify.py cat.jpg scores.npy --model_def deploy.prototxt --pretrained_model net.caffemodel
  %(prog)s train.py --solver solver.prototxt --gpu 0

`import caffe` finds fusion.pycaffe in the script, even where a Caffe is installed. Options after SCRIPT are the
script's. Scripts of Python 2 must be converted to Python 3 first, for instance with 2to3.
"""


def parser(prog: str = "fusion-pycaffe") -> CommandParser:
    """Build the command line."""
    result = CommandParser(
        prog,
        description="Run a script that was written for Caffe's Python module.",
        epilog=_EPILOG,
        usage="%(prog)s [-h] [--version] SCRIPT [ARG ...]",
    )
    result.add_argument("script", metavar="SCRIPT", help="the script")
    result.add_argument("arguments", metavar="ARG", nargs=argparse.REMAINDER, help="its arguments").required = False
    return result


def main(argv: Sequence[str] | None = None, prog: str = "fusion-pycaffe") -> int:
    """Run the script; return its exit code, 1 if it cannot be read or is of Python 2, 2 for bad usage."""
    arguments = parser(prog).parse_args(argv)
    codes: list[CodeType] = []

    def read() -> None:
        from fusion.pycaffe.script import compile_script

        codes.append(compile_script(arguments.script))

    try:
        failed: int = run_command(read)
    except SyntaxError as error:
        sys.excepthook(
            SyntaxError, error.with_traceback(None), None
        )  # without the lines of this command, as by `python SCRIPT`
        return 1
    return failed or _execute(codes[0], arguments.script, arguments.arguments)


def _execute(code: CodeType, path: str, arguments: Sequence[str]) -> int:
    """Run the script outside `run_command`: its errors are its own, with their traceback."""
    from fusion.pycaffe.script import execute_script, python2_note

    try:
        execute_script(code, path, arguments)
    except (Exception, KeyboardInterrupt) as error:
        inside = error.__traceback__
        while inside and inside.tb_frame.f_code is not code:  # those of this command
            inside = inside.tb_next
        sys.excepthook(type(error), error.with_traceback(inside), inside)
        if note := python2_note(error, path):
            print(f"note: {note}", file=sys.stderr)
        return 130 if isinstance(error, KeyboardInterrupt) else 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
