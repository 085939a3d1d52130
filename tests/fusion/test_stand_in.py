"""`import caffe` finds fusion.pycaffe, on request only, as the same modules."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fusion.stand_in import stand_in

INSTALLED = "VERSION = 'the real one'\n"


def run(code: str, path: Path) -> str:
    (path / "caffe").mkdir()
    (path / "caffe" / "__init__.py").write_text(INSTALLED)
    (path / "caffe" / "io.py").write_text(INSTALLED)
    code = f"import sys; sys.path.insert(0, {str(path)!r})\n{code}"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_installed_it_replaces_a_real_caffe_and_its_submodules(tmp_path: Path) -> None:
    code = """
import caffe.io
from fusion.stand_in import install
install(); install()
import caffe, caffe.mode, fusion.pycaffe.mode
from caffe import mode
print(caffe is fusion.pycaffe, mode is caffe.mode is fusion.pycaffe.mode is sys.modules["caffe.mode"])
print(caffe.__spec__.name, mode.__spec__.name, len([f for f in sys.meta_path if type(f).__name__ == "_Finder"]))
"""
    assert run(code, tmp_path) == "True True\nfusion.pycaffe fusion.pycaffe.mode 1\n"


def test_for_a_block_it_leaves_a_real_caffe_as_it_was(tmp_path: Path) -> None:
    code = """
import caffe.io
real = caffe
from fusion.stand_in import stand_in
with stand_in():
    import caffe.mode
    inside = caffe
    with stand_in(): import caffe
    print(caffe is inside)
import caffe, caffe.io
print(caffe is real, caffe.io.VERSION, inside.TEST, "caffe.mode" in sys.modules)
"""
    assert run(code, tmp_path) == "True\nTrue the real one 1 False\n"


def test_a_module_that_caffe_lacks_is_an_import_error() -> None:
    with stand_in(), pytest.raises(ModuleNotFoundError, match=r"caffe\.nothing"):
        __import__("caffe.nothing")
