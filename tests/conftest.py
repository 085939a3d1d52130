"""What the tests share: where the recorded outputs of BVLC Caffe lie, and the optional third-party files."""

from __future__ import annotations

from pathlib import Path

import pytest

TESTS = Path(__file__).parent


@pytest.fixture(scope="session")
def golden() -> Path:
    """Outputs of BVLC Caffe that the project ships with its tests; never written to."""
    return TESTS / "golden"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Third-party material beside the checkout; tests that need it are skipped where it is absent."""
    folder = TESTS.parent.parent / "shared"
    if not folder.is_dir():
        pytest.skip("third-party files are not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def reference(shared: Path) -> Path:
    """Trained models and public prototxts, under their own licences, so never part of this project."""
    return shared / "reference"
