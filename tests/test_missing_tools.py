"""Tests whose tools are missing are skipped, but fail where FUSION_CI=1 demands every tool."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import pytest
def test_tool(): pytest.skip("there is no Chromium")
def test_module(): pytest.importorskip("a_module_that_nobody_has")
def test_machine(): pytest.skip("needs a GPU")
def test_sound(): pass
"""
MODULE = 'import pytest; pytest.importorskip("a_module_that_nobody_has")'


@pytest.mark.parametrize(
    ("demand", "expected"), [("1", "2 failed, 1 passed, 1 skipped, 1 error"), ("0", "1 passed, 4 skipped")]
)
def test_a_missing_tool(tmp_path: Path, demand: str, expected: str) -> None:
    (tmp_path / "conftest.py").write_text((Path(__file__).parent / "conftest.py").read_text())
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "test_other.py").write_text(MODULE)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
    found = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "FUSION_CI": demand}, capture_output=True, text=True, check=False
    )
    summary = found.stdout.splitlines()[-1]
    assert summary.partition(" in ")[0] == expected, found.stdout
    assert found.returncode == int(demand)
