"""Lets the tests of this folder import their net, and puts them into a folder of their own with its weights."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from small_net import Small, trained


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Small:
    """The net, whose weights are in small.pth of the working folder, and whose class is in nets.py."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(Path(__file__).parent / "small_net.py", "nets.py")
    net = trained()
    torch.save(net.state_dict(), "small.pth")
    return net.eval()
