"""Run a script that was written for pycaffe as `python SCRIPT` does, with this package as its `caffe`."""

from __future__ import annotations

import builtins
import os
import re
import sys
from collections.abc import Sequence
from types import CodeType, ModuleType

from fusion.errors import FusionError
from fusion.stand_in import install

_REMEDY = "convert it: 2to3 -w {0} (Python 3.13 and later have no 2to3: pip install fissix, then fissix -w {0})"
_OLD_MESSAGES = re.compile("Missing parentheses in call|exception types must be parenthesized|leading zeros|of tabs")
_OLD_SYNTAX = re.compile(
    r"^\s*(print|exec)\s+[^\s(=]|^\s*raise\s+[\w.]+\s*,|\bexcept\b[^:(]*,|\blambda\s*\(|`|<>|\d[lL]\b|\bur['\"]"
)
_OLD_NAMES = """
    basestring cmp execfile file ifilter imap izip izip_longest long raw_input reduce reload unichr unicode xrange
    has_key iteritems iterkeys itervalues __builtin__ ConfigParser cPickle cStringIO httplib Queue StringIO Tkinter
    urllib2 urlparse
"""


def compile_script(path: str) -> CodeType:
    """Compile a script. Raises: FusionError for Python 2, SyntaxError for other mistakes, OSError."""
    with open(path, "rb") as file:
        source = file.read()
    try:
        return compile(source, os.path.abspath(path), "exec", dont_inherit=True)
    except SyntaxError as error:
        line = (error.text or "").strip()
        if not _OLD_MESSAGES.search(error.msg) and not _OLD_SYNTAX.search(line):
            raise
        message = f"this seems to be Python 2: {line} ({error.msg})"
        raise FusionError(message, place=f"{path}:{error.lineno}", hint=_REMEDY.format(path)) from error


def execute_script(code: CodeType, path: str, arguments: Sequence[str]) -> None:
    """Run a compiled script as the main program of this process; its errors pass."""
    install()
    main = ModuleType("__main__")
    main.__dict__.update(__file__=os.path.abspath(path), __builtins__=builtins)
    sys.modules["__main__"] = main
    sys.argv = [path, *arguments]
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = os.path.dirname(os.path.realpath(path))
    exec(code, main.__dict__)


def python2_note(error: BaseException, path: str) -> str | None:
    """Return a note on an error about a name that only Python 2 has, None for other errors."""
    if not isinstance(error, NameError | AttributeError | ImportError):
        return None
    old = _OLD_NAMES.split()
    name = next((name for name in re.findall(r"'(\w+)'", str(error)) if name in old), None)
    return f"'{name}' is of Python 2; {_REMEDY.format(path)}" if name else None
