"""The source distribution holds all of the repository that it should, and the wheel made from it works anywhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NOT_SHIPPED = (".ci/", ".github/", ".gitignore", ".dockerignore", ".pre-commit-config.yaml")
BUILD = "from setuptools import build_meta; print(build_meta.build_{}({!r}))"


def build(kind: str, source: Path, target: Path) -> Path:
    """Build an sdist or a wheel as package installers do, with the setuptools that is installed."""
    command = [sys.executable, "-c", BUILD.format(kind, str(target))]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return target / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return listed.stdout.splitlines()


@pytest.mark.slow  # builds and installs
def test_the_sdist_is_complete_and_its_wheel_works(tracked: list[str], tmp_path: Path) -> None:
    source, elsewhere = tmp_path / "source", tmp_path / "elsewhere"
    for name in tracked:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    with tarfile.open(build("sdist", source, tmp_path)) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
        archive.extractall(elsewhere)
    assert [name for name in tracked if name not in names and not name.startswith(NOT_SHIPPED)] == []
    wheel = build("wheel", next(elsewhere.iterdir()), tmp_path)
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site)]
    subprocess.run([*install, str(wheel)], check=True)
    environment = {**os.environ, "PYTHONPATH": str(site)}
    for command in sorted(
        entry.name for entry in entry_points(group="console_scripts") if "caffe_fusion" in entry.value
    ):
        help_text = [sys.executable, str(site / "bin" / command), "--help"]
        subprocess.run(help_text, cwd=tmp_path, env=environment, check=True, stdout=subprocess.DEVNULL)
    net = ROOT / "examples" / "mnist_odd_even" / "lenet_odd_train_val.prototxt"
    show = [sys.executable, str(site / "bin" / "fusion-show"), str(net), "--html", "net.html"]
    subprocess.run(show, cwd=tmp_path, env=environment, check=True, stdout=subprocess.DEVNULL)
    assert "conv1" in (tmp_path / "net.html").read_text(encoding="utf-8")
    small = ["tutorial", "--limit", "100", "--iterations", "2", "--device", "cpu"]
    subprocess.run([sys.executable, str(site / "bin" / "fusion"), *small], cwd=tmp_path, env=environment, check=True)
    assert "negative flips" in (tmp_path / "tutorial" / "report.html").read_text(encoding="utf-8")
    assert (tmp_path / "tutorial" / "fused" / "fused_pct_iter_4.caffemodel").exists()
    found = subprocess.run(
        [sys.executable, "-c", "import fusion; print(fusion.__file__)"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert Path(found.stdout.strip()).is_relative_to(site)
