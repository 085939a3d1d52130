"""References' logits kept in half precision are off by its rounding, and no more."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fusion import build, save_weights
from fusion.pct.predictions import Predictions
from fusion.solver import Solver
from fusion.solver.logging.console import Silent

OLD = """
layer { name: "data" type: "ImageData" top: "data" top: "label"
  image_data_param { source: "train.txt" batch_size: 5 is_color: false } transform_param { scale: 0.01 } }
layer { name: "old" type: "InnerProduct" bottom: "data" top: "scores"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "scores" bottom: "label" top: "loss" }
"""


def test_half_a_cache_is_as_near_as_float16(project) -> None:  # type: ignore[no-untyped-def]
    solver: Path = project(snapshot=0)
    Path("old.prototxt").write_text(OLD)
    save_weights(build("old.prototxt", shapes={"data": (1, 1, 5, 6), "label": (1,)}, seed=5), "old.caffemodel")
    losses, kept = {}, {}
    for name, options in (("whole", ""), ("half", ",half")):
        reference = f"old.prototxt:old.caffemodel,cache={name}.npz{options}"
        made = Solver(solver, device="cpu", display=Silent(), references=[reference], pct=["kd"])
        losses[name] = made.step(3)
        kept[name] = Predictions.load(f"{name}.npz").logits
    assert kept["half"].dtype == np.float16
    assert kept["whole"].dtype == np.float32
    bound = 2.0**-11 * np.abs(kept["whole"]) + 2.0**-25  # half a unit in the last place; below 2^-14 a fixed step
    assert (np.abs(kept["half"].astype(np.float32) - kept["whole"]) <= bound).all()
    assert losses["half"] == pytest.approx(losses["whole"], rel=1e-2)
