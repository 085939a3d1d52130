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


def test_python_2_is_named_before_the_script_runs_or_after_its_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pycaffe.main([str(script(tmp_path, 'print(1)\nprint "x"\n'))]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 2)
    assert f"{tmp_path}/script.py:2: this seems to be Python 2" in err
    *trace, last = run(script(tmp_path, "for i in xrange(3): pass")).stderr.splitlines()
    assert f'  File "{tmp_path}/script.py", line 1, in <module>' in trace
    assert last.startswith("note: 'xrange' is of Python 2; convert it: 2to3 -w ")


def test_bad_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        pycaffe.main([])
    assert "the following arguments are required: SCRIPT\n" in capsys.readouterr().err
    assert pycaffe.main(["no_such_script.py"]) == 1
    assert capsys.readouterr().err == "error: no_such_script.py: No such file or directory\n"
