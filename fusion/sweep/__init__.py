"""Many heads on one frozen trunk, trained together, to choose the loss, its weight, the rate and the seed.

result = sweep("solver.prototxt", {"loss": ["kd", "focal"], "weight": [0.001, 0.01], "seed": [1, 2, 3]},
               SweepOptions(references=["old.prototxt:old.caffemodel"], weights="init.caffemodel", output="sweep"))
result.best.name
"""

from __future__ import annotations

from fusion.sweep.choose_pct import choose_pct
from fusion.sweep.grid import Trial, cells, read_axes
from fusion.sweep.results import Entry, Result
from fusion.sweep.sweep import SweepOptions, sweep

__all__ = ["Entry", "Result", "SweepOptions", "Trial", "cells", "choose_pct", "read_axes", "sweep"]
