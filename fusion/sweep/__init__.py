"""Many heads on one frozen trunk, trained together: which loss, how strong, at which rate, from which start.

result = sweep("solver.prototxt", {"loss": ["kd", "focal"], "weight": [0.001, 0.01], "seed": [1, 2, 3]},
               references=["old.prototxt:old.caffemodel"], weights="init.caffemodel", out="sweep")
result.best.name
"""

from __future__ import annotations

from fusion.sweep.grid import Trial, cells, read_axes
from fusion.sweep.results import Entry, Result
from fusion.sweep.sweep import sweep

__all__ = ["Entry", "Result", "Trial", "cells", "read_axes", "sweep"]
