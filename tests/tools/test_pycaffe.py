"""fusion-pycaffe: scripts run as by `python SCRIPT`, but for the module that `import caffe` finds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from caffe_fusion_tools import pycaffe


def run(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fusion.pycaffe", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})


def script(folder: Path, text: str) -> Path:
    path = folder / "script.py"
    path.write_text(text)
    return path


def test_a_script_runs_as_the_main_program(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("value = 7\n")
    path = script(tmp_path, """
import sys, beside
import caffe, caffe.io
from caffe.proto import caffe_pb2
import fusion.pycaffe
print(sys.argv[1:], __name__, beside.value, sys.modules["__main__"].__dict__ is globals())
print(__file__ == sys.argv[0], caffe is fusion.pycaffe, caffe.io is fusion.pycaffe.io)
print(caffe.proto.caffe_pb2 is caffe_pb2, caffe.TEST)
sys.exit(3)
""")  # fmt: skip
    found = run(path, "--gpu", "0", "--help", "--", "x")
    assert found.stderr == ""
    assert found.stdout.splitlines() == [
        "['--gpu', '0', '--help', '--', 'x'] __main__ 7 True", "True True True", "True 1",
    ]  # fmt: skip
    assert found.returncode == 3


def test_another_caffe_is_not_hidden_from_other_programs(tmp_path: Path) -> None:
    (tmp_path / "caffe.py").write_text("mark = 1\n")
    code = "import fusion.pycaffe, caffe; print(caffe.mark)"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    assert subprocess.check_output([sys.executable, "-c", code], text=True, env=environment) == "1\n"
    path = script(tmp_path, "import caffe; print(caffe.__name__)")
    assert run(path, PYTHONPATH=str(tmp_path)).stdout == "fusion.pycaffe\n"


def test_an_error_of_the_script_has_its_traceback_alone(tmp_path: Path) -> None:
    path = script(tmp_path, "def f():\n    raise OSError(2, 'mine')\n\nf()\n")
    found = run(path)
    files = [line for line in found.stderr.splitlines() if line.startswith("  File")]
    assert files == [f'  File "{path}", line 4, in <module>', f'  File "{path}", line 2, in f']
    assert found.stderr.endswith("FileNotFoundError: [Errno 2] mine\n")
    assert found.returncode == 1


def test_a_mistake_of_syntax_is_shown_as_python_shows_it(tmp_path: Path) -> None:
    path = script(tmp_path, "x = (1\n")
    direct = subprocess.run([sys.executable, path], capture_output=True, text=True, check=False)
    found = run(path)
    assert (found.stderr, found.returncode) == (direct.stderr, direct.returncode)


@pytest.mark.parametrize("line", [
    'print "x"', "print x, y", "except ValueError, e:", 'raise ValueError, "x"', "mode = 0755", "n = 10L", "s = `n`",
    "a <> b", 'exec "x"', "s = ur'x'", "lambda (a, b): a",
])  # fmt: skip
def test_python_2_is_named_with_the_remedy(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    script(tmp_path, f"try:\n    pass\n{line}\n    pass\n" if line.startswith("except") else f"x = 1\n\n{line}\n")
    assert pycaffe.main(["script.py"]) == 1
    first, hint = capsys.readouterr().err.splitlines()
    assert first.startswith(f"error: script.py:3: this seems to be Python 2: {line} (")
    assert hint == (
        "  hint: convert it: 2to3 -w script.py (Python 3.13 and later have no 2to3: pip install fissix, then fissix -w "
        "script.py)"
    )


def test_tabs_of_python_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = script(tmp_path, "if True:\n        x = 1\n\ty = 2\n")
    assert pycaffe.main([str(path)]) == 1
    assert "this seems to be Python 2: y = 2 (inconsistent use of tabs" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "name"), [
    ("for i in xrange(3): pass", "xrange"), ("{}.iteritems()", "iteritems"), ("import cPickle", "cPickle"),
    ("from itertools import izip", None), ("nothing", None),
])  # fmt: skip
def test_names_of_python_2_get_a_note_after_the_traceback(text: str, name: str | None, tmp_path: Path) -> None:
    path = script(tmp_path, text)
    *trace, last = run(path).stderr.splitlines()
    if name:
        assert last.startswith(f"note: '{name}' is of Python 2; convert it: 2to3 -w {path}")
    assert f'  File "{path}", line 1, in <module>' in trace
    assert ("note" in last) == bool(name)


def test_bad_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        pycaffe.main([])
    assert "the following arguments are required: SCRIPT\n" in capsys.readouterr().err
    assert pycaffe.main(["no_such_script.py"]) == 1
    assert capsys.readouterr().err == "error: no_such_script.py: No such file or directory\n"
