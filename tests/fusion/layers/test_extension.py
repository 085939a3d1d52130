"""A layer type of a user's own, in ten lines, from a package that announces it by entry points."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCUMENT = Path(__file__).parents[3] / "docs" / "layers.md"
ENTRY_POINTS = """
[caffe_fusion.layers]
fade = fade_layer

[caffe_fusion.shapes]
fade = fade_layer
"""
USE = """
import fusion, prototxt, torch
from fusion.nets.build import params, total_loss
text = '''
layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "own" type: "Fade" bottom: "x" top: "y" loss_weight: 1 param { lr_mult: 2 } }
'''
net = fusion.build(prototxt.parse(text), "TRAIN", seed=0)
out = net({"x": torch.ones(2, 3)})
total_loss(net, out).backward()
print(float(out["y"].detach().sum()), float(params(net)["own"][0].grad))
"""


def example() -> str:
    """The ten lines of the document."""
    found = re.search(r"```python\n(# fade_layer\.py\n.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return found.group(1)


def test_the_document_s_layer_has_ten_lines() -> None:
    lines = [line for line in example().splitlines() if line.strip() and not line.startswith(("#", "from", "import"))]
    assert len(lines) == 10


@pytest.mark.slow
def test_an_installed_package_brings_its_layer(tmp_path: Path) -> None:
    (tmp_path / "fade_layer.py").write_text(example())
    folder = tmp_path / "fade_layer-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: fade-layer\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(ENTRY_POINTS)
    root = str(DOCUMENT.parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), root])}
    result = subprocess.run([sys.executable, "-c", USE], capture_output=True, text=True, env=environment, check=False)
    assert result.stdout.split() == ["3.0", "6.0"], result.stderr
