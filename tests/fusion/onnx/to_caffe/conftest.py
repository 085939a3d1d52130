"""Lets the tests of this folder import their helpers, and the graphs of the other folder."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "graphs")]
