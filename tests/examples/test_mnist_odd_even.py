"""The tutorial: its data as the recorded ones, and the whole of it in small."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from caffe_fusion_tools.mnist_odd_even import prepare
from PIL import Image

from fusion.pct import Predictions

EXAMPLE = Path(__file__).parents[2] / "examples" / "mnist_odd_even"


def test_checksums_are_those_of_the_readme() -> None:
    listed = dict(re.findall(r"`([\w-]+\.gz)` \| `([0-9a-f]{64})`", (EXAMPLE / "README.md").read_text()))
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (EXAMPLE / "data").glob("*.gz")}
    assert found == listed


HEADS = {
    "train_all": ["000000_5.jpg 5", "000001_0.jpg 0", "000002_4.jpg 4", "000003_1.jpg 1", "000004_9.jpg 9"],
    "train_odd": ["000000_5.jpg 2", "000003_1.jpg 0", "000004_9.jpg 4", "000006_1.jpg 0", "000007_3.jpg 1"],
    "test_all": ["000000_7.jpg 7", "000001_2.jpg 2", "000002_1.jpg 1", "000003_0.jpg 0", "000004_4.jpg 4"],
    "val_all": ["000000_3.jpg 3", "000001_8.jpg 8", "000002_6.jpg 6", "000003_9.jpg 9", "000004_6.jpg 6"],
}


def test_lists_and_images_are_the_recorded_ones(golden: Path, tmp_path: Path) -> None:
    prepare.prepare(tmp_path, limit=200)
    for name, head in HEADS.items():
        split = name.partition("_")[0]
        lines = (tmp_path / f"{name}.txt").read_text().splitlines()
        assert lines[:5] == [f"mnist/{split}/{line}" for line in head]
    images = np.load(golden / "tutorial" / "decoded_train_all_first5000.npz")["images"][:200]
    paths = [line.split()[0] for line in (tmp_path / "train_all.txt").read_text().splitlines()]
    assert all((np.asarray(Image.open(tmp_path / p)) == i).all() for p, i in zip(paths, images, strict=True))


def test_what_is_there_is_not_written_again(tmp_path: Path) -> None:
    prepare.prepare(tmp_path, limit=3)
    image = tmp_path / "mnist" / "train" / "000000_5.jpg"
    before = image.stat().st_mtime_ns
    prepare.prepare(tmp_path, limit=3)
    assert image.stat().st_mtime_ns == before


@pytest.mark.slow  # five processes that import torch; the tests of the commands hold each step
def test_the_tutorial_in_small(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-m", "fusion", "tutorial", "--work", str(tmp_path)]
    options = ["--limit", "300", "--iterations", "20", "--device", "cpu"]
    result = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    for name in ("rename", "compose", "merge", "verify", "train", "test", "report"):
        assert re.search(rf"^\$ .*\bfusion-{name} ", result.stdout, re.MULTILINE), name
    assert re.search(r"fused, trained with PCT +\d+\.\d\d %", result.stdout)
    assert {path.name for path in tmp_path.glob("*test.prototxt")} == {
        "lenet_odd_test.prototxt",
        "lenet_even_test.prototxt",
    }
    assert Predictions.load(tmp_path / "fused_pct.npz").keys[0].startswith("mnist/test/")
    assert (tmp_path / "report.html").stat().st_size > 1000
