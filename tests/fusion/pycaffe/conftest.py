"""Fixtures of the tests of pycaffe's interface."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fusion.layers import pycaffe as blobs_module
from fusion.pycaffe import mode

sys.path.insert(0, str(Path(__file__).parent))  # for pycaffe_nets


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """No log, and no seed that another test has set."""
    monkeypatch.setattr(mode._mode, "log", 2)
    monkeypatch.setattr(mode._mode, "seeds", None)
    return


@pytest.fixture(params=["one memory", "two copies"])
def memory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Blobs as on a CPU, and with a copy for NumPy, as on a GPU."""
    monkeypatch.setattr(blobs_module, "has_copy", lambda tensor: request.param == "two copies")
    return request.param


@pytest.fixture
def prototxt_file(tmp_path: Path) -> Callable[..., str]:
    """A function that writes a prototxt and returns its path."""

    def write(text: str, name: str = "net.prototxt") -> str:
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write
