"""The example of class folders: its notebook runs, cell after cell, and fuses the two nets into one that knows all."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fusion.pct import Predictions

EXAMPLE = Path(__file__).parents[2] / "examples" / "class_folders"


@pytest.mark.slow  # trains two nets, then a whole job
def test_the_notebook_runs(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    cells = json.loads((EXAMPLE / "class_folders.ipynb").read_text(encoding="utf-8"))["cells"]
    assert not any(cell.get("outputs") for cell in cells)
    script = tmp_path / "cells.py"  # a file, as processes that read data import it again
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    body = "\n".join(f"    {line}" for line in code.split("\n"))
    script.write_text(f'if __name__ == "__main__":\n{body}\n', encoding="utf-8")
    environment = {**os.environ, "IMAGES_PER_CLASS": "60", "PYTHONPATH": str(EXAMPLE)}
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert re.search(r"photos/test/seven/\d+\.png is \w+", done.stdout)
    work = tmp_path / "work"
    job = (work / "job.toml").read_text(encoding="utf-8")
    assert 'classes = ["four", "one", "three", "two", "zero"]' in job
    assert 'classes = ["eight", "five", "nine", "seven", "six"]' in job
    assert not re.search(r"^# (pixels|classes) =", job, re.MULTILINE)
    low, high, new = (Predictions.load(work / "job" / f"{name}.npz") for name in ("low", "high", "pct/predictions"))
    assert [len(one) for one in (low, high, new)] == [200, 200, 200]
    # Half of the photos are of classes that low and high know; chance is 10 % of all.
    assert all(float(np.mean(one.right)) >= least for one, least in ((low, 0.4), (high, 0.4), (new, 0.6)))
    assert (work / "job" / "pct" / "deploy.onnx").stat().st_size > 10_000
