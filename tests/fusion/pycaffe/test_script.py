"""The compilation of scripts, with advice for those of Python 2."""

from __future__ import annotations

from pathlib import Path

import pytest

from fusion.errors import FusionError
from fusion.pycaffe.script import compile_script, python2_note

ADVICE = "2to3 -w {0} (Python 3.13 and later have no 2to3: pip install fissix, then fissix -w {0})"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("line", [
    'print "x"', "print x, y", "except ValueError, e:", 'raise ValueError, "x"', "mode = 0755", "n = 10L", "s = `n`",
    "a <> b", 'exec "x"', "s = ur'x'", "lambda (a, b): a",
])  # fmt: skip
def test_syntax_of_python_2(line: str) -> None:
    text = f"try:\n    pass\n{line}\n    pass\n" if line.startswith("except") else f"x = 1\n\n{line}\n"
    Path("script.py").write_text(text)
    with pytest.raises(FusionError) as error:
        compile_script("script.py")
    assert error.value.place == "script.py:3"
    assert error.value.message.startswith(f"this seems to be Python 2: {line} (")
    assert error.value.hint == f"convert it: {ADVICE.format('script.py')}"


def test_tabs_of_python_2() -> None:
    Path("script.py").write_text("if True:\n        x = 1\n\ty = 2\n")
    with pytest.raises(FusionError, match=r"seems to be Python 2: y = 2 \(inconsistent use of tabs"):
        compile_script("script.py")


def test_other_mistakes_and_sound_scripts() -> None:
    for text in ("x = (1\n", "print(x y)\n", "raise ValueError('a', \n", "for x in range(3) print(x)\n"):
        Path("script.py").write_text(text)
        with pytest.raises(SyntaxError):
            compile_script("script.py")
    Path("script.py").write_text("# coding: latin-1\nprint('x', 1)\n")
    assert compile_script("script.py").co_filename == str(Path("script.py").absolute())
    Path("script.py").write_text("def f(x: dict(a=1)): pass\nassert f.__annotations__ == {'x': {'a': 1}}\n")
    exec(compile_script("script.py"), {})


@pytest.mark.parametrize(("text", "name"), [
    ("xrange(3)", "xrange"), ("{}.iteritems()", "iteritems"), ("import cPickle", "cPickle"),
    ("from itertools import izip", "izip"), ("unknown", None), ("{}['xrange']", None), ("[].nothing", None),
])  # fmt: skip
def test_names_of_python_2(text: str, name: str | None) -> None:
    with pytest.raises((NameError, AttributeError, ImportError, KeyError)) as error:
        exec(text, {})
    note = f"'{name}' is of Python 2; convert it: {ADVICE.format('a.py')}"
    assert python2_note(error.value, "a.py") == (note if name else None)
