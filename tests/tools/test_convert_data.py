"""fusion-convert images and fusion-convert mean, as users meet them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from caffe_fusion_tools import convert, convert_data

FOLDER = Path(__file__).parents[1] / "golden" / "formats" / "data"
ROOT = f"{FOLDER}/img/"


@pytest.mark.parametrize("kind", ["--lmdb", "--leveldb"])
def test_images_then_mean(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    database, mean = str(tmp_path / "db"), tmp_path / "mean.binaryproto"
    assert convert.main(["images", str(FOLDER / "list.txt"), ROOT, database, kind]) == 0
    assert convert.main(["mean", database, str(mean)]) == 0
    assert mean.read_bytes() == (FOLDER / "mean.binaryproto").read_bytes()
    assert "the mean of 5 records" in capsys.readouterr().out


def test_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--lmdb", "--resize", "8x9", "--gray", "--encoded", "--shuffle", "--check-size"]
    assert convert.main(["images", str(FOLDER / "list6.txt"), ROOT, str(tmp_path / "db"), *arguments]) == 0
    assert convert.main(["mean", str(tmp_path / "db"), str(tmp_path / "mean")]) == 0
    capsys.readouterr()
    assert convert.main(["images", str(FOLDER / "list6.txt"), ROOT, str(tmp_path / "db"), "--lmdb"]) == 1
    assert "this exists already" in capsys.readouterr().err


def test_unequal_sizes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["images", str(FOLDER / "list6.txt"), ROOT, str(tmp_path / "db"), "--lmdb", "--check-size"]
    assert convert.main(arguments) == 1
    assert "list6.txt:6: this image is" in capsys.readouterr().err
    assert convert.main([*arguments, "--on-bad-record", "skip"]) == 0
    assert "1 records could not be read and were left out" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["256", "0x3", "axb"])
def test_bad_usage(text: str, tmp_path: Path, misused: Callable[..., object]) -> None:
    misused(convert_data.main, ["images", "list", "", str(tmp_path / "db"), "--lmdb", "--resize", text])


def test_help_imports_nothing_heavy() -> None:
    import subprocess
    import sys

    code = "import sys\nfrom caffe_fusion_tools import convert_data\nconvert_data.parser().format_help()\n"
    code += "print({'torch', 'numpy', 'google.protobuf'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
